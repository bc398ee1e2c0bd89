"""Two evaluations of the same test images, paired by image: whether accuracies differ by more than chance explains.

Two intervals that overlap hide what the same images show: a build that loses ten images and gains none is worse,
however wide the intervals of both are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
Family = Literal["attack", "corruption", "patch"]


@dataclass(frozen=True)
class JudgedUnder:
    """What a report has judged one subject under, by the names of its rows."""

    attacks: Parts
    corruptions: Columns
    patches: Mapping[str, Mapping[str, Any]]
    """With how each patch attack was run."""

    def shared_with(self, other: JudgedUnder) -> JudgedUnder:
        """Return what both were judged under, and alike."""
        return JudgedUnder(
            *(
                {name: how for name, how in mine.items() if theirs.get(name) == how}
                for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )


@dataclass(frozen=True, kw_only=True)
class PairedChange(Paired):
    """One accuracy after less before, on the same images."""

    attack: str
    """Label of the attack, corruption or patch; ``clean`` for the images as they are, ``worst`` for all attacks that
    both sides ran."""
    limit: float
    """What p must be below."""
    family: Family = "attack"
    """Of the tests that share a chance of a false alarm."""
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


def paired_changes(before: Path, after: Path, under: JudgedUnder) -> tuple[PairedChange, ...] | str:
    """Pair the outcomes in two evaluation folders by image, ``under`` what both had.

    Attacks, corruptions and patches are a family of tests each, so that asking for one hides nothing of the others. A
    text says why they cannot be paired.
    """
    paths = [folder / "outcomes.npz" for folder in (before, after)]
    sides = [read_outcomes(path) for path in paths]
    if told := not_of_the_same_images(sides, paths):
        return f"not paired: {told}"
    prints = [_columns(side, under.corruptions, "prints", str(path)) for side, path in zip(sides, paths, strict=True)]
    if any(not np.array_equal(its, prints[1][name]) for name, its in prints[0].items()):
        return "not paired: their corrupted images are not the same"
    ids = array_in(sides[0], "ids", str(paths[0]))
    one, other = (_right_by_family(side, under, str(path)) for side, path in zip(sides, paths, strict=True))
    return tuple(change for family, bits in one.items() for change in _changes(bits, other[family], ids, family))


def _right_by_family(arrays: Arrays, under: JudgedUnder, where: str) -> dict[Family, dict[str, Bits]]:
    """Return one bit per image under each attack, corruption and patch, as a report counts them."""
    labels = array_in(arrays, "labels", where)
    attacked = right_in(arrays, under.attacks, where)
    corrupted = _columns(arrays, under.corruptions, "predictions", where)
    patched = {name: array_in(arrays, f"{name}/predictions", where) for name in under.patches}
    return {
        "attack": attacked,
        "corruption": {name: said == labels for name, said in corrupted.items()},
        "patch": {name: attacked[CLEAN] & (said == labels) for name, said in patched.items()},
    }


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
    before: Mapping[str, Bits], after: Mapping[str, Bits], ids: Labels, family: Family
) -> Iterator[PairedChange]:
    limit = ERROR / max(1, len(before))
    for name, old in before.items():
        new = after[name]
        lost, gained = (tuple(ids[bits].tolist()) for bits in (old & ~new, new & ~old))
        yield PairedChange(
            **vars(paired(old, new)),
            attack=name,
            limit=limit,
            family=family,
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


def judged_in(measurements: Sequence[Measurement], subject: str) -> JudgedUnder:
    """Return what a report has judged one subject under."""
    its = [row for row in measurements if row.subject == subject]
    how = {
        str(row.attack): {name: value for name, value in row.conditions.items() if name != "judged_in_batches_of"}
        for row in its
        if row.metric == "patch_accuracy"
    }
    return JudgedUnder(parts_in(its, subject), _corruptions_in(its), how)


def _corruptions_in(rows: Iterable[Measurement]) -> Columns:
    """Return the corruptions of one subject at each severity, with where their outcomes stand."""
    rows = [row for row in rows if row.metric == "accuracy_corrupted"]
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
