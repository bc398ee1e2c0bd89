"""Running an engine with TVM's runtime library alone: image by image, from one buffer that is aligned as it must be."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArtifactError, ToolchainError, UsageError
from ..engine import file_of
from ..store import sha256_of
from ..types import Model, Pixels, Scores
from .installed import Runtime

LIBRARY, ABOUT = "net.so", "engine.json"
"""The files of an engine."""
_ALIGNED = 64
_CPU, _POOLED = 1, 2  # TVM's numbers for the kind of device and of allocator
_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True)
class About:
    """What must be known of an engine before its code is loaded."""

    version: str
    """Of the TVM that built it."""
    machine: str
    """The architecture that its code is for."""
    image: tuple[int, int, int]
    """Channels, height and width."""
    classes: int
    sha256: str
    """Of its library."""
    processor: str = ""
    """What its code is for, in LLVM's words."""
    scheduled: int = 0
    """How many of its functions run by a schedule of ours, or by one that was tuned."""
    unscheduled: int = 0
    """How many run as TVM writes them."""
    gpu: str = ""
    """TVM's name of the board whose GPU it runs on; empty for a CPU."""
    notes: tuple[str, ...] = ()
    """What was decided while it was built, in sentences."""


def machine_of(triple: str) -> str:
    """Return the architecture that a triple such as ``aarch64-linux-gnu`` begins with."""
    first = triple.partition("-")[0].lower()
    return _NAMES.get(first, first)


def here() -> str:
    """Return this machine's architecture, by the name that triples have for it."""
    return machine_of(platform.machine())


def write_about(engine: Path, about: About) -> None:
    """Write what is known of an engine beside its library."""
    (engine / ABOUT).write_text(json.dumps(asdict(about), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_about(engine: Path) -> About:
    """Read what `write_about` wrote; ArtifactError where that is not it."""
    path = file_of(engine, ABOUT)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if set(told) != {field.name for field in fields(About)}:
            raise ValueError("other fields than an engine has")
        image = tuple(int(size) for size in told["image"])
        about = About(**{**told, "image": image, "notes": tuple(told["notes"])})
        if len(image) != 3 or min(*image, about.classes) < 1:
            raise ValueError("an impossible shape")
        return about
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{ABOUT} of the engine is damaged ({error}); compile it again") from None


def checked(engine: Path, runtime: Runtime) -> About:
    """Refuse the engine in the folder ``engine`` where it is not whole, or for another machine or version."""
    about, library = read_about(engine), file_of(engine, LIBRARY)
    if about.machine != here():
        raise ArtifactError(f"the engine is for {about.machine} and this machine is {here()}; compile it for this one")
    if about.version != runtime.version:
        raise ToolchainError(
            f"the engine was built by TVM {about.version}, and TVM {runtime.version} is here; compile it again, or "
            "install that version"
        )
    # What is loaded runs at once, and a damaged library may do anything.
    if sha256_of(library) != about.sha256:
        raise ArtifactError(f"{LIBRARY} of the engine is not the file that was built; compile it again")
    return about


@contextmanager
def opened(engine: Path, about: About, runtime: Runtime) -> Iterator[Model]:
    """Load the engine in the folder ``engine``, which was checked, for the CPU."""
    library = engine / LIBRARY
    try:
        # Not kept alive: its file may be exchanged once the engine is closed.
        machine = runtime.ffi.load_module(str(library), keep_module_alive=False)["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        main = machine["main"]
    except Exception as error:  # the library's own words come as any exception
        raise ArtifactError(
            f"TVM {runtime.version} cannot load the engine: {words_of(error)}; compile it again"
        ) from None
    scorer = _Scorer(runtime, main, about)
    del machine, main
    try:
        yield scorer
    finally:
        scorer.close()


class _Scorer:
    """An engine with its one input buffer. Images are scored one by one, so that no score depends on the others."""

    def __init__(self, runtime: Runtime, main: Any, about: About) -> None:
        self._main, self._about = main, about
        self.runs: dict[str, Any] = {
            "code": about.processor,
            "functions scheduled": about.scheduled,
            "functions as TVM writes them": about.unscheduled,
            **{f"note {number}": note for number, note in enumerate(about.notes, 1)},
        }
        self._image = _aligned((1, *about.image))
        self._given = runtime.ffi.from_dlpack(self._image)

    def __call__(self, images: Pixels) -> Scores:
        """Return one row of scores per image."""
        if self._main is None:
            raise UsageError("this engine is closed; open it again before scoring")
        if images.ndim != 4 or images.shape[1:] != self._about.image:
            shape = "×".join(map(str, self._about.image))
            raise UsageError(f"the engine reads N×{shape} images, not {images.shape}")
        scores = np.empty((len(images), self._about.classes), np.float32)
        for row, image in zip(scores, images, strict=True):
            self._image[0] = image
            row[:] = np.from_dlpack(self._main(self._given))[0]
        return scores

    def close(self) -> None:
        """Let go of the library."""
        self._main = self._given = None


def _aligned(shape: tuple[int, ...]) -> Pixels:
    """Return an array that begins where TVM's code wants it to; numpy's own begin anywhere."""
    count = int(np.prod(shape))
    room = np.zeros(count + _ALIGNED // 4, np.float32)
    skipped = -room.ctypes.data % _ALIGNED // 4
    return room[skipped : skipped + count].reshape(shape)


def words_of(error: BaseException) -> str:
    """Return the last line of what TVM says, which names the reason; its traces have many lines before."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[-300:]
