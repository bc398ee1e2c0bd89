"""Rows: the nets that docs/results.md shows, and how each of them is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from robustdeploy.core.asked import recipe_for
from robustdeploy.core.recipe import Recipe
from robustdeploy.errors import UsageError

Method = Literal["dense", "in-train", "aligned", "scratch", "one-shot"]

METHODS: dict[Method, str] = {
    "dense": "dense",
    "in-train": "pruned in training",
    "aligned": "pruned in training, latency limited too",
    "scratch": "same shape, fresh weights",
    "one-shot": "dense, pruned once (L1), fine-tuned",
}


@dataclass(frozen=True)
class Row:
    """One net: a recipe, the operations it may keep, and a way to get there."""

    recipe: str
    """A shipped recipe, or the path of a YAML file; either is called ``<data>-<net>``."""
    ops: float
    """Operations asked for, as a fraction of the dense net's."""
    method: Method = "in-train"
    seed: int = 0
    latency: float | None = None
    """Time asked for on ``host-cpu``, as a fraction of the dense net's."""

    @property
    def name(self) -> str:
        """Name of its folder: ``<data>-<net>-ops<fraction>[-method][-seed<n>]``."""
        method = "" if self.method in ("dense", "in-train") else f"-{self.method.replace('-', '')}"
        return f"{Path(self.recipe).stem}-ops{self.ops:g}{method}" + (f"-seed{self.seed}" if self.seed else "")

    @property
    def pattern(self) -> Row | None:
        """The row pruned in training whose shape, or number of operations, this one takes over."""
        return replace(self, method="in-train") if self.method in ("scratch", "one-shot") else None

    def recipe_from(self, data: Path | None, epochs: int, device: str) -> Recipe:
        """Return the recipe with what ``robustdeploy prune`` would be given for this row.

        The comparison with the dense net is a row of its own, so no run trains that beside it.
        """
        budget = self.ops if self.method in ("in-train", "aligned") else "null"
        given = [f"budget.ops={budget}", f"seed={self.seed}", f"train.epochs={epochs}", f"train.device={device}"]
        if self.latency is not None:
            given += [f"budget.latency.target={TIMED_ON}", f"budget.latency.at_most={self.latency:g}"]
        # They were made before targets had a say in the number of channels.
        given += ["budget.channel_multiple=1"]
        where = [] if data is None else [f"data.path={data}"]
        return recipe_for(self.recipe, overrides=[*given, *where, "baseline=false"])


TIMED_ON = "host-cpu"
_CIFAR10 = "cifar10-resnet20"
ROWS = (
    Row(_CIFAR10, 1.0, "dense"),
    Row(_CIFAR10, 0.7),
    Row(_CIFAR10, 0.5),
    *(Row(_CIFAR10, 0.3, seed=seed) for seed in (0, 1, 2)),
    Row(_CIFAR10, 0.7, "aligned", latency=0.85),
    Row(_CIFAR10, 0.5, "aligned", latency=0.65),
    Row(_CIFAR10, 0.3, "aligned", latency=0.45),
    Row(_CIFAR10, 0.3, "scratch"),
    Row(_CIFAR10, 0.3, "one-shot"),
)


def row_named(name: str) -> Row:
    """Return the row of that name; an unknown one is a UsageError."""
    for row in ROWS:
        if row.name == name:
            return row
    raise UsageError(f"there is no row '{name}'; there are {', '.join(row.name for row in ROWS)}")
