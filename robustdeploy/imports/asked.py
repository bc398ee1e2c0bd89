"""Asked: what a user says of a net that others trained, as far as its file does not tell."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.reading import parse_json, read_bounded
from robustdeploy.errors import UsageError

LAYOUTS = ("nchw", "nhwc", "nhw", "flat", "flat-hwc")
"""In which order a net reads an image: channels, rows and columns; ``flat`` is one row of numbers."""
UNUSED = "-"
"""In a list of labels: an output that stands for no class of the data."""
_RANGE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(?:\.\.|,|:)\s*(-?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Asked:
    """What was said; None is what is to be found in the file."""

    layout: str | None = None
    values: tuple[float, float] | None = None
    """The numbers of black and of white."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """One per channel, in pixels of [0, 1]."""
    labels: tuple[str, ...] | None = None
    """For each of the net's outputs the class of the data, by name or place; ``-`` for none."""
    output: str | None = None
    """Of an ONNX file: the output that holds the scores."""
    key: str | None = None
    """Of a checkpoint: where in it the weights lie."""

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise UsageError(f"--layout is {self.layout!r}{did_you_mean(self.layout, LAYOUTS)} ({', '.join(LAYOUTS)})")
        if (self.mean is None) != (self.std is None):
            raise UsageError("--mean and --std belong together; give both, in pixels of [0, 1]")
        if self.mean is not None and self.values is not None:
            raise UsageError("--range and --mean/--std both say what black and white are; give one of them")
        if not all(map(math.isfinite, (*(self.mean or ()), *(self.std or ())))):
            raise UsageError("--mean and --std must be finite numbers, in pixels of [0, 1]")
        if self.std is not None and min(self.std) <= 0:
            raise UsageError("--std must be above 0 in every channel")


NOTHING_SAID = Asked()


def check_said_once(asked: Asked) -> None:
    """Refuse options that say what black and white are where a step of ``preprocess`` normalises."""
    if asked.values is not None or asked.mean is not None:
        raise UsageError(
            "--range and --mean/--std say how pixels are normalised, and a step of the recipe's preprocess does it; "
            "leave one of them out"
        )


def range_from(text: str) -> tuple[float, float]:
    """Read ``0..255`` or ``-1,1``; anything else is a UsageError."""
    found = _RANGE.fullmatch(text)
    if found is None or float(found[1]) == float(found[2]):
        raise UsageError(
            f"--range is {text!r}; write what black and white are for the net, such as 0..1, 0..255 or -1..1"
        )
    return float(found[1]), float(found[2])


def numbers_from(option: str, text: str) -> tuple[float, ...]:
    """Read ``0.485,0.456,0.406``; anything else is a UsageError that names ``option``."""
    try:
        values = tuple(float(each) for each in text.split(","))
    except ValueError:
        raise UsageError(f"{option} is {text!r}; write one number per channel, such as 0.485,0.456,0.406") from None
    return values


def labels_from(path: Path) -> tuple[str, ...]:
    """Read one label per line, or a JSON list of them; anything else is a UsageError."""
    content = read_bounded(path, 2**24)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--labels: {path} is no text in UTF-8; write one class per line") from None
    if text.lstrip().startswith("["):
        given = parse_json(content, str(path))
        if not all(isinstance(each, (str, int)) for each in given):
            raise UsageError(f"--labels: {path} must be a list of names or places")
        return tuple(map(str, given))
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def places_of(labels: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return for each class of the data the output that stands for it; a list that leaves that open is a UsageError.

    A label is a class by its name, or else by its place among the classes.
    """
    found: dict[int, int] = {}
    for output, label in enumerate(labels):
        if label == UNUSED:
            continue
        if label in classes:
            place = list(classes).index(label)
        elif label.isdecimal() and int(label) < len(classes):
            place = int(label)
        else:
            raise UsageError(
                f"--labels: output {output} is said to be {label!r}, which is no class of the data"
                f"{did_you_mean(label, classes)}; write '{UNUSED}' for an output that is none of its classes"
            )
        if place in found:
            raise UsageError(f"--labels: outputs {found[place]} and {output} are both said to be {classes[place]!r}")
        found[place] = output
    if missing := [name for place, name in enumerate(classes) if place not in found]:
        raise UsageError(f"--labels: no output is said to be {missing[0]!r}; every class of the data needs one")
    return tuple(found[place] for place in range(len(classes)))
