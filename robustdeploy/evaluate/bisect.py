"""Bisect: at which step from training to a board accuracy is lost, by a paired test on the same test images.

Each step is attacked through its own gradients: images that were found on a later step would flatter the earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robustdeploy.core.archive import Arrays, arrays_from
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.records import AttackRecord, BoardRecord, NetRecord, OnnxRecord
from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.settings import label_in, target_of
from robustdeploy.core.subject import DENSE, FP32, Subject
from robustdeploy.engine.evaluations import check_evaluated
from robustdeploy.engine.lineage import behind
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import ATTACKS, BOARDS, ONNX, board_place, evaluation_of, kind_of, precision_of
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import held
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.adversarial import FILE
from robustdeploy.evaluate.intervals import Paired, clopper_pearson, paired
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Bytes, Labels, Scores, pixels_from_bytes

ERROR = 0.05
"""Chance that any step is blamed where none loses accuracy, over all comparisons together (Bonferroni)."""
_MOST_BYTES = 2**36
Metric = Literal["clean", "robust"]


@dataclass(frozen=True)
class Step:
    """What a net is at one step, and which test images it labels right there."""

    name: str
    clean: Bits
    robust: Bits
    """Right as they are, and under every gradient attack that was found on this step's own net."""

    @property
    def bits(self) -> Mapping[Metric, Bits]:
        """Both, by name."""
        return {"clean": self.clean, "robust": self.robust}

    def interval(self, metric: Metric) -> tuple[float, float]:
        """Return the 95 % interval of an accuracy (Clopper-Pearson)."""
        bits = self.bits[metric]
        return clopper_pearson(int(bits.sum()), len(bits))


@dataclass(frozen=True, kw_only=True)
class Change(Paired):
    """What became of an accuracy from one step to the next."""

    before: str
    after: str
    metric: Metric
    significant: bool
    """Whether accuracy fell by more than chance explains."""


@dataclass(frozen=True)
class Bisected:
    """The way of one subject."""

    subject: str
    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    missing: tuple[str, ...]
    """Why steps are left out, one sentence each."""
    masked: str = ""
    """That the masked net is the pruned one, as the training proved; empty for a net that was not pruned."""

    @property
    def drops(self) -> tuple[Change, ...]:
        """All significant drops, the first one first."""
        return tuple(change for change in self.changes if change.significant)


def changes(steps: Sequence[Step]) -> tuple[Change, ...]:
    """Compare each step with the one before it."""
    pairs = list(pairwise(steps))
    limit = ERROR / max(1, 2 * len(pairs))
    return tuple(_change(one, other, metric, limit) for one, other in pairs for metric in ("clean", "robust"))


def _change(one: Step, other: Step, metric: Metric, limit: float) -> Change:
    found = paired(one.bits[metric], other.bits[metric])
    fell = found.difference < 0 and found.p < limit
    return Change(**vars(found), before=one.name, after=other.name, metric=metric, significant=fell)


def least_drop(comparisons: int, n: int) -> float:
    """Return the smallest drop that could be significant on ``n`` images, where none is gained."""
    # All discordant pairs on one side: 2 · 0.5^k.
    needed = math.floor(math.log2(2 * max(1, comparisons) / ERROR)) + 1
    return needed / n


def bisect(run: Run, evaluation: str, precision: str = "") -> Bisected:
    """Follow the run's net to the target of ``evaluation``, in ``precision`` or the only one that was measured there.

    Raises UsageError for what was not evaluated, and ArtifactError for files that are not as they were sealed.
    """
    check_evaluated(run, evaluation)
    subject, label = _subject(run, evaluation, precision)
    place = board_place(subject, label)
    board, made = held(run, place, BoardRecord), run.manifests()
    outcomes = _arrays(board.folder / "outcomes.npz")
    walk = _Walk(run, outcomes, board.manifest.inputs.get("test_images", ""), label)
    steps: list[Step] = []
    if subject.net != DENSE and (dense := walk.attacks(DENSE, FP32)):
        steps.append(walk.in_torch("dense net in torch", dense))
    if own := walk.attacks(subject.net, FP32):
        steps.append(walk.in_torch(f"{subject.net} net in torch", own))
        steps.append(walk.in_runtime("ONNX file in fp32", _exported(place, made, FP32), own))
    if subject.precision != FP32:
        own = walk.attacks(subject.net, subject.precision)
        lowered = _exported(place, made, subject.precision)
        steps.append(walk.in_runtime(f"ONNX file in {subject.precision}", lowered, own))
    steps.append(walk.on_board(f"engine on {evaluation}", own))
    return Bisected(str(subject), tuple(steps), changes(steps), tuple(walk.missing), _masked(run))


def _masked(run: Run) -> str:
    proof = held(run, run.net_place, NetRecord).record.proof
    if proof is None:
        return ""
    gap = max(proof.clean, proof.adversarial)
    return (
        f"the masked net is the pruned one: scores within {gap:.1e} in {proof.precision} on {proof.n} clean and "
        f"{proof.n} attacked images, proved in training"
    )


def _subject(run: Run, evaluation: str, precision: str) -> tuple[Subject, str]:
    target, label = target_of(evaluation), label_in(evaluation)
    measured = sorted((run.root / BOARDS / run.net).glob(f"*/{FILE_NAME}"))
    places = [path.parent.relative_to(run.root).as_posix() for path in measured]
    names = [precision_of(place) for place in places if evaluation_of(place) == evaluation]
    if precision and precision not in names:
        raise UsageError(f"{run.root} was not evaluated in {precision} on {evaluation} (there: {', '.join(names)})")
    lowered = [name for name in names if name != FP32] or names
    if not precision and len(lowered) > 1:
        raise UsageError(f"{run.root} was evaluated in {', '.join(names)} on {evaluation}; say which with --precision")
    return Subject(run.net, precision or lowered[0], target), label


def _exported(board: str, made: Mapping[str, Any], precision: str) -> str:
    return next(each for each in behind(board, made) if kind_of(each) == ONNX and precision_of(each) == precision)


def _arrays(path: Path) -> Arrays:
    return arrays_from(read_bounded(path, _MOST_BYTES), str(path), _MOST_BYTES)


@dataclass
class _Walk:
    """Looks at one step after the other."""

    run: Run
    outcomes: Arrays
    images: str
    """Mark of the test images that the board was judged on."""
    label: str
    missing: list[str] = field(default_factory=list)

    def attacks(self, net: str, precision: str) -> Arrays:
        """Return what was found on a net in torch; nothing where it was not attacked on the same images."""
        for place in self.run.manifests():
            if kind_of(place) != ATTACKS or not self._is_of(place, net, precision):
                continue
            if held(self.run, place, AttackRecord).manifest.inputs.get("test_images") == self.images:
                return _arrays(self.run.root / place / FILE)
        self.missing.append(f"the {net} net was not attacked in {precision} on these test images, so it is left out")
        return {}

    def in_torch(self, name: str, found: Arrays) -> Step:
        """Take the labels that the attacked net itself gave."""
        return self._step(name, found["predictions"], {each: found[f"{each}/predictions"] for each in _names(found)})

    def in_runtime(self, name: str, place: str, found: Arrays) -> Step:
        """Score an ONNX file on this machine, one image at a time, as boards are judged."""
        exported = held(self.run, place, OnnxRecord)
        backend: Any = BACKENDS.build("onnxruntime", {})
        model = backend.load(exported.folder / "model.onnx")

        def labels(images: Bytes) -> Labels:
            pixels = pixels_from_bytes(images)
            scores: Scores = np.concatenate([model(pixels[at : at + 1]) for at in range(len(pixels))])
            best: Labels = CLASSIFICATION.predictions(scores)
            return best

        attacked = {each: labels(found[f"{each}/images"]) for each in _names(found)}
        return self._step(name, labels(self.outcomes["images"]), attacked)

    def on_board(self, name: str, found: Arrays) -> Step:
        """Take the labels that the board gave; what it was asked by queries is no part, as other steps were not."""
        attacked = {each: self.outcomes[f"{each}/predictions"] for each in _names(found)}
        return self._step(name, self.outcomes["predictions"], attacked)

    def _step(self, name: str, clean: Labels, attacked: Mapping[str, Labels]) -> Step:
        right = [labels == self.outcomes["labels"] for labels in (clean, *attacked.values())]
        return Step(name, right[0], np.logical_and.reduce(right))

    def _is_of(self, place: str, net: str, precision: str) -> bool:
        same = (place.split("/")[1], precision_of(place), place.partition("@")[2])
        return same == (net, precision, self.label)


def _names(found: Arrays) -> list[str]:
    """Return the attacks in a file of those that followed gradients in torch."""
    names = [name.removesuffix("/images") for name in found if name.endswith("/images")]
    return [name for name in names if not name.startswith("curve-")]
