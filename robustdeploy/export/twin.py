"""Twin: an ONNX graph as a torch net with gradients, so that what is deployed in low precision can be attacked.

Rounding passes its gradient straight through: to whole steps in a quantised graph, to 16 bits in a half-precision one
(Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013). How far a twin is from the
runtime that it stands for is measured, never assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from robustdeploy.errors import ArtifactError
from robustdeploy.export.torch_operators import OPERATORS, half_through


@dataclass(frozen=True)
class _Step:
    """One node, ready to run."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    halves: frozenset[str]
    """Outputs that are 16-bit floats."""


class Twin(nn.Module):
    """From pixels in [0, 1], N×C×H×W, to scores, N×K, by the nodes of an ONNX graph."""

    def __init__(self, model: onnx.ModelProto, trainable: bool = False) -> None:
        """Read ``model``; ArtifactError where it has an operator without a torch form.

        With ``trainable`` the weights and biases of its products are parameters; otherwise all that hangs on weights
        alone is computed once.
        """
        super().__init__()
        graph = model.graph
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._places: dict[str, str] = {}
        self._held = 0
        learning = _weights(graph) if trainable else frozenset[str]()
        for tensor in graph.initializer:
            self._hold(tensor.name, _tensor(tensor), tensor.name in learning)
        for node in graph.node:
            if node.op_type == "Constant":
                self._hold(node.output[0], _constant(node))
        self._steps = tuple(_steps(model))
        if not trainable:
            self._fold()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The initializers of the graph, by their names there."""
        return {name: getattr(self, place) for name, place in self._places.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of ``images``."""
        values: dict[str, Any] = {"": None, self._input: images}
        values |= self.weights
        for step in self._steps:
            values.update(_outcome(step, values))
        scores: Tensor = values[self._output]
        return scores

    def _hold(self, name: str, tensor: Tensor, trainable: bool = False) -> None:
        # Names in a graph may hold dots, which torch takes for modules.
        self._places[name] = place = f"value_{self._held}"
        self._held += 1
        if trainable:
            self.register_parameter(place, nn.Parameter(tensor))
        else:
            self.register_buffer(place, tensor)

    def _fold(self) -> None:
        known: dict[str, Any] = {"": None, **self.weights}
        left = []
        with torch.no_grad():
            for step in self._steps:
                if all(name in known for name in step.inputs):
                    known.update(_outcome(step, known))
                else:
                    left.append(step)
        needed = {name for step in left for name in step.inputs} | {self._output}
        self._steps = tuple(left)
        for name in [name for name in self._places if name not in needed]:
            delattr(self, self._places.pop(name))
        for name in needed - {"", *self._places}:
            if name in known:
                self._hold(name, known[name])


_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def _weights(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the initializers that products are computed with, behind any rounding of them."""
    made = {name: node for node in graph.node for name in node.output}
    known, found = {tensor.name for tensor in graph.initializer}, set()
    for node in graph.node:
        for name in node.input if node.op_type in _PRODUCTS else ():
            while name in made and made[name].op_type in _ROUNDING:
                name = made[name].input[0]
            found.add(name)
    return frozenset(found & known)


def load_twin(path: Path) -> Twin:
    """Return the twin of the ONNX file at ``path``, in eval mode; ArtifactError where there is none."""
    return Twin(onnx.load(path)).eval()


def _outcome(step: _Step, values: dict[str, Any]) -> dict[str, Any]:
    try:
        found = OPERATORS[step.operator]([values[name] for name in step.inputs], step.attributes)
    except NotImplementedError as error:
        raise ArtifactError(f"there is no torch form of {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"the ONNX operator {step.operator} is used in a way that torch has no form of: {error}"
        ) from error
    several = found if isinstance(found, tuple | list) else (found,)
    told = {name: value for name, value in zip(step.outputs, several, strict=False) if name}
    return {name: half_through(value) if name in step.halves else value for name, value in told.items()}


def _steps(model: onnx.ModelProto) -> Iterator[_Step]:
    halves = _half_values(model)
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            name = f"{node.domain}.{node.op_type}".lstrip(".")
            raise ArtifactError(f"there is no torch form of the ONNX operator {name}")
        if "value" in attributes:
            attributes["value"] = numpy_helper.to_array(attributes["value"])
        rounded = frozenset(name for name in node.output if name in halves)
        yield _Step(node.op_type, tuple(node.input), tuple(node.output), attributes, rounded)


def _half_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of values that are 16-bit floats."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }


def _constant(node: onnx.NodeProto) -> Tensor:
    (given,) = node.attribute
    value = helper.get_attribute_value(given)
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return torch.tensor(value, dtype=torch.float32 if "float" in given.name else torch.int64)


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    array = numpy_helper.to_array(tensor)
    # 16-bit weights are the same numbers in 32 bits, and gradients need the room.
    return torch.from_numpy(np.array(array.astype(np.float32) if array.dtype == np.float16 else array))
