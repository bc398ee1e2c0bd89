"""Notice a net that is read otherwise than it was trained: it labels held-out images hardly better than chance.

Other ranges, layouts and orders of classes are tried on the same held-out images, and what fits is named. Nothing is
chosen by itself: an accuracy that its own images chose would be no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from robustdeploy.errors import UsageError
from robustdeploy.onboard.types import Labels

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (0.0, 16.0))
_BETTER, _WELL = 0.1, 0.3
"""By so much another reading must be better than the one in use, and than the largest class, to be named."""
_NEAR_CHANCE = 0.15
"""Above the share of the largest class."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
Reading = tuple[tuple[float, float] | None, Normalisation | None]
"""What black and white are, or mean and std."""


def readings(data: Normalisation, channels: int) -> dict[str, Reading]:
    """Return the usual ways to read pixels, by the options that ask for them."""
    found: dict[str, Reading] = {f"--range {low:g}..{high:g}": ((low, high), None) for low, high in _RANGES}
    pairs = [data, *([IMAGENET] if channels == 3 else [])]
    for mean, std in pairs:
        found[f"--mean {_listed(mean)} --std {_listed(std)}"] = (None, (mean, std))
    return found


def notice(
    found: Labels,
    labels: Labels,
    others: Mapping[str, Callable[[], Labels]],
    classes: Sequence[str],
    sure: bool,
) -> str:
    """Say what is odd about the labels ``found`` of held-out images that are of ``labels``; nothing where nothing is.

    ``others`` label the same images as other options would have it. Where what is in use was only guessed, not
    ``sure``, and another fits far better, that is a UsageError.
    """
    right = _right(found, labels)
    chance = float(np.bincount(labels).max() / len(labels))
    if sure and right > chance + _NEAR_CHANCE:
        return ""
    tried = {option: _right(label(), labels) for option, label in others.items()}
    option = max(tried, key=tried.__getitem__, default="")
    if option and tried[option] > max(right + _BETTER, chance + _WELL):
        text = (
            f"it labels {right:.1%} of {len(labels)} held-out images right as it is read, and {tried[option]:.1%} with "
            f"{option}: import it again with that"
        )
        if sure:
            return text
        raise UsageError(text)
    if right > chance + _NEAR_CHANCE:
        return ""
    if order := _order(found, labels, len(classes)):
        return (
            f"it labels {right:.1%} of {len(labels)} held-out images right, and most in another order of its outputs; "
            f"import it again with --labels and these lines: {', '.join(classes[place] for place in order)}"
        )
    return (
        f"it labels {right:.1%} of {len(labels)} held-out images right, and the largest class has {chance:.1%}; other "
        "ranges and layouts fit no better. Look at --range, --mean/--std, --layout and --labels, and whether the data "
        "are those that it was trained for"
    )


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{each:g}" for each in values)


def _right(found: Labels, labels: Labels) -> float:
    return float((found == labels).mean())


def _order(found: Labels, labels: Labels, count: int) -> list[int]:
    """Return the class that each output stands for, if one order of classes makes nearly all labels right."""
    together = np.zeros((count, count), np.int64)
    np.add.at(together, (found, labels), 1)
    order = together.argmax(1)
    fits = together[np.arange(count), order].sum() > 0.7 * len(labels)
    return order.tolist() if fits and len(set(order.tolist())) == count else []
