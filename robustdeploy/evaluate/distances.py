"""Distances: how far, in torch, the nearest wrong image is that was found of each image; as rows, with what was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustdeploy.attacks.distance.protocol import Distance
from robustdeploy.core.archive import Arrays
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.registry import DISTANCES
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.engine.lineage import remedy
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.attack import Bench, Images, gathered
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.intervals import BOOTSTRAP, bootstrap_mean
from robustdeploy.evaluate.workers import Job, in_turn
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Pixels

Floats = npt.NDArray[np.float64]

_BLOCK = 64
"""Images per sealed part. They cost far more each than an attack's, and a kill costs one part at most."""
_PUSH = 1.001
"""Share of the way that is gone where the image found lies so close to the boundary that rounding decides."""
_WRONG, _FOUND, _NONE = 0, 1, 2
"""What became of an image: labelled wrong as it is, a distance was found, none was."""
_MISSED = 0.05


@dataclass(frozen=True)
class Reach:
    """What one distance found of the test images that it was asked of."""

    distance: Distance
    choice: Choice
    states: npt.NDArray[np.uint8]
    """``_WRONG``, ``_FOUND`` or ``_NONE``."""
    values: Floats
    """In the norm of its metric; 0 where none was found."""
    nearest: Pixels | None = None
    """The images found, the clean ones where none was; None for an estimate, which finds no image."""

    @property
    def label(self) -> str:
        """Name of its rows."""
        return self.distance.label

    @property
    def found(self) -> Floats:
        """The distances, of the images of which one was found."""
        found: Floats = self.values[self.states == _FOUND]
        return found

    @property
    def already_wrong(self) -> int:
        """How many images are labelled wrong as they are, so that there is no distance to tell."""
        return int((self.states == _WRONG).sum())

    @property
    def not_found(self) -> int:
        """Of how many images that are labelled right no distance was found."""
        return int((self.states == _NONE).sum())


def distances_from(choices: Sequence[Choice]) -> tuple[Distance, ...]:
    """Build all distances of a recipe; two that would share a name in the report are refused."""
    built: tuple[Distance, ...] = tuple(DISTANCES.build(choice.name, choice.options) for choice in choices)
    labels = [distance.label for distance in built]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(
            f"evaluate.distances holds '{twice[0]}' twice; each distance may appear once with the same settings"
        )
    known = [metric.name for metric in METRICS.values() if metric.support == "distances"]
    for distance in built:
        # A rule could not name it, and nobody would know in which norm it is.
        if distance.metric not in known:
            told = f"the distance '{distance.label}' measures '{distance.metric}'"
            raise UsageError(f"{told}, which is no metric of distances (these are: {', '.join(known)})")
    return built


def looked_at(images: Images, distance: Distance) -> Images:
    """Return the images that a distance is asked of."""
    some = slice(0, distance.limit)
    return Images(images.ids[some], images.images[some], images.labels[some])


def find_distances(bench: Bench, host: HostNet, recipe: Recipe) -> dict[str, Reach]:
    """Ask every distance of the recipe of a net in torch. Sealed parts of an interrupted call are used again."""
    found, chosen = {}, recipe.evaluate.distances
    for choice, distance in zip(chosen, distances_from(chosen), strict=True):
        few = replace(bench, images=looked_at(bench.images, distance))

        def job(block: Images, number: int, distance: Distance = distance) -> Job:
            return partial(_measured, distance, block, key(bench.seed, "distance", distance.label))

        arrays = gathered(few, _prefix(distance), job, bench.share or partial(in_turn, host), _BLOCK)
        found[distance.label] = Reach(distance, choice, **arrays)
    return found


def _measured(distance: Distance, block: Images, noise_key: int, host: HostNet) -> Arrays:
    """Ask of those images of a block that are labelled right, and measure here what was proposed."""
    right = CLASSIFICATION.right(host.score(block.images), block.labels)
    states = np.where(right, _NONE, _WRONG).astype(np.uint8)
    values, nearest = np.zeros(len(right)), _pixels(block)
    if on := np.flatnonzero(right).tolist():
        clean, labels = nearest[on], block.labels[on]
        found = host.nearest(distance, block.images[on], labels, noise_key, block.ids[on])
        if distance.estimates:
            told = found.astype(np.float64)
            reached = np.isfinite(told)
        else:
            reached, found = _judged(host, distance, clean, found, labels)
            nearest[on] = np.where(reached[:, None, None, None], found, clean)
            told = _norms(nearest[on] - clean, distance)
        states[on] = np.where(reached, _FOUND, _NONE)
        values[on] = np.where(reached, told, 0)
    arrays: Arrays = {"states": states, "values": values}
    return arrays if distance.estimates else {**arrays, "nearest": nearest}


def _judged(
    host: HostNet, distance: Distance, clean: Pixels, proposed: Pixels, labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], Pixels]:
    """Return which images the net labels wrong, and these images; one on the very boundary is pushed across it."""
    found, reached = proposed, np.zeros(len(labels), dtype=bool)
    # A distance is a plug-in, and is trusted neither to stay in the box nor to have found what it says.
    for push in (1.0, _PUSH):
        pushed = clean + np.float32(push) * (proposed - clean)
        pushed = np.where(np.isfinite(pushed), pushed, clean)
        pushed = np.clip(pushed, 0, 1) if distance.box else pushed
        found = np.where(reached[:, None, None, None], found, pushed).astype(np.float32)
        reached |= ~CLASSIFICATION.right(host(found), labels)
    return reached, found


def _pixels(images: Images) -> Pixels:
    """Return images as the net is given them."""
    pixels: Pixels = images.images.astype(np.float32) / np.float32(255)
    return pixels


def _norms(moves: Pixels, distance: Distance) -> Floats:
    flat = np.abs(moves.reshape(len(moves), -1).astype(np.float64))
    unit = METRICS[distance.metric].unit
    norms: Floats = flat.max(1) if unit == "linf" else flat.sum(1) if unit == "l1" else np.sqrt(np.square(flat).sum(1))
    return norms


def _prefix(distance: Distance) -> str:
    return f"distance-{distance.label}"


def arrays_of(found: Mapping[str, Reach]) -> dict[str, npt.NDArray[Any]]:
    """Return what was found as arrays by name."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for reach in found.values():
        name = _prefix(reach.distance)
        arrays |= {f"{name}/states": reach.states, f"{name}/values": reach.values}
        if reach.nearest is not None:
            arrays[f"{name}/nearest"] = reach.nearest
    return arrays


def shapes_of(distance: Distance, images: Images) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the arrays that a distance leaves, by name with dtype and shape of one image."""
    name = _prefix(distance)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{name}/states": ("uint8", ()),
        f"{name}/values": ("float64", ()),
    }
    return shapes if distance.estimates else {**shapes, f"{name}/nearest": ("float32", images.images.shape[1:])}


def reach_of(choice: Choice, distance: Distance, arrays: Arrays, images: Images, path: Path) -> Reach:
    """Take what was found out of ``arrays``; distances that are not those of their images are an ArtifactError."""
    name = _prefix(distance)
    reach = Reach(distance, choice, *(arrays.get(f"{name}/{part}") for part in ("states", "values", "nearest")))  # type: ignore[arg-type]
    told = np.zeros(0) if reach.nearest is None else _norms(reach.nearest - _pixels(images), distance)
    # The seal is checked already; measured again, since a distance is evidence only as that of its image.
    if (reach.states > _NONE).any() or not (reach.nearest is None or np.allclose(told, reach.values, 1e-6, 1e-9)):
        raise ArtifactError(f"{path}: the distances of '{distance.label}' are not of its images; {remedy(path)}")
    return reach


def distance_rows(found: Mapping[str, Reach], seed: int, subject: Subject) -> Iterator[Measurement]:
    """Return the mean distance of each, over the images that the net labels right and of which one was found."""
    for reach in found.values():
        if not len(reach.found):
            continue
        mean, low, high = bootstrap_mean(reach.found, key(seed, reach.label))
        options = {name: value for name, value in vars(reach.distance).items() if name not in ("limit", "box")}
        yield Measurement(
            metric=reach.distance.metric,
            subject=str(subject),
            attack=reach.label,
            value=mean,
            unit=METRICS[reach.distance.metric].unit,
            n=len(reach.found),
            low=low,
            high=high,
            conditions={
                "interval": BOOTSTRAP,
                "of": "images labelled right",
                "box": reach.distance.box,
                "images": len(reach.states),
                "already_wrong": reach.already_wrong,
                "not_found": reach.not_found,
                "distance": reach.choice.name,
                **options,
            },
        )


def distance_diagnostics(found: Mapping[str, Reach], subject: Subject) -> Iterator[Diagnostic]:
    """Say of how many images no distance was found: a mean over the others is not that of the net."""
    for reach in found.values():
        right = len(reach.found) + reach.not_found
        missed = reach.not_found / right if right else 0.0
        level: Literal["ok", "warn", "block"] = "block" if missed > _MISSED else "warn" if missed or not right else "ok"
        wrong = f"{reach.already_wrong:,} of {len(reach.states):,} images are labelled wrong as they are and left out"
        if not right:
            told = "the net labels no image right, so there is no distance to tell"
        elif missed:
            told = (
                f"nothing was found for {reach.not_found:,} of {right:,} images labelled right, and the mean lacks them"
            )
        else:
            told = f"it has a distance for each of the {right:,} images labelled right"
        yield Diagnostic(
            id="distance-found",
            level=level,
            text=f"{reach.label}: {told} ({wrong})",
            value=missed,
            threshold=0.05,
            metrics=(reach.distance.metric,),
            subject=str(subject),
        )
