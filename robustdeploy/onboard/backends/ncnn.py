"""ncnn on the CPU: the engine is ncnn's own graph and weights, converted from ONNX by pnnx."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import ArtifactError, ToolchainError
from ..draws import Draws, key
from ..engine import file_of
from ..installing import to_install
from ..onnx_ends import image_shape
from ..types import Model, Pixels, Probe, Scores
from .onnxruntime import OnnxRuntime

_GRAPH, _WEIGHTS = "net.param", "net.bin"
_FIX = to_install("ncnn", "ncnn")
_CONVERTER_FIX = f"{to_install('pnnx', 'ncnn')}, or set build_on to host and install it there"
_IMAGES, _SCORES = "images.npy", "scores.npy"
_ANOTHER = 1e-2
"""Share of the largest score: Winograd's way to convolve stays far below it, and another net does not."""
_MAGIC = "7767517"
_SHAPE = re.compile(r"^Input .* 0=(\d+) 1=(\d+) 2=(\d+)$", re.MULTILINE)
_EVERY = re.compile(
    r"Tensor\.slice +(\S+) .* dims=\(2,3\) ends=\((?:2147483647|9223372036854775807),\d{10,}\) .*"
    r"starts=\(0,0\) steps=\((\d+),\2\)"
)
"""A cut that takes every n-th row and column of a feature map, from the first to the last."""
_REASONS = ("failed", "not supported", "not exists", "rror")
"""Words of the lines in which pnnx and ncnn say what is wrong."""
_LIST = re.compile(r" dim=1 index=\(([\d,]+)\)")
"""A choice of several channels."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PDEATHSIG = 1


@dataclass(frozen=True)
class Ncnn:
    """ncnn with its CPU kernels, in float32."""

    # The files load on every architecture, and the converter need not be on the board.
    TIED_TO: ClassVar[tuple[str, ...]] = ("machine",)
    CROSS_COMPILES: ClassVar[bool] = True
    threads: int = 1
    """Threads of one execution; 1 gives the steadiest latency, 0 takes all cores."""
    convert_s: int = 600
    """Seconds that the converter may take before it is ended."""

    def __post_init__(self) -> None:
        if not 0 <= self.threads <= 1024:
            raise ValueError("ncnn needs threads from 0 (all cores) to 1024")
        if not 1 <= self.convert_s <= 3600:
            raise ValueError("ncnn needs convert_s from 1 to 3600")

    def probe(self) -> Probe:
        """Say which ncnn is installed here, and whether its converter is."""
        try:
            version = str(_toolchain().__version__)
        except ToolchainError as error:
            return Probe(usable=False, fix=str(error))
        converter = importlib.metadata.version("pnnx") if _converter() else ""
        return Probe(usable=True, version=version, details={"pnnx": converter})

    def compile(self, onnx: Path, engine: Path) -> None:
        """Convert ``onnx`` and keep graph and weights once they gave finite scores for plain images."""
        _toolchain()
        shape = image_shape(onnx)
        with tempfile.TemporaryDirectory() as folder:
            graph, weights = self._converted(onnx, shape, Path(folder))
            (Path(folder) / _GRAPH).write_text(graph)
            (Path(folder) / _WEIGHTS).write_bytes(weights)
            self._try(onnx, shape, Path(folder))
        (engine / _GRAPH).write_text(graph)
        (engine / _WEIGHTS).write_bytes(weights)

    @contextmanager
    def open(self, engine: Path) -> Iterator[Model]:
        """Load what `compile` wrote for scoring on the CPU."""
        yield self._loaded(engine, "the engine")

    def _converted(self, onnx: Path, shape: tuple[int, int, int], folder: Path) -> tuple[str, bytes]:
        """Run pnnx in ``folder``; it writes a dozen files beside its input."""
        program = _converter()
        if program is None:
            raise ToolchainError(f"pnnx, which converts ONNX for ncnn, is not installed; {_CONVERTER_FIX}")
        # Its own copy of ONNX Runtime would else write into the user's home.
        environment = {**os.environ, "HOME": str(folder), "ORT_DISABLE_TELEMETRY": "1"}
        shutil.copyfile(onnx, folder / "net.onnx")
        sizes = ",".join(map(str, (1, *shape)))
        said = _run([str(program), "net.onnx", f"inputshape=[{sizes}]", "fp16=0"], folder, environment, self.convert_s)
        files = [folder / name for name in ("net.ncnn.param", "net.ncnn.bin", "net.pnnx.param")]
        if not all(file.is_file() for file in files):
            raise ArtifactError(f"pnnx cannot convert {onnx.name} for ncnn: {said}")
        graph = lowered(files[0].read_text(), files[2].read_text(), shape)
        if unknown := sorted({kind for kind in _kinds(graph) if "." in kind or ":" in kind}):
            raise ArtifactError(f"ncnn has no layer for {', '.join(unknown)[:200]}, which pnnx makes of {onnx.name}")
        return graph, files[1].read_bytes()

    def _try(self, onnx: Path, shape: tuple[int, int, int], folder: Path) -> None:
        """Score some images in a process of its own: ncnn checks little, and some graphs end who runs them.

        pnnx says nothing of what it takes for something else. So where ONNX Runtime is here, it must agree.
        """
        plain = np.stack([np.full(shape, level, np.float32) for level in (0.0, 0.5, 1.0)])
        noise = Draws(key("ncnn"), np.arange(5)).uniform(0, int(np.prod(shape)))
        images = np.concatenate([plain, noise.reshape(5, *shape).astype(np.float32)])
        np.save(folder / _IMAGES, images)
        environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        words = [sys.executable, "-c", f"from {__name__} import trial; trial()"]
        said = _run(words, folder, environment, self.convert_s)
        if not (folder / _SCORES).is_file():
            raise ArtifactError(f"ncnn cannot run what pnnx makes of {onnx.name}: {said}")
        scores = np.load(folder / _SCORES, allow_pickle=False)
        if not np.isfinite(scores).all():
            raise ArtifactError(f"{onnx.name} gives scores that are not finite for some images")
        reference = OnnxRuntime()
        if not reference.probe().usable:
            return
        expected = reference.load(onnx)(images)
        if expected.shape != scores.shape or np.abs(expected - scores).max() > _ANOTHER * np.abs(expected).max():
            raise ArtifactError(f"pnnx makes another net of {onnx.name}: its scores are not those of ONNX Runtime")

    def _loaded(self, folder: Path, name: str) -> _Net:
        toolchain = _toolchain()
        net = toolchain.Net()
        net.opt.num_threads = self.threads or toolchain.get_cpu_count()
        net.opt.use_vulkan_compute = False
        # Precision is what the graph says; on Arm ncnn would else compute in float16 where the CPU can.
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, option, False)
        graph, weights = file_of(folder, _GRAPH), file_of(folder, _WEIGHTS)
        text = graph.read_bytes().decode("utf-8", "replace")
        shape = _SHAPE.search(text)
        # ncnn itself goes on with half a graph, and ends the process on some that are none.
        sound = text.startswith(f"{_MAGIC}\n") and shape is not None and len(text.splitlines()) == _lines(text)
        if not sound or shape is None or net.load_param(str(graph)) or net.load_model(str(weights)):
            raise ArtifactError(f"ncnn {toolchain.__version__} cannot load {name}; compile it again")
        size = int(shape[3]), int(shape[2]), int(shape[1])
        return _Net(toolchain, net, size, {"layers": dict(Counter(_kinds(text)))})


class _Net:
    """A loaded graph, which takes one image at a time."""

    def __init__(self, toolchain: Any, net: Any, shape: tuple[int, int, int], runs: Mapping[str, Any]) -> None:
        self._toolchain, self._net, self.shape = toolchain, net, shape
        self.runs = runs
        """How many layers of each kind there are."""
        self._classes = len(self._one(np.zeros(shape, np.float32)))

    def __call__(self, images: Pixels) -> Scores:
        """Score images one by one: ncnn's tensors have no batch."""
        if images.shape[1:] != self.shape:
            raise ArtifactError(f"the engine reads N×{'×'.join(map(str, self.shape))} images, not {images.shape}")
        scores = np.empty((len(images), self._classes), np.float32)
        for index, image in enumerate(images):
            scores[index] = self._one(image)
        return scores

    def _one(self, image: Pixels) -> Scores:
        extractor = self._net.create_extractor()
        extractor.input("in0", self._toolchain.Mat(np.ascontiguousarray(image)))
        code, found = extractor.extract("out0")
        scores: Scores = np.array(found, np.float32) if code == 0 else np.empty(0, np.float32)
        if not scores.size or scores.shape[-1] != scores.size:
            raise ArtifactError(f"ncnn gives no row of scores for an image (code {code}, shape {scores.shape})")
        return scores.reshape(-1)


def trial() -> None:
    """Score the images in this folder with the engine there and keep the scores."""
    try:
        np.save(_SCORES, Ncnn()._loaded(Path(), "the graph")(np.load(_IMAGES, allow_pickle=False)))
    except ArtifactError as error:
        sys.exit(f"failed: {error}")


def lowered(graph: str, source: str, shape: tuple[int, int, int]) -> str:
    """Return ncnn's graph with the size of its image, and with two mistakes of pnnx's mended.

    Every n-th place of a feature map, which ncnn cannot cut out, is a pooling of single places. Channels that are
    chosen by a list, which pnnx takes for the first of them, are cut out run by run and joined. ``source`` is the graph
    before pnnx turned it into ncnn's; it alone tells the steps and the lists.
    """
    steps = {found[1]: found[2] for found in map(_EVERY.match, source.splitlines()) if found}
    # ncnn's names count the choices of one channel too.
    choices = [line for line in source.splitlines() if line.startswith("Tensor.select ")]
    lists = {f"select_{index}": found[1] for index, line in enumerate(choices) if (found := _LIST.search(line))}
    lines: list[str] = []
    for line in graph.splitlines()[2:]:
        kind, name, *rest = line.split()
        ends = " ".join(rest[:4])
        if kind == "Tensor.slice" and name in steps:
            lines.append(f"Pooling {name} {ends} 0=0 1=1 2={steps[name]} 5=1")
        elif kind == "Crop" and name in lists:
            lines += _chosen(name, rest[2], rest[3], [int(text) for text in lists[name].split(",")])
        elif kind == "Input":
            lines.append(f"{line} 0={shape[2]} 1={shape[1]} 2={shape[0]}")
        else:
            lines.append(line)
    blobs = sum(int(line.split()[3]) for line in lines)
    return "\n".join([_MAGIC, f"{len(lines)} {blobs}", *lines]) + "\n"


def _chosen(name: str, taken: str, given: str, channels: list[int]) -> list[str]:
    """Write layers that give the ``channels`` of a feature map in this order."""
    # Channels that follow one another are one cut.
    starts = [at for at, channel in enumerate(channels) if at == 0 or channel != channels[at - 1] + 1]
    runs = [(channels[a], channels[b - 1] + 1) for a, b in zip(starts, [*starts[1:], len(channels)])]  # noqa: B905
    copies, cuts = ([f"{name}_{what}{index}" for index in range(len(runs))] for what in ("copy", "cut"))
    return [
        f"Split {name}_split 1 {len(runs)} {taken} {' '.join(copies)}",
        *(
            f"Crop {cut} 1 1 {copy} {cut} -23309=1,{first} -23310=1,{last} -23311=1,0"
            for copy, cut, (first, last) in zip(copies, cuts, runs)  # noqa: B905
        ),
        f"Concat {name} {len(runs)} 1 {' '.join(cuts)} {given} 0=0",
    ]


def _kinds(graph: str) -> list[str]:
    return [line.split()[0] for line in graph.splitlines()[2:] if line.strip()]


def _lines(graph: str) -> int:
    """Return how many lines a graph must have: its second one tells how many layers there are."""
    match = re.match(r"\d+\n(\d+) ", graph)
    return int(match[1]) + 2 if match else 0


def _run(words: list[str], folder: Path, environment: Mapping[str, str], seconds: int) -> str:
    """Run a program and return the end of what it said; nothing of it is left, however it or this process ends."""
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            words,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            started.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ToolchainError(f"pnnx took more than {seconds} s and was ended; raise convert_s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
    text = _COLOURS.sub("", (folder / "log").read_bytes().decode("utf-8", "replace"))
    reasons = [line for line in text.splitlines() if any(word in line for word in _REASONS)]
    said = " ".join(" ".join(reasons or text.splitlines()[-2:]).replace(str(folder), "").split())[-300:]
    ended = f"it was ended by signal {-started.returncode}" if started.returncode < 0 else ""
    return "; ".join(part for part in (said, ended) if part) or "it gave no reason"


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def _toolchain() -> Any:
    # By name, since the agent must start on boards that have another toolchain alone.
    try:
        toolchain = importlib.import_module("ncnn")
        if not hasattr(toolchain, "Net"):
            raise ImportError("the package named ncnn holds no Net")
    except (ImportError, OSError) as error:
        raise ToolchainError(f"ncnn cannot be used: {error}; {_FIX}") from None
    return toolchain


def _converter() -> Path | None:
    """Return pnnx's program without importing its package, which would load torch."""
    found = importlib.util.find_spec("pnnx")
    program = Path(found.origin).parent / "pnnx" if found and found.origin else None
    return program if program is not None and os.access(program, os.X_OK) else None


plugin = Ncnn
