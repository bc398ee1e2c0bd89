"""TensorRT: build an engine from ONNX on the board's GPU and score images with it.

Contract-tested, not run on hardware: building is checked against TensorRT-RTX, which builds without a GPU, and every
name used against the published API; scoring has not been executed. Versions 10.3 (JetPack 6) to 11.x share one path:
the network is strongly typed, so precision is what the ONNX graph says and no builder flag changes it.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...errors import ArtifactError, ToolchainError, UsageError
from .. import cuda
from ..engine import file_of
from ..inspected import layers_from
from ..installing import to_install
from ..types import PARTS, Model, Pixels, Probe, Scores

_FILE = "engine.plan"
_LAYERS = "layers.json"
_TIMINGS = "timing.cache"
# JetPack 6 comes with it. TensorRT 11 knows strongly typed networks alone, so no other kind is built anywhere.
_OLDEST = (10, 3)
_FIX = (
    "install TensorRT 10.3 or newer for this interpreter: on a Jetson it comes with JetPack 6 (package "
    f"python3-libnvinfer, seen by the system's python3), elsewhere {to_install('tensorrt', 'tensorrt')}"
)


@dataclass(frozen=True)
class Tensorrt:
    """NVIDIA TensorRT. Engines are tied to this GPU and this version, so they are built where they run."""

    # Kernels are chosen by timing them on this very GPU, under this driver.
    TIED_TO: ClassVar[tuple[str, ...]] = ("machine", "board_model", "gpu", "capability", "driver")
    max_batch: int = 64
    """Largest batch of one execution; larger batches are scored in chunks."""
    tune_batch: int = 1
    """Batch the kernels are chosen for: the one whose latency matters."""
    workspace_mib: int = 0
    """Most scratch memory a kernel may use; 0 leaves the toolchain's own limit."""
    level: int = 3
    """How long to search for kernels, 0 to 5."""
    tf32: bool = False
    """Let float32 products run in TF32 (10-bit mantissas), which NVIDIA allows by default and we do not."""
    timing_cache: str = ""
    """File on the board that keeps kernel timings between builds; empty keeps none."""
    timing_cache_sha256: str = ""
    """Pins that file: another content, or a kernel whose timing is not in it, is an error, and it is never written."""

    def __post_init__(self) -> None:
        if self.timing_cache_sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.timing_cache_sha256):
            raise UsageError(f"timing_cache_sha256 is {self.timing_cache_sha256[:80]!r}; it is 64 digits in lower case")
        if self.timing_cache_sha256 and not self.timing_cache:
            raise UsageError("timing_cache_sha256 pins a file that timing_cache must name, and that is empty")
        if not 1 <= self.tune_batch <= self.max_batch:
            raise UsageError(f"tune_batch is {self.tune_batch}; it must be 1 to max_batch, which is {self.max_batch}")
        if not 0 <= self.level <= 5 or self.workspace_mib < 0:
            raise UsageError(f"level is {self.level} (0 to 5) and workspace_mib is {self.workspace_mib} (0 or more)")

    def probe(self) -> Probe:
        """Say which TensorRT, CUDA runtime and GPU are here, or what is missing and how to mend it."""
        version = ""
        try:
            trt = toolchain()
            version = str(trt.__version__)
            runtime = cuda.load()
            details = {
                "cuda": runtime.version(),
                "driver": runtime.driver(),
                "gpus": runtime.devices(),
                "gpu": runtime.name(),
                "capability": runtime.capability(),
            }
        except ToolchainError as error:
            return Probe(usable=False, version=version, fix=str(error))
        return Probe(usable=True, version=version, details=details)

    def compile(self, onnx: Path, engine: Path) -> None:
        """Build the engine for the first GPU here."""
        trt = toolchain()
        # Asked first: without a GPU the builder fails later, with words that do not say so.
        cuda.load().devices()
        built = build(trt, _read(onnx), self)
        # Which kernels were chosen cannot be told later where the engine no longer loads.
        layers = _inspected(trt, built.engine)
        (engine / _FILE).write_bytes(built.engine)
        (engine / _LAYERS).write_text(layers or "{}")
        if built.timings:
            (engine / _TIMINGS).write_bytes(built.timings)

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote onto the GPU; ArtifactError where it was built elsewhere or is not an engine."""
        trt = toolchain()
        data = _read(file_of(engine, _FILE))
        runs = layers_from(_read(file_of(engine, _LAYERS)))
        runtime = cuda.load()
        runtime.devices()
        with _loaded(trt, data, runtime, runs) as scorer:
            yield scorer


def toolchain(name: str = "tensorrt") -> Any:
    """Import TensorRT; ToolchainError with the fix where it is missing, broken or too old."""
    try:
        trt = importlib.import_module(name)
    except Exception as error:  # a wheel without its libraries raises FileNotFoundError, OSError or ImportError
        raise ToolchainError(f"TensorRT cannot be imported ({type(error).__name__}: {error}); {_FIX}") from error
    if not hasattr(trt, "Builder") or not hasattr(trt, "__version__"):  # e.g. type stubs, importable as a namespace
        raise ToolchainError(f"a package named {name} is here but holds no TensorRT; {_FIX}")
    if version_tuple(trt.__version__) < _OLDEST:
        raise ToolchainError(f"TensorRT {trt.__version__} is too old; {_FIX}")
    return trt


def version_tuple(version: str) -> tuple[int, ...]:
    """Turn ``10.3.0.26`` or ``10.3.0.post1`` into the numbers it starts with."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


class Built(NamedTuple):
    """What the builder gave."""

    engine: bytes
    timings: bytes
    """The timing cache as it was used or as it became; empty where none is kept."""


def build(trt: Any, onnx: bytes, plan: Tensorrt, prepare: Callable[[Any], None] | None = None) -> Built:
    """Build an engine from ONNX bytes with the module ``trt``.

    ``prepare`` may finish the builder's configuration: products that build without a GPU must be told which to build
    for. ArtifactError carries the parser's words, ToolchainError the builder's.
    """
    words = _words(trt)
    words.lines.clear()
    builder = _made(lambda: trt.Builder(words), "a builder", words)
    # Weak typing lets the builder lower precision by itself: the engine would not be the net that was attacked on the
    # host.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, words)
    if not parser.parse(onnx) or not network.num_outputs:  # an empty file parses, into nothing
        told = "; ".join(_told(parser.get_error(index)) for index in range(parser.num_errors))
        raise ArtifactError(f"TensorRT {trt.__version__} cannot read the ONNX graph: {told or words.told()}")
    config = builder.create_builder_config()
    _configure(trt, builder, network, config, plan)
    if prepare:
        prepare(config)
    pinned = plan.timing_cache_sha256 and pinned_timings(plan)
    timings = _pinned(trt, config, pinned, plan) if pinned else _timings(config, plan)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        hint = f"; the pinned {plan.timing_cache} may lack a kernel of this net" if pinned else ""
        raise ToolchainError(f"TensorRT {trt.__version__} could not build an engine: {words.told()}{hint}")
    if pinned or timings is None:
        return Built(bytes(blob), pinned or b"")
    kept = bytes(timings.serialize())
    Path(plan.timing_cache).write_bytes(kept)
    return Built(bytes(blob), kept)


def _told(fault: Any) -> str:
    where = f" (node {fault.node_name()!r}, operator {fault.node_operator()!r})" if fault.node_operator() else ""
    return f"{fault.desc()}{where}"


def _configure(trt: Any, builder: Any, network: Any, config: Any, plan: Tensorrt) -> None:
    config.builder_optimization_level = plan.level
    # Else an engine tells the names of its layers and not which kernels, in which precision, they became.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 is on by default and keeps 10 bits of the mantissa; near-ties then get another class than in float32.
    if not plan.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if plan.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib << 20)
    profile = builder.create_optimization_profile()
    shapes = {tensor.name: tuple(tensor.shape) for tensor in (network.get_input(i) for i in range(network.num_inputs))}
    for name, shape in shapes.items():
        profile.set_shape(name, *profile_shapes(shape, plan.tune_batch, plan.max_batch))
    if config.add_optimization_profile(profile) < 0:
        raise ToolchainError(f"TensorRT {trt.__version__} refused the profile for {shapes}: {_words(trt).told()}")


Shape = tuple[int, ...]


def profile_shapes(shape: Shape, tune: int, most: int) -> tuple[Shape, Shape, Shape]:
    """Return the smallest, the tuned and the largest shape of an input whose batch is free (-1) or fixed."""
    if not shape or any(size < 1 for size in shape[1:]):
        raise ArtifactError(f"an input has shape {shape}; only the first dimension, the batch, may be free")
    # TensorRT chooses kernels for the middle shape and guarantees no more than that the others run.
    batches = (1, tune, most) if shape[0] == -1 else (shape[0],) * 3
    return (batches[0], *shape[1:]), (batches[1], *shape[1:]), (batches[2], *shape[1:])


def _timings(config: Any, plan: Tensorrt) -> Any:
    if not plan.timing_cache:
        return None
    file = Path(plan.timing_cache)
    kept = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    # A cache of another device would choose kernels by timings that were never true here.
    if kept is None or not config.set_timing_cache(kept, ignore_mismatch=False):
        # It was kept for another GPU or version: start anew.
        kept = config.create_timing_cache(b"")
        config.set_timing_cache(kept, ignore_mismatch=False)
    return kept


def pinned_timings(plan: Tensorrt) -> bytes:
    """Return the timing cache that is pinned; ToolchainError where it is missing or another."""
    file, fix = Path(plan.timing_cache), "put the pinned file there or change timing_cache_sha256"
    if not file.is_file():
        raise ToolchainError(f"the pinned timing cache {file} is not on the board; {fix}")
    data = file.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != plan.timing_cache_sha256:
        raise ToolchainError(f"{file} has hash {found}, and {plan.timing_cache_sha256} is pinned; {fix}")
    return data


def _pinned(trt: Any, config: Any, data: bytes, plan: Tensorrt) -> Any:
    # A kernel that is timed anew may win on one day and lose on another: the engine would not be the pinned one.
    config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    kept = config.create_timing_cache(data)
    if kept is None or not config.set_timing_cache(kept, ignore_mismatch=False):
        told = f"TensorRT {trt.__version__} refused the pinned {plan.timing_cache}: {_words(trt).told()}"
        raise ToolchainError(f"{told}; it was kept for another GPU or version, so build without the pin and pin anew")
    return kept


def _inspected(trt: Any, data: bytes) -> str:
    """Return what the engine's layers became, in the inspector's JSON."""
    inspector = _deserialised(trt, data).create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


@cache
def _words(trt: Any) -> Any:
    """Return the listener that keeps TensorRT's last complaints; one per module, which keeps the first it is given."""

    class Words(trt.ILogger):  # type: ignore[misc]
        # pybind11 asks classes that extend C++ ones to call the base's constructor by name and not through `super()`.
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.lines.append(message)

        def told(self) -> str:
            return "; ".join(self.lines) or "it gave no reason"

    return Words()


def _made(make: Callable[[], Any], what: str, words: Any) -> Any:
    """Call a factory of the toolchain, which raises or returns None where there is no GPU."""
    try:
        made, reason = make(), ""
    except Exception as error:
        made, reason = None, f" ({error})"
    if made is None:
        raise ToolchainError(f"TensorRT could not make {what}: {words.told()}{reason}")
    return made


def _deserialised(trt: Any, data: bytes) -> Any:
    words = _words(trt)
    words.lines.clear()
    # An engine may carry host code (plug-in libraries); the runtime refuses it unless told otherwise, and is not told.
    loader = _made(lambda: trt.Runtime(words), "a runtime", words)
    # An engine is executable code. The store has checked its hash, and TensorRT's own check finds no tampering.
    engine = loader.deserialize_cuda_engine(data)
    if engine is None:
        raise ArtifactError(
            f"TensorRT {trt.__version__} refused the engine: {words.told()}; engines are tied to the GPU and to the "
            "version that built them, so compile it again here"
        )
    return engine


@contextmanager
def _loaded(trt: Any, data: bytes, runtime: cuda.Cuda, runs: Mapping[str, Any]) -> Iterator[Scorer]:
    words, engine = _words(trt), _deserialised(trt, data)
    # Names, types and sizes come from the engine itself; the buffers below must fit them exactly.
    ends = ends_of(trt, engine)
    context = _made(engine.create_execution_context, "an execution context", words)
    with ExitStack() as held:
        stream = held.enter_context(runtime.stream())
        images = held.enter_context(runtime.pinned((ends.most, *ends.image)))
        scores = held.enter_context(runtime.pinned((ends.most, ends.classes)))
        addresses = [held.enter_context(runtime.device_memory(array.nbytes)) for array in (images, scores)]
        for name, address in ((ends.input, addresses[0]), (ends.output, addresses[1])):
            if not context.set_tensor_address(name, address):
                raise ToolchainError(f"TensorRT refused the buffer of {name}: {words.told()}")
        scorer = Scorer(runtime, context, ends, images, scores, addresses[0], addresses[1], stream, words, runs)
        held.callback(scorer.close)
        yield scorer


@dataclass(frozen=True)
class Ends:
    """Input and output of an engine, and the batches it takes."""

    input: str
    output: str
    image: Shape
    classes: int
    least: int
    most: int


def ends_of(trt: Any, engine: Any) -> Ends:
    """Read the ends of an engine; ArtifactError unless it maps float32 images to one row of scores each."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(f"the engine has inputs {inputs} and outputs {outputs}; one of each is expected")
    if odd := [name for name in names if engine.get_tensor_dtype(name) != trt.DataType.FLOAT]:
        raise ArtifactError(f"the engine's {odd[0]} is {engine.get_tensor_dtype(odd[0])}; both ends must be float32")
    least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(inputs[0], 0))
    rows = tuple(engine.get_tensor_shape(outputs[0]))
    if len(most) != 4 or len(rows) != 2 or rows[1] < 1:
        raise ArtifactError(f"the engine maps {most} to {rows}; expected N×C×H×W images and N×classes scores")
    return Ends(inputs[0], outputs[0], most[1:], rows[1], least[0], most[0])


def chunks(count: int, least: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``count`` images into executions: start, stop and the batch to run, which padding may make larger."""
    for start in range(0, count, most):
        stop = min(start + most, count)
        yield start, stop, max(stop - start, least)


@dataclass
class Scorer:
    """An engine on the GPU with its buffers. Images → scores, in chunks of at most the engine's largest batch."""

    runtime: cuda.Cuda
    context: Any
    ends: Ends
    images: Pixels
    scores: Scores
    images_at: int
    scores_at: int
    stream: int
    words: Any
    runs: Mapping[str, Any] = field(default_factory=dict)
    """Which kinds of layers run in which precision."""
    batch: int = 0
    closed: bool = False

    def __call__(self, images: Pixels) -> Scores:
        """Return one row of scores per image."""
        if self.closed:
            raise UsageError("this engine is closed; open it again before scoring")
        if images.ndim != 4 or images.shape[1:] != self.ends.image:
            raise UsageError(f"the engine reads N×{'×'.join(map(str, self.ends.image))} images, not {images.shape}")
        scores = np.empty((len(images), self.ends.classes), np.float32)
        for start, stop, batch in chunks(len(images), self.ends.least, self.ends.most):
            scores[start:stop] = self._run(images[start:stop], batch)
        return scores

    def split(self, images: Pixels) -> Mapping[str, int]:
        """Score once and return what the two copies and the computation took on the GPU, in nanoseconds."""
        found = dict.fromkeys(PARTS, 0)
        with ExitStack() as held:
            moments = [held.enter_context(self.runtime.event()) for _ in range(len(PARTS) + 1)]
            for start, stop, batch in chunks(len(images), self.ends.least, self.ends.most):
                self._run(images[start:stop], batch, moments)
                for part, before, after in zip(PARTS, moments, moments[1:], strict=False):
                    found[part] += self.runtime.between_ns(before, after)
        return found

    def _run(self, images: Pixels, batch: int, moments: Sequence[int] = ()) -> Scores:
        self.images[: len(images)] = images
        # Whatever an earlier batch left there could overflow, and padding must not change a score through a fault.
        self.images[len(images) : batch] = 0
        self._pin(batch)
        marks = iter(moments)
        self._mark(marks)
        self.runtime.to_device(self.images_at, self.images[:batch], self.stream)
        self._mark(marks)
        if not self.context.execute_async_v3(self.stream):
            raise ToolchainError(f"TensorRT could not run a batch of {batch}: {self.words.told()}")
        self._mark(marks)
        self.runtime.to_host(self.scores[:batch], self.scores_at, self.stream)
        self._mark(marks)
        # Everything above was only queued. Without waiting the scores of the batch before would be returned.
        self.runtime.wait(self.stream)
        return self.scores[: len(images)]

    def _mark(self, moments: Iterator[int]) -> None:
        if (moment := next(moments, None)) is not None:
            self.runtime.mark(moment, self.stream)

    def _pin(self, batch: int) -> None:
        """Fix the input's shape; only where it changes, since TensorRT plans anew each time."""
        if batch == self.batch:
            return
        if not self.context.set_input_shape(self.ends.input, (batch, *self.ends.image)):
            raise ToolchainError(f"TensorRT refused a batch of {batch}: {self.words.told()}")
        self.batch = batch

    def close(self) -> None:
        """Let go of the execution context and refuse further calls, since the buffers are about to be freed."""
        self.closed, self.context = True, None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error


plugin = Tensorrt
