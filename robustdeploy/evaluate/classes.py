"""Classes: accuracy class by class, and whether one class alone explains an accuracy of all images.

Where most images are of one class, a net that always answers that class is right most of the time, and no attack can
change its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustdeploy.core.metrics import AFTER_QUERIES
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.evaluate.intervals import balanced_share, clopper_pearson_lower
from robustdeploy.evaluate.outcomes import Bits, Outcomes
from robustdeploy.evaluate.rows import share_row
from robustdeploy.onboard.types import Labels

CONFIDENCE = 0.99
_MEAN_OF_CLASSES = "mean over classes of Clopper-Pearson intervals (Zou and Donner), 95 %"


def class_rows(outcomes: Outcomes, classes: tuple[str, ...], subject: Subject) -> Iterator[Measurement]:
    """Return, of ``subject``, balanced accuracy, what a constant answer would reach, and the accuracy of each class."""
    labels, judged = outcomes.labels, {"judged_in_batches_of": outcomes.batch}
    clean, worst = outcomes.standing(outcomes.board_clean), outcomes.worst("board")
    under: dict[str, Any] = {"attack": "worst", "kind": "worst"}
    # Each class counts alike, so a constant answer gets one share of the classes however large its class is.
    yield _balanced_row("balanced_clean_accuracy", subject, clean, labels, judged)
    yield _balanced_row("balanced_robust_accuracy", subject, worst, labels, judged, **under)
    largest = int(np.bincount(labels).argmax())
    yield share_row("majority_baseline", subject, labels == largest, {"class": classes[largest]})
    for number, name in enumerate(classes):
        its = labels == number
        # The first images of a large test set may have none of a rare class, and no images give no accuracy.
        if its.any():
            yield share_row("class_clean_accuracy", subject, clean[its], {"class": name, **judged})
            yield share_row("class_robust_accuracy", subject, worst[its], {"class": name, **judged}, **under)


def _balanced_row(
    metric: str, subject: Subject, bits: Bits, labels: Labels, judged: dict[str, Any], **more: Any
) -> Measurement:
    counts = np.bincount(labels)
    right = np.bincount(labels[bits], minlength=len(counts))
    # bincount counts all numbers up to the largest label, those of absent classes as well.
    present = counts > 0
    value, low, high = balanced_share(right[present].tolist(), counts[present].tolist())
    return Measurement(
        metric=metric,
        subject=str(subject),
        value=value,
        unit="fraction",
        n=len(labels),
        low=low,
        high=high,
        conditions={"interval": _MEAN_OF_CLASSES, "classes": int(present.sum()), **judged},
        **more,
    )


@dataclass(frozen=True)
class _Share:
    """The class with most of the images that stand, and how it and all others stand."""

    name: str
    of_standing: float
    inside: float
    outside: int
    others: int
    bound: float

    @property
    def explains(self) -> bool:
        # All three: a good net on a large class meets the first two as well, but it also gets others right.
        return self.inside >= 0.5 and self.of_standing >= 0.5 and self.bound <= 0.05


def one_class_diagnostic(outcomes: Outcomes, classes: tuple[str, ...]) -> Diagnostic:
    """Ask of clean and of worst-case accuracy whether a constant answer would explain it.

    It would where one class stands for at least half, gives at least half of all images that stand, and the images of
    all other classes are not shown to stand in 5 % of the cases (lower bound at 99 %).
    """
    clean = _share(outcomes.standing(outcomes.board_clean), outcomes.labels, classes)
    worst = _share(outcomes.worst("board"), outcomes.labels, classes)
    told: list[str] = []
    metrics: list[str] = []
    for what, found, names in (
        ("clean", clean, ("clean_accuracy", "top1_agreement")),
        ("worst-case", worst, ("robust_accuracy", "robust_accuracy_at_eps", AFTER_QUERIES)),
    ):
        if found.explains:
            told.append(
                f"{what} accuracy is explained by the class {found.name} alone: of the {found.others} images of other "
                f"classes {found.outside} are right"
            )
            metrics += names
    least = min((found.bound for found in (clean, worst) if found.of_standing > 0), default=1.0)
    text = (
        f"{'; '.join(told)} (99 % lower bound {least:.2%}, limit 5 %), as with a net that always answers the same"
        if told
        else "no class alone explains the accuracy: images of the other classes are right, too"
    )
    level: Any = "block" if told else "ok"
    return Diagnostic(
        id="one-class",
        level=level,
        text=text,
        value=least,
        threshold=0.05,
        metrics=tuple(metrics),
        flatters=True,  # the share of a large class is given to a net that tells nothing apart
    )


def _share(bits: Bits, labels: Labels, classes: tuple[str, ...]) -> _Share:
    counts, right = np.bincount(labels), np.bincount(labels[bits], minlength=int(labels.max()) + 1)
    top = int(right.argmax())
    standing, others = int(right.sum()), len(labels) - int(counts[top])
    outside = standing - int(right[top])
    bound = clopper_pearson_lower(outside, others, CONFIDENCE) if others else 0.0
    inside = float(right[top] / counts[top]) if counts[top] else 0.0
    return _Share(classes[top], float(right[top]) / standing if standing else 0.0, inside, outside, others, bound)
