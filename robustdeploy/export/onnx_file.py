"""Turn a compact torch net into an ONNX file: normalisation inside, free batch, ``images`` in and ``scores`` out."""

from __future__ import annotations

import copy
import gc
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import onnx
import torch
from torch import nn

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import OnnxMetadata, write_metadata
from robustdeploy.export.translations import translations
from robustdeploy.nets.normalised import Normalised

MOST_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which ends at 2 GiB; the graph itself takes some of that."""


def export_onnx(
    net: nn.Module, image_shape: tuple[int, int, int], path: Path, opset: int, metadata: OnnxMetadata, doc: str = ""
) -> None:
    """Write ``net`` to ``path``. Raises ArtifactError when the exporter cannot follow the net's forward pass."""
    _check_size(net)
    # `cpu`, `float` and `eval` change a module in place, and the net is still needed as it is.
    net = copy.deepcopy(net).cpu().float().eval()
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, *image_shape)
    try:
        with _quiet(), _no_collection():
            program = torch.onnx.export(
                _Named(net),
                (images,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1, max=65536)},),
                # One file: weights beside it could be exchanged without changing the hash of the graph.
                external_data=False,
                custom_translation_table=translations(),
            )
    except Exception as problem:  # foreign code may raise anything
        raise ArtifactError(f"this {_name(net)} cannot be exported to ONNX: {_reason(problem)}") from problem
    assert program is not None
    model = program.model_proto
    write_metadata(model, metadata, image_shape[0], doc)
    _name_batch(model)
    _forget_sources(model)
    # protobuf gives no order to maps otherwise, and equal nets could have different hashes.
    content = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(content)
    atomic_write_bytes(path, content)


class _Named(nn.Module):
    """Puts every parameter and buffer below a name of its own: the exporter calls results by their operators.

    The buffer ``mean`` of ``Normalised`` would else be taken for the mean of a weight that it computed beforehand.
    """

    def __init__(self, exported: nn.Module) -> None:
        super().__init__()
        self.exported = exported

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.exported(images)
        return scores


def _check_size(net: nn.Module) -> None:
    # Beforehand: protobuf refuses only the finished file, with words that name no size.
    size = sum(tensor.numel() * 4 for tensor in (*net.parameters(), *net.buffers()))
    if size >= MOST_BYTES:
        raise ArtifactError(
            f"this {_name(net)} cannot be exported to ONNX: its weights take {size / 1e9:.2f} GB in float32, and "
            "a file holds less than 2.15 GB; take a smaller net"
        )


def _name(net: nn.Module) -> str:
    """Return what a user calls the net; what normalises its pixels is ours."""
    return type(net.net if isinstance(net, Normalised) else net).__name__


_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_NO_TRANSLATION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_NO_OVERLOAD = re.compile(r"Cannot find a compatible OpOverload for ([\w.]+)")
_NOT_FOLLOWED = "UnsupportedOperatorException"
"""What torch raises for an operator whose sizes it cannot work out by itself."""
_BY_VALUES = ("GuardOnDataDependentSymNode", "DataDependentOutputException")


def _reason(problem: BaseException) -> str:
    """Return the one sentence that says what stands in the way, and what to do; torch hides it behind its advice."""
    # torch wraps the cause into several errors of its own and puts advice about itself on top.
    chain = [problem]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for each in chain:
        if (found := _NO_TRANSLATION.search(str(each))) is not None:
            return f"torch's '{found.group(1)}' has no ONNX form; write that step with other operators"
        if type(each).__name__ == _NOT_FOLLOWED:
            name = str(each).split()[0].removesuffix(".default")
            return f"torch's '{name}' has no ONNX form; write that step with other operators"
        if type(each).__name__ in _BY_VALUES:
            return "its forward pass decides by computed values; write that decision with torch.where"
    if "SymbolicTensor" in str(chain[-1]):
        return (
            "an operator in it is given a number that follows from the number of images, such as the groups of a "
            "convolution, and ONNX needs a fixed one there; write that step for each image alike"
        )
    if (found := _NO_OVERLOAD.search(str(chain[-1]))) is not None:
        return f"torch's '{found.group(1)}' has no ONNX form for what it is given; write that step with other operators"
    told = [line for line in _ESCAPES.sub("", str(chain[-1])).splitlines() if line.strip()]
    first = told[0].strip()[:200] if told else ""
    return f"{type(chain[-1]).__name__}: {first}; its forward pass must be plain tensor code on any number of images"


def _name_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        # The exporter may name the free batch by a symbol of its own; what is promised to readers of the file is N.
        value.type.tensor_type.shape.dim[0].dim_param = "N"


def _forget_sources(model: onnx.ModelProto) -> None:
    """Take out where in which source file each node comes from.

    The file goes to boards and to other people, and these are paths and lines of the machine that exported it. With
    them, the same net would also have another hash in each folder that this package is installed in.
    """
    held = [model.graph, *model.functions]
    nodes = [node for each in held for node in each.node]
    for part in (*nodes, *held, *(value for each in held for value in each.value_info)):
        kept = [entry for entry in part.metadata_props if not entry.key.endswith("stack_trace")]
        if len(kept) < len(part.metadata_props):
            kept = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in kept]
            del part.metadata_props[:]
            part.metadata_props.extend(kept)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Leave Python's collector off: it would look at all that torch's exporter makes again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own talk off the terminal; its errors still arrive as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
