"""The folder of a sweep: what was asked for, and beside it a run for every cell.

`sweep.json` names the cells, `base.yaml` is the recipe that they all begin with. A sweep may grow: asking for further
values under the same name adds cells and leaves what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from robustdeploy.core.files import atomic_write_json, atomic_write_text, make_folder
from robustdeploy.core.load import resolved_yaml, says_the_same
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import read_bounded, read_json
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.target import Target
from robustdeploy.engine.places import SERIES
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.series.series import Job, anywhere, report_in
from robustdeploy.sweep.cells import Cell

DECLARED: Final = "sweep.json"


TARGETS: Final = "targets"


class Asked(Noun):
    """What a sweep goes over, and where each of its nets is measured."""

    schema_version: Literal[1] = 1
    targets: tuple[str, ...]
    """Files, by their path in the sweep's folder."""
    precisions: tuple[str, ...] = ()
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on the disk."""

    root: Path
    asked: Asked

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.resolve().name

    @property
    def base(self) -> Path:
        """The recipe of all cells."""
        return self.root / SERIES

    def run_of(self, cell: Cell) -> Path:
        """Return the folder of a cell's run."""
        return self.root / cell.name

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The runs, one for each cell."""
        return tuple(Job(cell.name) for cell in self.asked.cells)

    def missing(self, job: Job) -> str:
        """Say why a cell has no report that its run bears out; nothing where it has one."""
        return report_in(self.root / job.name, self.root)[1]

    def words(self, job: Job, root: Path) -> tuple[str, ...]:
        """Return the words behind ``robustdeploy`` that make a cell's run in ``root``; they work by hand, too."""
        (cell,) = (each for each in self.asked.cells if each.name == job.name)
        words = ["run", str(root / SERIES), "--runs", str(root), "--name", cell.name]
        for option, values in (
            ("--target", [str(root / target) for target in self.asked.targets]),
            ("--precision", self.asked.precisions),
            ("--set", cell.overrides),
        ):
            words += [word for value in values for word in (option, value)]
        return tuple(words)

    def files(self, job: Job) -> dict[str, bytes]:
        """Return what these words read, by its path in this folder."""
        paths = [self.base, *(self.root / target for target in self.asked.targets)]
        return {path.relative_to(self.root).as_posix(): read_bounded(path) for path in paths}


def is_sweep(root: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (root / DECLARED).is_file()


def opened(root: Path) -> SweepFolder:
    """Open a sweep; a folder that is none is a UsageError, a damaged one an ArtifactError."""
    if not is_sweep(root):
        raise UsageError(f"{root} is no sweep; `robustdeploy sweep RECIPE --over budget.ops=0.5,0.3` makes one")
    try:
        return SweepFolder(root, Asked.model_validate(read_json(root / DECLARED)))
    except (ValidationError, ValueError) as error:
        raise ArtifactError(f"{root / DECLARED} is not what a sweep writes; begin another one with --name") from error


def begun(
    root: Path, recipe: Recipe, targets: Sequence[Target], precisions: Sequence[str], cells: Sequence[Cell]
) -> SweepFolder:
    """Make the folder of a sweep, or add ``cells`` to it; one of another recipe or target is a UsageError."""
    nouns: dict[Path, Recipe | Target] = {root / SERIES: anywhere(recipe)}
    # Written out: a target that is changed in between would leave runs that cannot be compared.
    nouns |= {root / _path_of(target): target for target in targets}
    asked = Asked(targets=tuple(map(_path_of, targets)), precisions=tuple(precisions), cells=tuple(cells))
    if is_sweep(root):
        before = opened(root)
        if changed := [path for path, noun in nouns.items() if path.exists() and not says_the_same(path, noun)]:
            raise UsageError(
                f"{root} is a sweep of another {changed[0].name}, or under other --set; give this one a --name"
            )
        if (before.asked.targets, before.asked.precisions) != (asked.targets, asked.precisions):
            places = ", ".join((*before.asked.targets, *before.asked.precisions))
            raise UsageError(f"{root} is a sweep on {places}; give this one a --name")
        added = tuple(cell for cell in asked.cells if cell not in before.asked.cells)
        asked = before.asked.model_copy(update={"cells": (*before.asked.cells, *added)})
    make_folder(root / TARGETS)
    # The recipe first: a kill in between leaves a folder that is no sweep yet.
    for path, noun in nouns.items():
        atomic_write_text(path, resolved_yaml(noun))
    atomic_write_json(root / DECLARED, asked.model_dump(mode="json"))
    return SweepFolder(root, asked)


def _path_of(target: Target) -> str:
    return f"{TARGETS}/{target.name}.yaml"
