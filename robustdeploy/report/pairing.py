"""Pairing: two reports and their runs held beside each other: rows, times by run, accuracies by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from robustdeploy.core.report import SubjectEvidence
from robustdeploy.evaluate.comparison import Change, changes, timed_runs
from robustdeploy.evaluate.paired import (
    PairedChange,
    array_in,
    judged_in,
    paired_changes,
    read_outcomes,
)
from robustdeploy.evaluate.pictures import png
from robustdeploy.report.compare import Comparison, Row, compared, counterparts
from robustdeploy.report.sides import Side


@dataclass(frozen=True)
class TimeChange:
    """What became of the times of a subject in a scenario; without a change, a text says why."""

    subject: str
    scenario: str
    told: Change | str

    @property
    def text(self) -> str:
        """The change as one sentence."""
        return self.told if isinstance(self.told, str) else self.told.text


@dataclass(frozen=True)
class ImageChange:
    """What became of an accuracy, image by image; without a change, the text says why."""

    subject: str
    attack: str
    text: str
    change: PairedChange | None
    outcomes: Path | None = None
    """Where the images lie."""


@dataclass(frozen=True)
class Pairing:
    """What two reports and their runs say together."""

    before: Side
    after: Side
    found: Comparison
    rows: list[Row]
    times: list[TimeChange]
    images: list[ImageChange]


def pairing(before: Side, after: Side, across: bool = False) -> Pairing:
    """Hold two sides beside each other; ``across`` also subtracts accuracies that were measured differently."""
    found = compared(before.report, after.report, (before.recipe, after.recipe))
    rows = [replace(row, attacked_alike=True) for row in found.rows] if across else found.rows
    images = list(_by_image(before, after)) if across or found.attacked_alike else []
    return Pairing(before, after, found, rows, list(_by_run(before, after)), images)


def _named(one: SubjectEvidence, other: SubjectEvidence) -> str:
    return " against ".join(dict.fromkeys((one.subject, other.subject)))


def _by_run(before: Side, after: Side) -> Iterator[TimeChange]:
    """Compare the timed runs of each subject that both have, scenario by scenario."""
    if before.root is None or after.root is None:  # a report alone holds no run of a process
        return
    for one, other in counterparts(before.report, after.report):
        if one.board.get("emulated") or other.board.get("emulated"):
            continue  # its time says nothing and was not taken
        name = _named(one, other)
        if one.board.get("cpu_model") != other.board.get("cpu_model"):
            yield TimeChange(name, "latency", "not compared: the two were timed on different processors")
            continue
        first, second = (
            timed_runs(root / each.evaluation / "timings.json")
            for root, each in ((before.root, one), (after.root, other))
        )
        if isinstance(first, str) or isinstance(second, str):
            yield TimeChange(name, "latency", f"not compared: {first if isinstance(first, str) else second}")
        else:
            yield from (TimeChange(name, scenario, found) for scenario, found in changes(first, second))


def _by_image(before: Side, after: Side) -> Iterator[ImageChange]:
    """Pair the accuracies of each subject that both have, image by image."""
    if before.root is None or after.root is None:  # a report alone holds no outcome of an image
        return
    for one, other in counterparts(before.report, after.report):
        name = _named(one, other)
        sides = ((before, one), (after, other))
        mine, theirs = (judged_in(side.report.measurements, each.subject) for side, each in sides)
        folder = after.root / other.evaluation
        told = paired_changes(before.root / one.evaluation, folder, mine.shared_with(theirs))
        if isinstance(told, str):
            yield ImageChange(name, "accuracy", told, None)
        else:
            yield from (
                ImageChange(name, change.attack, change.text, change, folder / "outcomes.npz") for change in told
            )


@dataclass(frozen=True)
class Flip:
    """A test image that one of two runs alone was right on."""

    id: int
    """Its place in the test set."""
    sha256: str
    """Of its pixels, as they were evaluated."""
    label: str
    png: str


def flips(change: ImageChange, ids: Sequence[int], classes: Sequence[str]) -> list[Flip]:
    """Return the images of these ``ids``, each to be shown; the images are those of the evaluation after."""
    if change.outcomes is None or not ids:
        return []
    where = str(change.outcomes)
    arrays = read_outcomes(change.outcomes)
    images, labels = array_in(arrays, "images", where), array_in(arrays, "labels", where)
    places = {int(each): place for place, each in enumerate(array_in(arrays, "ids", where))}
    shown = []
    for each in ids:
        image, label = images[places[each]], int(labels[places[each]])
        digest = sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        shown.append(Flip(each, digest, classes[label] if label < len(classes) else str(label), png(image)))
    return shown
