"""Twin: an ONNX graph as a torch net with gradients, so that what is deployed as a file alone can be attacked.

Rounding passes its gradient straight through: to whole steps in a quantised graph, to 16 bits in a half-precision one
(Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013). How far a twin is from the
runtime that it stands for is measured, never assumed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from robustdeploy.errors import ArtifactError
from robustdeploy.nets.torch_operators import FLATTENING, OPERATORS, half_through


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
        """Read ``model``; ArtifactError where what its first output hangs on has an operator without a torch form.

        With ``trainable`` the weights and biases of its products are parameters; otherwise all that hangs on weights
        alone is computed once.
        """
        super().__init__()
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        graph = model.graph
        # Files of old exporters list weights among the inputs.
        known = {tensor.name for tensor in graph.initializer}
        self._input = next(value.name for value in graph.input if value.name not in known)
        self._output = graph.output[0].name
        self._places: dict[str, str] = {}
        self._held = 0
        nodes = _behind(graph, self._output)
        read = {name for node in nodes for name in node.input}
        learning = _weights(graph) if trainable else frozenset[str]()
        for tensor in graph.initializer:
            if tensor.name in read:
                self._hold(tensor.name, _tensor(tensor), tensor.name in learning)
        for node in nodes:
            if node.op_type == "Constant":
                self._hold(node.output[0], _constant(node))
        self._steps = tuple(_steps(model, nodes))
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

    def without(self, operators: Sequence[str], passed: Sequence[str]) -> Twin | None:
        """Return a twin with the same weights whose last node among ``operators`` hands its input on.

        Only nodes of ``passed`` may stand behind it, one after the other; None where there is no such node.
        """
        made = {name: step for step in self._steps for name in step.outputs}
        name, left_out = self._output, []
        while (step := made.get(name)) is not None:
            left_out.append(step)
            if step.operator in operators:
                break
            if step.operator not in passed:
                return None
            name = step.inputs[0]
        else:
            return None
        other = copy.copy(self)
        # Behind it, steps of rounding are steps between probabilities.
        passing = [step for step in left_out if step.operator in (*operators, *ROUNDING)]
        other._steps = tuple(replace(step, operator="Identity") if step in passing else step for step in self._steps)
        return other

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


_SMALL_FLOATS = (
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E5M2,
)
_WIDER: Mapping[int, type[np.generic]] = {
    **dict.fromkeys(_SMALL_FLOATS, np.float32),
    TensorProto.INT4: np.int8,
    TensorProto.UINT4: np.uint8,
}
"""In what weights of fewer bits are held: they are the same numbers there, and gradients need the room."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def _weights(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the initializers that products are computed with, behind any rounding of them."""
    made = {name: node for node in graph.node for name in node.output}
    known, found = {tensor.name for tensor in graph.initializer}, set()
    for node in graph.node:
        for name in node.input if node.op_type in _PRODUCTS else ():
            while name in made and made[name].op_type in ROUNDING:
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


def _behind(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that ``output`` hangs on, each after those that it reads; a file may have them in any order."""
    nodes = list(graph.node)
    made = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    found: dict[int, onnx.NodeProto] = {}
    stack = [made[output]] if output in made else []
    while stack:
        node = nodes[stack[-1]]
        waiting = [made[name] for name in node.input if name in made and made[name] not in found]
        if waiting:
            stack.extend(waiting)
        else:
            found[stack[-1]] = node
            stack.pop()
    return list(found.values())


def _steps(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> Iterator[_Step]:
    halves, opset = _half_values(model), opset_of(model)
    for node in nodes:
        if node.op_type == "Constant":
            continue
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        name = operator_name(node)
        if name not in OPERATORS:
            raise ArtifactError(f"there is no torch form of the ONNX operator {name}")
        if "value" in attributes:
            attributes["value"] = numpy_helper.to_array(attributes["value"])
        if opset < 13 and name in FLATTENING:
            attributes["flatten"] = True
        if name == "Split":
            attributes.setdefault("num_outputs", len(node.output))
        rounded = frozenset(name for name in node.output if name in halves)
        yield _Step(name, tuple(node.input), tuple(node.output), attributes, rounded)


def operator_name(node: onnx.NodeProto) -> str:
    """Return a node's operator; with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model is written in."""
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)


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
    return torch.from_numpy(np.array(array.astype(_WIDER.get(tensor.data_type, array.dtype))))
