"""ONNX Runtime: the engine is the ONNX file itself, after it gave finite scores on the providers asked for."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ArtifactError, ToolchainError
from ..engine import file_of
from ..types import Model, Pixels, Probe, Scores

_FILE = "model.onnx"
_FIX = "python3 -m pip install onnxruntime"
_NEWER = ("max supported IR version", "only *guarantees* support for models stamped", "opset")
_ERRORS_ONLY = 3
_ABOUT_BYTES = 16 * 1024
_HALF = b"robustdeploy.precision\x12\x04fp16"
"""The entry of a file in 16-bit floats: its key, and its value behind protobuf's tag and length."""
_SUFFIX = "ExecutionProvider"
_CPU = "cpu"
_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_OWN_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    # TF32 keeps 10 bits of the mantissa and is on by default: near-ties then get another class than in float32.
    "cuda": {"use_tf32": "0"},
}
_WHOLE = ("int", "uint", "bool")


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime with the providers that are asked for; what falls back to another is refused."""

    # The file would load anywhere, but what was tried here are the kernels of this architecture.
    TIED_TO: ClassVar[tuple[str, ...]] = ("machine",)
    BUILDS_ON_HOST: ClassVar[bool] = True
    threads: int = 1
    """Threads inside one operator; 1 gives the steadiest latency."""
    providers: tuple[str, ...] = (_CPU,)
    """In order of preference: ``cpu``, ``cuda``, ``tensorrt``, ``xnnpack`` and others. The first must run nodes of the
    net; only shape computations may run on the CPU where ``cpu`` is not among them."""
    provider_options: dict[str, dict[str, bool | int | str]] = field(default_factory=dict)
    """Options of each provider by its name, as ONNX Runtime documents them."""
    graph_optimization: Literal["none", "basic", "extended", "all"] = "all"
    """How far ONNX Runtime may rewrite the graph."""

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 1024:
            raise ValueError("onnxruntime needs threads from 0 (all cores) to 1024")
        if self.graph_optimization not in _LEVELS:
            raise ValueError(f"onnxruntime needs a graph_optimization of {', '.join(_LEVELS)}")
        named = isinstance(self.providers, (list, tuple)) and all(isinstance(name, str) for name in self.providers)
        if not named or not self.providers or len({*map(short_name, self.providers)}) < len(self.providers):
            raise ValueError("onnxruntime needs one or more providers, each once, such as [cuda, cpu]")
        if strange := sorted({*map(short_name, self.provider_options)} - {*map(short_name, self.providers)}):
            raise ValueError(f"onnxruntime has provider_options for {strange[0]}, which is not among its providers")

    @property
    def _asked(self) -> list[str]:
        return [short_name(name) for name in self.providers]

    def probe(self) -> Probe:
        """Say which ONNX Runtime is installed here, and which providers it has."""
        try:
            runtime = _runtime()
        except ToolchainError as error:
            return Probe(usable=False, fix=str(error))
        there = [short_name(name) for name in runtime.get_available_providers()]
        details = {"providers": there}
        if lacking := [name for name in self._asked if name not in there]:
            listed = ", ".join(sorted(there))
            fix = f"this ONNX Runtime has no provider {lacking[0]} (it has: {listed}); {_fix(lacking[0])}"
            return Probe(usable=False, version=runtime.__version__, fix=fix, details=details)
        return Probe(usable=True, version=runtime.__version__, details=details)

    def compile(self, onnx: Path, engine: Path) -> None:
        """Copy ``onnx`` into ``engine`` once it has loaded and its scores for plain images are finite."""
        session, _ = self._opened(onnx)
        # Some faults only show when a net runs: a missing kernel, or numbers that overflow.
        shape = _image_shape(session, onnx)
        plain = np.stack([np.full(shape, level, np.float32) for level in (0.0, 0.5, 1.0)])
        scores = _Session(session)(plain)
        if scores.ndim != 2 or len(scores) != 3 or not scores.size or not np.isfinite(scores).all():
            raise ArtifactError(f"{onnx.name} gives scores of shape {scores.shape}, or not finite, for 3 plain images")
        shutil.copyfile(onnx, engine / _FILE)

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote for scoring."""
        session, runs = self._opened(file_of(engine, _FILE))
        yield _Session(session, runs)

    def load(self, onnx: Path) -> Model:
        """Load one ONNX file for scoring, whether or not it is an engine's; what runs it is not read back."""
        session = self._session(onnx)
        _image_shape(session, onnx)
        return _Session(session)

    def _opened(self, onnx: Path) -> tuple[Any, Mapping[str, Any]]:
        """Load a file and read back which provider runs each node; ToolchainError where that is not what was asked."""
        with tempfile.TemporaryDirectory() as folder:
            session = self._session(onnx, Path(folder) / "profile")
            # Run once, since the session itself tells the providers that it has and not those that run its nodes.
            _Session(session)(np.zeros((1, *_image_shape(session, onnx)), np.float32))
            nodes = nodes_in(Path(session.end_profiling()).read_bytes())
        check_providers(self._asked, nodes)
        counts = Counter(f"{node.provider} {node.kind}" for node in nodes)
        by_provider = Counter(node.provider for node in nodes)
        return session, {"providers": dict(by_provider), "nodes": dict(counts)}

    def _session(self, path: Path, profile: Path | None = None) -> Any:
        runtime = _runtime()
        providers = self._pairs(runtime.get_available_providers())
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # A second pool would run independent branches beside each other and make latency depend on free cores.
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[self.graph_optimization])
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        try:
            # Else it would go on with fewer providers where one fails, and say so on standard output alone.
            return runtime.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0, disabled_optimizers=_left_out(path)
            )
        except Exception as error:  # the runtime's own exceptions share no base class but Exception
            words = " ".join(str(error).replace(str(path), path.name).split())
        said = f"ONNX Runtime {runtime.__version__} cannot load {path.name}: {words[-300:]}"  # the reason ends it
        if any(mark in words for mark in _NEWER):
            raise ToolchainError(f"{said}; install a newer one or export with a lower opset")
        if self._asked != [_CPU]:
            OnnxRuntime().load(path)  # raises where it is the file's fault
            raise ToolchainError(f"{said}; the CPU loads it, so look at the provider {self._asked[0]} and its options")
        raise ArtifactError(said)

    def _pairs(self, available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        """Return the providers that are asked for by ONNX Runtime's own names, each with its options."""
        there = {short_name(name): name for name in available}
        given = {short_name(name): options for name, options in self.provider_options.items()}
        pairs = []
        for name in self._asked:
            if name not in there:
                raise ToolchainError(f"this ONNX Runtime has no provider {name}; {_fix(name)}")
            options = {**_OWN_DEFAULTS.get(name, {}), **given.get(name, {})}
            pairs.append((there[name], {key: _text(value) for key, value in options.items()}))
        return pairs


class _Session:
    def __init__(self, session: Any, runs: Mapping[str, Any] | None = None) -> None:
        self._session = session
        self.runs = runs or {}
        """Which provider runs how many nodes of which kind."""

    def __call__(self, images: Pixels) -> Scores:
        """Run the session on one batch."""
        scores: Scores = self._session.run(["scores"], {"images": np.ascontiguousarray(images)})[0]
        return scores


def short_name(provider: str) -> str:
    """Return ``cuda`` of ``CUDAExecutionProvider``."""
    return provider.removesuffix(_SUFFIX).lower()


@dataclass(frozen=True)
class Node:
    """A node of the graph as it ran."""

    kind: str
    """Its operator, or what a provider calls the part of the graph that it took over."""
    provider: str
    is_shape: bool
    """Whether it gives a few whole numbers, as the computation of a shape does."""


def nodes_in(profile: bytes) -> list[Node]:
    """Read the nodes that ran from ONNX Runtime's profile."""
    found = []
    for event in json.loads(profile):
        told = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in told:
            types = [(kind, shape) for each in told.get("output_type_shape", []) for kind, shape in each.items()]
            is_shape = bool(types) and all(kind.startswith(_WHOLE) and len(shape) < 2 for kind, shape in types)
            found.append(Node(told.get("op_name", "?"), short_name(told["provider"]), is_shape))
    return found


def check_providers(asked: Sequence[str], nodes: Sequence[Node]) -> None:
    """Raise ToolchainError where the first provider ran nothing, or nodes fell back to one that was not asked for."""
    first, listed = asked[0], ", ".join(asked)
    # ONNX Runtime adds the CPU on its own. It computes shapes there for every provider, which costs next to nothing.
    fell = [node for node in nodes if node.provider not in asked and not node.is_shape]
    idle = not any(node.provider == first for node in nodes)
    if not fell and not idle:
        return
    counts = Counter(f"{node.kind} on {node.provider}" for node in (fell or nodes))
    worst = ", ".join(f"{count} {what}" for what, count in counts.most_common(4))
    if idle:
        said = f"providers are {listed}, but {first} ran none of the {len(nodes)} nodes: {worst}"
        raise ToolchainError(f"{said}; {_fix(first)}, and see that its libraries load")
    share = f"{len(fell)} of the {len(nodes)} nodes that ran ({100 * len(fell) / len(nodes):.0f} %) fell back: {worst}"
    raise ToolchainError(f"providers are {listed}, but {share}; list those providers too if that is meant")


_PACKAGES = {
    _CPU: _FIX,
    "cuda": "python3 -m pip install onnxruntime-gpu",
    "tensorrt": "python3 -m pip install onnxruntime-gpu",
    "openvino": "python3 -m pip install onnxruntime-openvino",
    "qnn": "python3 -m pip install onnxruntime-qnn",
    "dml": "python3 -m pip install onnxruntime-directml",
}


def _fix(provider: str) -> str:
    return _PACKAGES.get(provider, f"install a build of ONNX Runtime that has {provider}")


def _text(value: bool | int | str) -> str:
    # Every provider reads 1 and 0; not all read Python's True and False.
    return str(int(value)) if isinstance(value, bool) else str(value)


def _left_out(path: Path) -> list[str]:
    """Return the optimisers that must not see this file."""
    try:
        with path.open("rb") as file:
            # What a file says of itself stands at its end; its graph, which may be large, is not looked at.
            file.seek(max(0, path.stat().st_size - _ABOUT_BYTES))
            half = _HALF in file.read()
    except OSError:
        return []  # told when it is loaded
    # Through 1.31 it joins a transposition and a product in 16 bits into one that has no kernel, and the process dies.
    return ["MatmulTransposeFusion"] if half else []


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
