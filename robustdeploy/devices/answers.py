"""The form of every answer a board may give. A board is not believed: what is not of this form is refused.

What only the host can know (how many samples were asked for, how long the call took) is checked in `board`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from robustdeploy.core.complaint import complaint
from robustdeploy.core.model import Noun
from robustdeploy.errors import BoardError
from robustdeploy.onboard.engine import MOST_FILES, EngineFile, Files, checked_files
from robustdeploy.onboard.store import MOST_BYTES
from robustdeploy.onboard.telemetry import CLOCKS, MOST_CHANNELS
from robustdeploy.onboard.types import PARTS
from robustdeploy.onboard.wire import Array

# Bounded, since all of this is stored and printed: a board could otherwise fill the host's memory and its reports.
Name = Annotated[str, Field(max_length=400)]
Text = Annotated[str, Field(max_length=4000)]
# numpy's int64 cannot hold more, and JSON sets no limit to whole numbers.
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Answer(Noun):
    """The head of an answer. A field that is missing, unknown or of another kind is an error."""

    # Without it pydantic takes "3" or 3.0 for a whole number, and an answer of the wrong kind would pass.
    model_config = ConfigDict(strict=True)


class Sensors(Answer):
    """What `robustdeploy.onboard.sensors` reads."""

    boot_id: Name
    cpu_model: Name
    board_model: Name
    load_1m: Annotated[float, Field(ge=0)] | None
    clocks_khz: dict[Name, dict[Name, int]]
    governors: dict[Name, Name]
    gpu_clocks_hz: dict[Name, int]
    gpu_ranges_hz: dict[Name, dict[Name, int]]
    thermal: dict[Name, dict[Name, float]]
    cooling: dict[Name, int]
    throttle_counts: dict[Name, Count]
    overcurrent_counts: dict[Name, Count]


class Hello(Answer):
    """What a board says of itself."""

    agent: Name
    protocol: int
    python: Name
    numpy: Name
    machine: Name
    system: Name
    backends: list[Name]
    attacks: list[Name]
    boot_id: Name
    cpu_model: Name
    board_model: Name
    os: Name
    l4t: Name
    memory_bytes: Count
    free_memory_bytes: Count
    free_disk_bytes: Count


class Probed(Answer):
    """Whether a toolchain works there."""

    usable: bool
    version: Name
    fix: Text
    details: dict[Name, Any]


class Have(Answer):
    """Whether a file is there."""

    have: bool


class Held(Answer):
    """How much of a file is there."""

    held: Count


class Piece(Answer):
    """A piece of a file; its bytes are in the array."""

    total: Annotated[int, Field(ge=1, le=MOST_BYTES)]


class ListedFile(Answer):
    """One file of an engine on the board."""

    name: Annotated[str, Field(max_length=100)]
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1, le=MOST_BYTES)]


class Compiled(Answer):
    """An engine on the board."""

    files: Annotated[list[ListedFile], Field(min_length=1, max_length=MOST_FILES)]
    seconds: Annotated[float, Field(ge=0)]
    """Time the toolchain took."""


class Open(Answer):
    """Which engine answers now."""

    open: Sha256
    runs: dict[Name, Any]
    """What really runs, as its toolchain tells: kernels, precisions, providers."""


class Queried(Answer):
    """How many images the engine scored: for this request, and since the agent started."""

    queries: Count
    queries_total: Count


class Scored(Queried):
    """The same, and how long the engine took for this request."""

    spent_ns: Count


class Window(Answer):
    """One window of timing; the samples and scores are in its arrays."""

    warmup_runs: Annotated[int, Field(ge=1, lt=1 << 63)]
    warm: bool
    began_ns: Count
    duration_ns: Annotated[int, Field(ge=1, lt=1 << 63)]
    first_ns: Count | None
    """Of the engine's first call of all; None where it was asked before."""
    peak_memory_bytes: Count
    """Of the process that ran the engine; 0 where its system does not tell."""
    parts: Annotated[list[Name], Field(max_length=len(PARTS))]
    """What the columns of the array ``parts_ns`` are."""
    before: Sensors
    after: Sensors
    queries_total: Count


class Run(Window):
    """A window in a fresh process, and what the board's sensors said meanwhile."""

    open: Sha256
    """The engine that answered there."""
    start_ns: Count
    """From the start of the process to its first answer."""
    load_ns: Count
    """Loading the toolchain and the engine."""
    channels: Annotated[list[Name], Field(min_length=len(CLOCKS), max_length=MOST_CHANNELS)]
    words: Annotated[list[Name], Field(max_length=1000)]


A = TypeVar("A", bound=Answer)


def answer_of(form: type[A], head: dict[str, Any], op: str) -> A:
    """Read ``head`` as ``form``; BoardError naming the first field that is not of its kind."""
    try:
        return form.model_validate(head)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "head"
        why = "is unknown" if first["type"] == "extra_forbidden" else complaint(first, form)
        raise impossible(op, field, why) from None


def array_of(arrays: dict[str, Array], name: str, dtype: str, shape: tuple[int | None, ...], op: str) -> Array:
    """Return the array ``name`` where it is of ``dtype`` and ``shape`` (None: any size); else BoardError."""
    array = arrays.get(name)
    if array is None:
        raise impossible(op, name, "is required and missing")
    fits = array.ndim == len(shape) and all(w is None or w == n for w, n in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted, found = _sizes(shape), _sizes(array.shape)
        raise impossible(op, name, f"must be {dtype} of shape {wanted}, not {array.dtype} of shape {found}")
    # A NaN compares as false with everything, so it would slip through every later check of a range.
    if not np.isfinite(array).all():
        raise impossible(op, name, f"must be finite, and {int((~np.isfinite(array)).sum())} of its values are not")
    return array


def files_of(listed: Sequence[ListedFile], op: str) -> Files:
    """Return the files of an engine; BoardError where their names, or all of them together, cannot be one engine's."""
    try:
        return checked_files(EngineFile(file.name, file.sha256, file.bytes) for file in listed)
    except ValueError as error:
        raise impossible(op, "files", f"cannot be an engine's: {error}") from None


def no_other(arrays: dict[str, Array], wanted: Sequence[str], op: str) -> None:
    """Raise BoardError for an array that nobody asked for."""
    if extra := sorted(set(arrays) - set(wanted)):
        raise impossible(op, extra[0], "is unknown")


def _sizes(shape: tuple[int | None, ...]) -> str:
    return "×".join("N" if size is None else str(size) for size in shape) or "none"


def impossible(op: str, field: str, why: str) -> BoardError:
    """Say which field of which answer cannot be true, and what to do."""
    told = f"the board's answer to '{op}' cannot be right: '{field[:100]}' {why}"
    return BoardError(f"{told}; see what runs there, then repeat the command")
