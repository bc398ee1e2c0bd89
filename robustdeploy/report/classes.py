"""Classes on the page: how each stands beside the dense net, which of them pruning cost, and what is taken for what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from robustdeploy.core.figures import Answers, Cell
from robustdeploy.core.report import Report
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject, subject_from
from robustdeploy.report.evidence import ClassPair
from robustdeploy.report.quantity import quantity

MOST = 20
"""Classes up to which all are drawn, and up to which a matrix can be read."""
_DENSE = str(Subject(DENSE, FP32, TORCH))


@dataclass(frozen=True)
class Matrix:
    """How often the images of each class got each answer."""

    title: str
    classes: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    def shade(self, row: int, column: int) -> int:
        """Return 0 to 5: how large a count is beside the largest of its kind, right ones and wrong ones apart."""
        count = self.rows[row][column]
        most = max(n for i, its in enumerate(self.rows) for j, n in enumerate(its) if (i == j) == (row == column))
        return 0 if not count else max(1, round(5 * count / most))


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another."""

    truth: str
    answer: str
    clean: int
    worst: int
    of: int


@dataclass(frozen=True)
class ClassView:
    """What is shown of one subject's classes."""

    subject: str
    pairs: tuple[ClassPair, ...]
    """From the lowest worst case on; the first `MOST`."""
    count: int
    """Classes with images."""
    images: tuple[int, int]
    """Fewest and most images of a class."""
    cost: str
    """Which classes pruning cost most, as one sentence; empty where no dense net is beside it."""
    matrices: tuple[Matrix, ...]
    confusions: tuple[Confusion, ...]
    """The most frequent ones under attack."""
    has_dense: bool


def class_views(report: Report) -> Iterator[ClassView]:
    """Yield the classes of every deployed subject whose answers are told."""
    for name, answers in report.figures.answers.items():
        its = subject_from(name)
        if its.deployed and answers.clean:
            beside = report.figures.answers.get(_DENSE) if its.net != DENSE else None
            yield _view(name, answers, beside)


def _view(subject: str, answers: Answers, dense: Answers | None) -> ClassView:
    sizes = _sums(answers.clean, len(answers.classes))
    pairs = sorted(_pairs(answers, dense, sizes), key=lambda pair: (pair.worst, pair.clean))
    small = len(answers.classes) <= MOST
    drawn = (("As they are", answers.clean), ("Under all attacks", answers.worst)) if small else ()
    present = [size for size in sizes if size]
    return ClassView(
        subject=subject,
        pairs=tuple(pairs[:MOST]),
        count=len(pairs),
        images=(min(present), max(present)),
        cost=_cost(pairs) if dense else "",
        matrices=tuple(_matrix(title, answers.classes, cells) for title, cells in drawn),
        confusions=tuple(_confusions(answers, sizes)),
        has_dense=dense is not None,
    )


def _sums(cells: Sequence[Cell], count: int) -> list[int]:
    sums = [0] * count
    for truth, _, n in cells:
        sums[truth] += n
    return sums


def _right(cells: Sequence[Cell]) -> Mapping[int, int]:
    return {truth: n for truth, answer, n in cells if truth == answer}


def _pairs(answers: Answers, dense: Answers | None, sizes: Sequence[int]) -> Iterator[ClassPair]:
    own = [_right(cells) for cells in (answers.clean, answers.worst)]
    theirs = [_right(cells) for cells in (dense.clean, dense.worst)] if dense else []
    for number, name in enumerate(answers.classes):
        if n := sizes[number]:
            clean, worst = (found.get(number, 0) / n for found in own)
            dense_clean, dense_worst = [found.get(number, 0) / n for found in theirs] or (None, None)
            yield ClassPair(name, n, clean, worst, dense_clean, dense_worst)


def _cost(pairs: Sequence[ClassPair]) -> str:
    lost = sorted((pair for pair in pairs if pair.cost > 0), key=lambda pair: -pair.cost)[:3]
    if not lost:
        return "Pruning cost no class any of its worst-case accuracy."
    told = ", ".join(f"{pair.name} ({100 * pair.cost:.1f} points)" for pair in lost)
    step = quantity(1 / min(pair.n for pair in pairs), "fraction")
    return f"Pruning cost these classes most, in the worst case: {told}. One image moves a class by up to {step}."


def _matrix(title: str, classes: tuple[str, ...], cells: Sequence[Cell]) -> Matrix:
    found = {(truth, answer): n for truth, answer, n in cells}
    places = range(len(classes))
    return Matrix(title, classes, tuple(tuple(found.get((i, j), 0) for j in places) for i in places))


def _confusions(answers: Answers, sizes: Sequence[int]) -> Iterator[Confusion]:
    clean = {(truth, answer): n for truth, answer, n in answers.clean}
    wrong = sorted((cell for cell in answers.worst if cell[0] != cell[1]), key=lambda cell: -cell[2])
    for truth, answer, n in wrong[:10]:
        names = answers.classes[truth], answers.classes[answer]
        yield Confusion(*names, clean.get((truth, answer), 0), n, sizes[truth])
