"""Course: how a training went, read from its log, and how the net came about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from robustdeploy.core.figures import Course, Epoch, Making
from robustdeploy.core.plain import in_words
from robustdeploy.core.reading import parse_json, read_bounded
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import NetRecord
from robustdeploy.engine.stage import Finished
from robustdeploy.errors import ArtifactError

_LOG = "metrics.jsonl"
_MOST_EPOCHS = 250
"""More points than a curve is wide show nothing more."""


def course_of(own: Finished[NetRecord]) -> Course | None:
    """Return the course of a training; None where it left no log, or one without epochs."""
    if _LOG not in own.manifest.outputs:
        return None
    lines = read_bounded(own.folder / _LOG).splitlines()
    records = [record for line in lines if (record := _record(line)) is not None]
    if not records:
        return None
    epochs = [_epoch(record) for record in records]
    back = [after for before, after in pairwise(records) if _number(after, "collapses") > _number(before, "collapses")]
    return Course(
        epochs=tuple(_thinned(epochs)),
        frozen=_frozen(records),
        rollbacks=tuple(_epoch(record).epoch for record in back),
    )


def _record(line: bytes) -> dict[str, Any] | None:
    """Return one epoch's numbers; None where the line holds none, or a number that is not finite."""
    try:
        found = parse_json(line, _LOG)
    except ArtifactError:
        return None
    return found if isinstance(found, dict) else None


def _epoch(record: Mapping[str, Any]) -> Epoch:
    attacked = next((name for name in record if name.startswith("validation_pgd")), "")
    names = {"loss": "train_loss", "clean": "validation_clean", "attacked": attacked, "ops": "ops"}
    found = {field: _finite(record.get(name)) for field, name in names.items()}
    return Epoch(epoch=max(0, int(_number(record, "epoch"))), **found)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _number(record: Mapping[str, Any], name: str) -> float:
    return _finite(record.get(name)) or 0.0


def _frozen(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the first epoch from which on no gradient reached a mask any more."""
    moved = [index for index, record in enumerate(records) if _number(record, "train_mask_gradient_norm") > 0]
    return _epoch(records[moved[-1] + 1]).epoch if moved and moved[-1] + 1 < len(records) else None


def _thinned(epochs: Sequence[Epoch]) -> list[Epoch]:
    step = math.ceil(len(epochs) / _MOST_EPOCHS)
    return [each for index, each in enumerate(epochs) if index % step == 0 or index == len(epochs) - 1]


def making_of(recipe: Recipe, own: Finished[NetRecord]) -> Making:
    """Return how a net came about; of one that was trained elsewhere, little is known."""
    imported = "imported" in own.record.data
    return Making(
        recipe=recipe.name,
        net=in_words(recipe.net),
        task="" if imported else in_words(recipe.train.task),
        epochs=own.record.epochs.delivered if own.record.epochs else None,
        seconds=own.record.seconds,
        commit=own.manifest.commit,
    )
