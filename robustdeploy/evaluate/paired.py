"""Two evaluations of the same test images, paired by image: whether accuracies differ by more than chance explains.

Two intervals that overlap hide what the same images show: a build that loses ten images and gains none is worse,
however wide the intervals of both are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.archive import Arrays, arrays_from
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.report import Measurement
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.intervals import Paired, paired
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.onboard.types import Labels

CLEAN, WORST = "clean", "worst"
ERROR = 0.05
"""Chance that any accuracy is called another where none is, over all of one comparison (Bonferroni)."""
_MOST_BYTES = 2**36
_SAME = ("ids", "labels", "images")

Parts = Mapping[str, Sequence[str]]
"""Attacks by the name of their row, each with the attacks whose worst case it is; mostly that is itself."""
Columns = Mapping[str, tuple[str, int]]
"""Corruptions at a severity by the name of their row, each with the corruption and the column of that severity."""


@dataclass(frozen=True, kw_only=True)
class PairedChange(Paired):
    """One accuracy after less before, on the same images."""

    attack: str
    """Label of the attack or the corruption; ``clean`` for the images as they are, ``worst`` for all attacks that both
    sides ran."""
    limit: float
    """What p must be below."""
    corruption: bool = False
    """Whether it is under a corruption and not under an attack."""
    lost_ids: tuple[int, ...] = ()
    """Places in the test set of the images that were right before alone."""
    gained_ids: tuple[int, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether chance does not explain it."""
        return self.p < self.limit

    @property
    def text(self) -> str:
        """The change as one sentence."""
        verdict = "no change shown" if not self.shown else "lower" if self.difference < 0 else "higher"
        interval = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return (
            f"{verdict}: {100 * self.difference:+.1f} points ({interval}), {self.lost} lost and {self.gained} gained "
            f"of {self.n} images, p {self.p:.2g}"
        )


def paired_changes(
    before: Path, after: Path, attacks: Parts, corruptions: Mapping[str, tuple[str, int]] = {}
) -> tuple[PairedChange, ...] | str:
    """Pair the outcomes in two evaluation folders by image, under ``attacks`` and ``corruptions`` that both had.

    Attacks are one family of tests and corruptions another, so that asking for these hides nothing of those. A text
    says why they cannot be paired.
    """
    paths = [folder / "outcomes.npz" for folder in (before, after)]
    sides = [read_outcomes(path) for path in paths]
    if told := not_of_the_same_images(sides, paths):
        return f"not paired: {told}"
    found = [right_in(side, attacks, str(path)) for side, path in zip(sides, paths, strict=True)]
    ids = array_in(sides[0], "ids", str(paths[0]))
    if not corruptions:
        return tuple(_changes(found[0], found[1], ids))
    prints = [_columns(side, corruptions, "prints", str(path)) for side, path in zip(sides, paths, strict=True)]
    if any(not np.array_equal(its, prints[1][name]) for name, its in prints[0].items()):
        return "not paired: their corrupted images are not the same"
    right = []
    for side, path in zip(sides, paths, strict=True):
        labels = array_in(side, "labels", str(path))
        under = _columns(side, corruptions, "predictions", str(path))
        right.append({name: said == labels for name, said in under.items()})
    return (*_changes(found[0], found[1], ids), *_changes(right[0], right[1], ids, corruption=True))


def not_of_the_same_images(sides: Sequence[Arrays], paths: Sequence[Path]) -> str:
    """Say that the outcomes of two evaluations are of other images; an empty text where they are of the same."""
    for name in _SAME:
        one, other = (array_in(side, name, str(path)) for side, path in zip(sides, paths, strict=True))
        if not np.array_equal(one, other):
            return "they are not of the same test images"
    return ""


def _columns(arrays: Arrays, corruptions: Columns, part: str, where: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return one array of each corruption at a severity."""
    names = {name: (array_in(arrays, f"corruption-{of}/{part}", where), at) for name, (of, at) in corruptions.items()}
    return {name: array[:, column] for name, (array, column) in names.items()}


def _changes(
    before: Mapping[str, Bits], after: Mapping[str, Bits], ids: Labels, corruption: bool = False
) -> Iterator[PairedChange]:
    limit = ERROR / len(before)
    for name, old in before.items():
        new = after[name]
        lost, gained = (tuple(ids[bits].tolist()) for bits in (old & ~new, new & ~old))
        yield PairedChange(
            **vars(paired(old, new)),
            attack=name,
            limit=limit,
            corruption=corruption,
            lost_ids=lost,
            gained_ids=gained,
        )


def read_outcomes(path: Path) -> Arrays:
    """Read ``outcomes.npz`` of an evaluation."""
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; evaluate again")
    return arrays_from(read_bounded(path, most=_MOST_BYTES), str(path), _MOST_BYTES)


def parts_in(measurements: Iterable[Measurement], subject: str) -> Parts:
    """Return the attacks of a report on one subject, each with those whose worst case it is."""
    rows = (row for row in measurements if row.subject == subject and row.metric == "robust_accuracy")
    # In an ensemble a part counts what those before it broke.
    return {str(row.attack): row.conditions.get("worst_of", [row.attack]) for row in rows if row.attack != WORST}


def corruptions_in(measurements: Iterable[Measurement], subject: str) -> Columns:
    """Return the corruptions of a report on one subject at each severity, with where their outcomes stand."""
    rows = [row for row in measurements if row.subject == subject and row.metric == "accuracy_corrupted"]
    columns: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.conditions.get("severity", 0)):
        columns.setdefault(str(row.conditions.get("corruption")), []).append(str(row.attack))
    return {label: (name, column) for name, labels in columns.items() for column, label in enumerate(labels)}


def right_in(arrays: Arrays, attacks: Parts, where: str) -> dict[str, Bits]:
    """Return one bit per image, clean, under each of ``attacks`` and under all of them, as a report counts them."""
    labels = array_in(arrays, "labels", where)
    clean: Bits = array_in(arrays, "predictions", where) == labels
    bits = {}
    for name, parts in attacks.items():
        under = [array_in(arrays, f"{part}/predictions", where) == labels for part in parts]
        # Right as it is and under the attack, as the report counts it.
        bits[name] = np.logical_and.reduce([clean, *under])
    worst: Bits = np.logical_and.reduce([clean, *bits.values()])
    return {CLEAN: clean, **bits, WORST: worst}


def array_in(arrays: Arrays, name: str, where: str) -> np.ndarray[Any, Any]:
    """Return one array of ``where``, or say that it is not there."""
    if name not in arrays:
        raise ArtifactError(f"{where} holds no array '{name}'; evaluate again")
    return arrays[name]
