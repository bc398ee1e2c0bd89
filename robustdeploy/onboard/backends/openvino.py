"""OpenVINO on the CPU: the engine is OpenVINO's own graph (IR), written once its scores were finite."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ArtifactError, ToolchainError
from ..antialiasing import left_out
from ..engine import file_of
from ..installing import to_install
from ..types import Model, Pixels, Probe, Scores

_GRAPH, _WEIGHTS = "model.xml", "model.bin"
_FIX = to_install("openvino", "openvino")
_RESIZE = "Interpolate"
_CONVERTER = "openvino.tools.ovc"
_NOISE = re.compile(r"(Exception from|Check '|FrontEnd API failed|Model wasn't fully).*|-- .* with a message:")
"""Lines in which OpenVINO says where in its source it found a fault, and not which."""
_WRITER = ["OpenVINO Runtime"]
"""Where an IR tells the version that wrote it."""


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO with its CPU plugin."""

    # The graph would load anywhere, but what was tried here are the kernels of this architecture.
    TIED_TO: ClassVar[tuple[str, ...]] = ("machine",)
    BUILDS_ON_HOST: ClassVar[bool] = True
    threads: int = 1
    """Threads of one execution; 1 gives the steadiest latency, 0 takes all cores."""
    precision_hint: Literal["f32", "bf16", "f16"] = "f32"
    """What float layers may compute in where the CPU can; anything but ``f32`` lets scores depend on the CPU."""
    performance_hint: Literal["latency", "throughput"] = "latency"
    """What OpenVINO chooses its defaults for."""
    batch: int = 1
    """Images of one execution. Others are cut into such, the last filled up; `latency.batch` should be the same."""

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 1024:
            raise ValueError("openvino needs threads from 0 (all cores) to 1024")
        if not 1 <= self.batch <= 65536:
            raise ValueError("openvino needs a batch from 1 to 65536")
        # The agent on a board checks no types, and a hint that OpenVINO does not know would be refused in its words.
        if self.precision_hint not in ("f32", "bf16", "f16"):
            raise ValueError("openvino needs a precision_hint of f32, bf16 or f16")
        if self.performance_hint not in ("latency", "throughput"):
            raise ValueError("openvino needs a performance_hint of latency or throughput")

    def probe(self) -> Probe:
        """Say which OpenVINO is installed here."""
        try:
            toolchain = _toolchain()
            core = toolchain.Core()
            devices = list(core.available_devices)
        except (ToolchainError, RuntimeError) as error:
            return Probe(usable=False, fix=str(error))
        version = _version(toolchain)
        if "CPU" not in devices:
            return Probe(usable=False, version=version, fix=f"{_FIX} (this one has no CPU plugin)")
        capabilities = list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return Probe(usable=True, version=version, details={"devices": devices, "capabilities": capabilities})

    def compile(self, onnx: Path, engine: Path) -> None:
        """Write the graph of ``onnx`` into ``engine`` once it has loaded and its scores for plain images are finite."""
        toolchain = _toolchain()
        graph = _read(toolchain, "onnx", onnx)
        # Its CPU kernels resize without it and say nothing, so the engine would be another net.
        if any(node.get_attributes().get("antialias") for node in graph.get_ops() if node.get_type_name() == _RESIZE):
            raise left_out(f"OpenVINO {_version(toolchain)}", onnx.name)
        _name_constants(graph)
        # Some faults only show when a net runs: a missing kernel, or numbers that overflow.
        shape = _image_shape(graph, onnx)
        plain = np.stack([np.full(shape, level, np.float32) for level in (0.0, 0.5, 1.0)])
        scores = self._loaded(toolchain, graph.clone(), shape, onnx)(plain)
        if not np.isfinite(scores).all():
            raise ArtifactError(f"{onnx.name} gives scores that are not finite for 3 plain images")
        # OpenVINO would else round the weights to float16, and the engine would be another net.
        toolchain.save_model(graph, str(engine / _GRAPH), compress_to_fp16=False)

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote for scoring on the CPU."""
        toolchain = _toolchain()
        file_of(engine, _WEIGHTS)  # the reader of the graph looks for it beside that
        graph = _read(toolchain, "ir", file_of(engine, _GRAPH))
        writer = str(graph.get_rt_info(_WRITER).value) if graph.has_rt_info(_WRITER) else "another toolchain"
        if writer != toolchain.get_version():
            found = f"was written by {writer}, and OpenVINO {toolchain.get_version()} is here"
            raise ArtifactError(f"{_GRAPH} {found}; compile it again here")
        yield self._loaded(toolchain, graph, _image_shape(graph, engine / _GRAPH), engine / _GRAPH)

    def _loaded(self, toolchain: Any, graph: Any, shape: tuple[int, int, int], path: Path) -> _Request:
        settings = {
            "PERFORMANCE_HINT": self.performance_hint.upper(),
            "INFERENCE_PRECISION_HINT": self.precision_hint,
            "INFERENCE_NUM_THREADS": self.threads,
            # One image after another is asked for here, so further streams would only share out the threads.
            "NUM_STREAMS": 1,
            # Else OpenVINO quantises the activations of layers with compressed weights on its own.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            # Else every process on a machine takes the same first core, whatever runs there.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            # Kernels for one fixed batch are faster, and an image's scores cannot depend on how many came with it.
            graph.reshape({"images": [self.batch, *shape]})
            return _Request(toolchain.Core().compile_model(graph, "CPU", settings), path)
        except RuntimeError as error:
            said = f"OpenVINO {_version(toolchain)} cannot run {path.name}: {_words(error, path)}"
            raise ArtifactError(said) from None


class _Request:
    """A compiled graph with its buffers, for batches of one size."""

    def __init__(self, compiled: Any, path: Path) -> None:
        self._request = compiled.create_infer_request()
        self._input = self._request.get_tensor("images")
        self._output = self._request.get_tensor("scores")
        self._batch = self._input.shape[0]
        shape = list(self._output.shape)
        if len(shape) != 2 or shape[0] != self._batch or shape[1] < 1:
            raise ArtifactError(f"{path.name} gives scores of shape {shape} for {self._batch} images")
        self.runs = _runs(compiled)
        """What really runs, as the compiled graph tells."""

    def __call__(self, images: Pixels) -> Scores:
        """Score a batch of any size."""
        if images.shape[1:] != tuple(self._input.shape)[1:]:
            expected = "×".join(map(str, list(self._input.shape)[1:]))
            raise ArtifactError(f"the engine reads N×{expected} images, not {images.shape}")
        scores = np.empty((len(images), self._output.shape[1]), np.float32)
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            # OpenVINO's own tensors: passing arrays to `infer` costs a small net a third of its time.
            self._input.data[: len(part)] = part
            # What an earlier batch left there must not reach these images by any way.
            self._input.data[len(part) :] = 0
            self._request.infer(share_outputs=True)
            scores[start : start + self._batch] = self._output.data[: len(part)]
        return scores


def _runs(compiled: Any) -> Mapping[str, Any]:
    """Count what each layer runs as: its kind, precision and kernel."""
    layers: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        told = node.get_rt_info()
        kind, precision, kernel = (str(told[name].value) for name in ("layerType", "runtimePrecision", "primitiveType"))
        if kind not in ("Const", "Input", "Output"):
            layers[f"{kind} {precision} {kernel}"] += 1
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"precision_hint": hint, "threads": compiled.get_property("INFERENCE_NUM_THREADS"), "layers": dict(layers)}


def _toolchain() -> Any:
    """Import OpenVINO without its converter, whose import writes into the user's home and reports to its makers."""
    # By name, since the agent must start on boards that have another toolchain alone. OpenVINO itself goes on where
    # its converter cannot be imported; a converter that somebody else has imported stays.
    keep = _CONVERTER in sys.modules
    if not keep:
        sys.modules[_CONVERTER] = None  # type: ignore[assignment]
    try:
        toolchain = importlib.import_module("openvino")
        if not hasattr(toolchain, "Core"):
            raise ImportError("the package named openvino holds no Core")
        return toolchain
    except (ImportError, OSError) as error:
        raise ToolchainError(f"OpenVINO cannot be used: {error}; {_FIX}") from None
    finally:
        if not keep:
            del sys.modules[_CONVERTER]


def _version(toolchain: Any) -> str:
    """Return ``2026.4.1`` of ``2026.4.1-22982-e213a147257-releases/2026/4``."""
    return str(toolchain.get_version()).partition("-")[0]


def _read(toolchain: Any, frontend: str, path: Path) -> Any:
    """Read a file as one format; `Core.read_model` would try all that it knows and tell none of the reasons."""
    try:
        reader = toolchain.frontend.FrontEndManager().load_by_framework(frontend)
        return reader.convert(reader.load(str(path)))
    except Exception as error:  # RuntimeError and several of its own, which share no base class
        said = f"OpenVINO {_version(toolchain)} cannot load {path.name}: {_words(error, path)}"
        raise ArtifactError(said) from None


def _words(error: Exception, path: Path) -> str:
    """Return what OpenVINO said, without the places in its source and the path of the file."""
    words = " ".join(_NOISE.sub("", line).strip() for line in str(error).splitlines()).replace(str(path), path.name)
    return " ".join(words.split())[:300] or "it gave no reason"


def _name_constants(graph: Any) -> None:
    """Number the names that OpenVINO made up anew, so that a net gives the same files however many came before it."""
    for index, node in enumerate(graph.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{index}")


def _image_shape(graph: Any, path: Path) -> tuple[int, int, int]:
    """Channels, height and width of the input ``images``; ArtifactError unless it is N×C×H×W float32 with N free."""
    inputs, outputs = ([name for port in ports for name in port.names] for ports in (graph.inputs, graph.outputs))
    if inputs != ["images"] or "scores" not in outputs:
        raise ArtifactError(f"{path.name} maps {inputs} to {outputs}; a net for boards maps 'images' to 'scores'")
    shape, kind = graph.input("images").get_partial_shape(), graph.input("images").get_element_type()
    fixed = len(shape) == 4 and all(size.is_static and size.get_length() > 0 for size in list(shape)[1:])
    if not fixed or shape[0].is_static or kind.to_string() != "f32":
        found = f"{kind.to_string()} of {shape}"
        raise ArtifactError(f"{path.name} takes {found}; it must take float32 N×C×H×W with N free")
    channels, height, width = (size.get_length() for size in list(shape)[1:])
    return channels, height, width


plugin = OpenVino
