"""Corruptions: how the test images are labelled once weather, optics, sensors or storage have changed them.

Hendrycks and Dietterich (ICLR 2019). Images are made anew wherever they are judged, from their ids and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from robustdeploy.core.archive import Arrays
from robustdeploy.core.corruptions import CorruptionAsked, listed_corruptions, severity_label
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.data.corruptions.protocol import check_shape, corrupted, parameters_of, published_for
from robustdeploy.devices.board import Board
from robustdeploy.devices.fleet import Fleet
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.attack import Bench, Images, gathered, shared
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.intervals import BOOTSTRAP, RATIOS, bootstrap_mean, bootstrap_ratios
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.evaluate.rows import share_row
from robustdeploy.evaluate.workers import Job, in_turn
from robustdeploy.onboard.criterion import CLASSIFICATION, Floats
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.types import Bytes, Labels, Scores

EACH, MEAN, WORST, ERROR = (
    "accuracy_corrupted",
    "mean_corruption_accuracy",
    "worst_corruption_accuracy",
    "mean_corruption_error",
)
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Corrupted:
    """How one net labels the test images under one corruption."""

    predictions: Labels
    """N×S, for each of its S severities."""
    prints: npt.NDArray[np.uint64]
    """N×S: the beginning of each corrupted image's hash, by which two nets are known to have met the same images."""


def corruption_arrays(found: Mapping[str, Corrupted], prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Return what was judged as arrays by name."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, each in found.items():
        arrays |= {f"{prefix}{_prefix(name)}/{part}": array for part, array in vars(each).items()}
    return arrays


def shapes_of_corrupted(asked: CorruptionAsked) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the arrays that a corruption leaves, by name with dtype and shape of one image."""
    several = (len(asked.severities),)
    return {f"{_prefix(asked.name)}/{part}": (kind, several) for part, kind in _PARTS.items()}


def corrupted_in(arrays: Arrays, name: str) -> Corrupted:
    """Take what was judged under one corruption out of ``arrays``."""
    return Corrupted(*(arrays[f"{_prefix(name)}/{part}"] for part in _PARTS))


_PARTS = {"predictions": "int64", "prints": "uint64"}


def _prefix(name: str) -> str:
    return f"corruption-{name}"


def corrupted_on_host(bench: Bench, host: HostNet, recipe: Recipe) -> dict[str, Corrupted]:
    """Judge a net in torch under each corruption of the recipe. Sealed parts of an interrupted call are used again."""
    share, found = bench.share or partial(in_turn, host), {}
    for asked in _asked(bench, recipe):

        def job(block: Images, number: int, asked: CorruptionAsked = asked) -> Job:
            return partial(_judged_in_torch, asked, block, bench.seed)

        found[asked.name] = Corrupted(**gathered(bench, _prefix(asked.name), job, share))
    return found


def _judged_in_torch(asked: CorruptionAsked, block: Images, seed: int, host: HostNet) -> Arrays:
    return _judged(asked, block, seed, host.score)


def corrupted_on_boards(
    bench: Bench, fleet: Fleet, recipe: Recipe, in_torch: Mapping[str, Corrupted]
) -> dict[str, Corrupted]:
    """Judge what runs on the boards under the same images as in torch; that they are the same is held against these.

    Raises ArtifactError where other images were made, as by another version of a library.
    """
    found = {}
    for asked in _asked(bench, recipe):

        def one(board: Board, block: Images, number: int, tell: Any, asked: CorruptionAsked = asked) -> Arrays:
            return _judged(asked, block, bench.seed, lambda images: board.score(images, bench.batch))

        found[asked.name] = Corrupted(**shared(bench, fleet, _prefix(asked.name), one))
        if not np.array_equal(found[asked.name].prints, in_torch[asked.name].prints):
            raise ArtifactError(
                f"the images under '{asked.name}' are others than those that the net in torch was judged on, as "
                "another version of numpy, scipy or Pillow makes them; evaluate again with --force"
            )
    return found


def _asked(bench: Bench, recipe: Recipe) -> tuple[CorruptionAsked, ...]:
    if asked := listed_corruptions(recipe.evaluate.corruptions):
        check_shape(bench.images.images.shape[1:])
    return asked


def _judged(asked: CorruptionAsked, block: Images, seed: int, score: Callable[[Bytes], Scores]) -> Arrays:
    """Corrupt the images of a block at each severity, and have them scored."""
    predictions, prints = [], []
    for severity, label in zip(asked.severities, asked.labels, strict=True):
        # Without the block's number: what becomes of an image is its own matter.
        made = corrupted(asked.corruption, block.images, severity, Draws(key(seed, "corruption", label), block.ids))
        predictions.append(CLASSIFICATION.predictions(score(made)))
        prints.append([int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:8], "big") for image in made])
    return {"predictions": np.stack(predictions, 1), "prints": np.array(prints, np.uint64).T}


@dataclass(frozen=True)
class UnderCorruptions:
    """All that is known of the nets of one evaluation under corruptions."""

    labels: Labels
    shape: tuple[int, ...]
    """Of an image, C×H×W."""
    seed: int
    batch: int
    """Images that the board was given at a time."""
    found: Mapping[Subject, Mapping[str, Corrupted]]

    def arrays(self, subject: Subject, reference: Subject) -> dict[str, npt.NDArray[Any]]:
        """Return the evidence by name, under the prefixes of ``outcomes.npz``."""
        prefixes = {its: f"{its.net}/" for its in self.found} | {reference: "host/", subject: ""}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for its, found in self.found.items():
            arrays |= corruption_arrays(found, prefixes[its])
        return arrays

    def rows(self, recipe: Recipe, dense: Subject) -> Iterator[Measurement]:
        """Return the rows of every net; errors are beside those of ``dense`` where that was judged too."""
        asked = listed_corruptions(recipe.evaluate.corruptions)
        for its in self.found if asked else ():
            bits = {each.name: self.right(its, each.name) for each in asked}
            for each in asked:
                yield from self._each(its, each, bits[each.name])
            yield from self._means(its, asked, bits)
            if its != dense and dense in self.found:
                beside = {each.name: self.right(dense, each.name) for each in asked}
                yield from self._errors(its, dense, bits, beside)

    def right(self, subject: Subject, name: str) -> Bits:
        """Return N×S bits: labelled right under the corruption, whatever the image's own label was."""
        right: Bits = self.found[subject][name].predictions == self.labels[:, None]
        return right

    def _each(self, its: Subject, asked: CorruptionAsked, bits: Bits) -> Iterator[Measurement]:
        for column, (severity, label) in enumerate(zip(asked.severities, asked.labels, strict=True)):
            told = {
                "corruption": asked.name,
                "severity": severity,
                "parameters": parameters_of(asked.corruption, severity, self.shape),
                "published_for": published_for(self.shape),
                **getattr(asked.corruption, "conditions", {}),
                **({"judged_in_batches_of": self.batch} if its.deployed else {}),
            }
            yield share_row(EACH, its, bits[:, column], told, attack=label)

    def _means(
        self, its: Subject, asked: tuple[CorruptionAsked, ...], bits: Mapping[str, Bits]
    ) -> Iterator[Measurement]:
        by_severity: dict[int, list[Bits]] = {}
        for each in asked:
            for column, severity in enumerate(each.severities):
                by_severity.setdefault(severity, []).append(bits[each.name][:, column])
            yield self._mean(MEAN, its, bits[each.name].mean(1), each.name, severities=list(each.severities))
        for severity, columns in sorted(by_severity.items()):
            yield self._mean(MEAN, its, np.mean(columns, 0), severity_label(severity), corruptions=len(columns))
        by_name = {name: right.mean(1) for name, right in bits.items()}
        yield self._mean(MEAN, its, np.mean(list(by_name.values()), 0), None, corruptions=list(by_name))
        yield self._worst(its, by_name)

    def _mean(self, metric: str, its: Subject, each: Floats, label: str | None, **conditions: Any) -> Measurement:
        """Return a mean over images, each of which counts by the share of its corrupted versions that are right."""
        bounds = bootstrap_mean(each, key(self.seed, metric, label or "all"))
        return self._row(metric, its, bounds, label, {"interval": BOOTSTRAP, **conditions})

    def _worst(self, its: Subject, by_name: Mapping[str, Floats]) -> Measurement:
        """Return the accuracy under the corruption where it is lowest; its interval allows for having looked at all."""
        confidence = 1 - (1 - _CONFIDENCE) / len(by_name)
        found = {n: bootstrap_mean(each, key(self.seed, WORST, n), confidence) for n, each in by_name.items()}
        name = min(found, key=lambda each: found[each][0])
        bounds = found[name][0], min(each[1] for each in found.values()), min(each[2] for each in found.values())
        told = {"interval": f"{BOOTSTRAP}, for the least of {len(found)} at once (Bonferroni)", "corruption": name}
        return self._row(WORST, its, bounds, None, told)

    def _errors(
        self, its: Subject, dense: Subject, bits: Mapping[str, Bits], beside: Mapping[str, Bits]
    ) -> Iterator[Measurement]:
        """Yield mCE: the mean over corruptions of the error, over all severities, divided by the dense net's.

        Where that makes no error under one of them there is nothing to divide by, and no row.
        """
        errors, its_errors = (np.stack([1 - each.mean(1) for each in side.values()], 1) for side in (bits, beside))
        if its_errors.any(0).all():
            told = {"interval": RATIOS, "over": str(dense), "corruptions": list(bits)}
            yield self._row(ERROR, its, bootstrap_ratios(errors, its_errors, key(self.seed, ERROR)), None, told)

    def _row(
        self, metric: str, its: Subject, told: tuple[float, float | None, float | None], label: str | None, more: Any
    ) -> Measurement:
        value, low, high = told
        unit, n = METRICS[metric].unit, len(self.labels)
        return Measurement(
            metric=metric,
            subject=str(its),
            attack=label,
            value=value,
            unit=unit,
            n=n,
            low=low,
            high=high,
            conditions=more,
        )
