"""ONNX Runtime on the CPU: the engine is the ONNX file itself, after it was loaded and gave finite scores."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import ArtifactError, ToolchainError
from ..engine import file_of
from ..types import Model, Pixels, Probe, Scores

_FILE = "model.onnx"
_FIX = "python3 -m pip install onnxruntime"
_NEWER = ("max supported IR version", "only *guarantees* support for models stamped", "opset")
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with its CPU provider."""

    # The file would load anywhere, but what was tried here are the kernels of this architecture.
    TIED_TO: ClassVar[tuple[str, ...]] = ("machine",)
    BUILDS_ON_HOST: ClassVar[bool] = True
    threads: int = 1
    """Threads inside one operator; 1 gives the steadiest latency."""

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 1024:
            raise ValueError("onnxruntime needs threads from 0 (all cores) to 1024")

    def probe(self) -> Probe:
        """Say which ONNX Runtime is installed here."""
        try:
            runtime = _runtime()
        except ToolchainError as error:
            return Probe(usable=False, fix=str(error))
        providers = runtime.get_available_providers()
        if "CPUExecutionProvider" not in providers:
            return Probe(usable=False, version=runtime.__version__, fix=f"{_FIX} (this one has no CPU provider)")
        return Probe(usable=True, version=runtime.__version__, details={"providers": list(providers)})

    def compile(self, onnx: Path, engine: Path) -> None:
        """Copy ``onnx`` into ``engine`` once it has loaded and its scores for plain images are finite."""
        session = self._session(onnx)
        # Some faults only show when a net runs: a missing kernel, or numbers that overflow.
        shape = _image_shape(session, onnx)
        plain = np.stack([np.full(shape, level, np.float32) for level in (0.0, 0.5, 1.0)])
        scores = _Session(session)(plain)
        if scores.ndim != 2 or len(scores) != 3 or not scores.size or not np.isfinite(scores).all():
            raise ArtifactError(f"{onnx.name} gives scores of shape {scores.shape}, or not finite, for 3 plain images")
        shutil.copyfile(onnx, engine / _FILE)

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote for scoring on the CPU."""
        yield self.load(file_of(engine, _FILE))

    def load(self, onnx: Path) -> Model:
        """Load one ONNX file for scoring on the CPU, whether or not it is an engine's."""
        session = self._session(onnx)
        _image_shape(session, onnx)
        return _Session(session)

    def _session(self, path: Path) -> Any:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # A second pool would run independent branches beside each other and make latency depend on free cores.
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions share no base class but Exception
            words = " ".join(str(error).replace(str(path), path.name).split())
            said = f"ONNX Runtime {runtime.__version__} cannot load {path.name}: {words[-300:]}"  # the reason ends it
            if any(mark in words for mark in _NEWER):
                raise ToolchainError(f"{said}; install a newer one or export with a lower opset") from None
            raise ArtifactError(said) from None


class _Session:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, images: Pixels) -> Scores:
        """Run the session on one batch."""
        scores: Scores = self._session.run(["scores"], {"images": np.ascontiguousarray(images)})[0]
        return scores


def _runtime() -> Any:
    """Import ONNX Runtime, quiet and without telemetry."""
    # Only this keeps the import itself from writing a device's id into the user's home, and a store of events to send.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        # By name, since the agent must start on boards that have another toolchain alone.
        runtime = importlib.import_module("onnxruntime")
        # The wheel carries telemetry, and a board's measurements are nobody else's business.
        runtime.disable_telemetry_events()
        runtime.set_default_logger_severity(_ERRORS_ONLY)
    except (ImportError, OSError, AttributeError) as error:
        raise ToolchainError(f"ONNX Runtime cannot be used: {error}; {_FIX}") from None
    return runtime


def _image_shape(session: Any, path: Path) -> tuple[int, int, int]:
    """Channels, height and width of the input ``images``; ArtifactError unless it is N×C×H×W float32 with N free."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [i.name for i in inputs] != ["images"] or "scores" not in [o.name for o in outputs]:
        names = f"{[i.name for i in inputs]} to {[o.name for o in outputs]}"
        raise ArtifactError(f"{path.name} maps {names}; a net for boards maps 'images' to 'scores'")
    shape = inputs[0].shape
    fixed = len(shape) == 4 and all(isinstance(n, int) and n > 0 for n in shape[1:]) and not isinstance(shape[0], int)
    if not fixed or inputs[0].type != "tensor(float)":
        found = f"{inputs[0].type} of shape {shape}"
        raise ArtifactError(f"{path.name} takes {found}; it must take float32 N×C×H×W with N free")
    return shape[1], shape[2], shape[3]


plugin = OnnxRuntime
