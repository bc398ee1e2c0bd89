"""Losses: what the steps of an attack climb. Each is one function, and an attack takes any of them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import LossName

Loss = Callable[[Tensor, Tensor], Tensor]
"""Scores N×K and labels N to one value per image, the higher the closer to being fooled."""
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The same with a target class for each image: the higher, the closer to being taken for one of that class."""


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image, the loss that nets are trained with."""
    return nn.functional.cross_entropy(scores.float(), labels, reduction="none")


def margin_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the best other score less the label's, per image: above zero is misclassified.

    Carlini and Wagner (S&P 2017) attack this; it never saturates, whatever the scale of the scores.
    """
    own = scores.float().gather(1, labels[:, None])
    others = scores.float().scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own.squeeze(1)


def dlr(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the difference of logits ratio: the margin over the lead of the best score on the third best.

    Croce and Hein (ICML 2020); it stays the same where all scores are scaled. Of two classes there is no third, and the
    ratio would be a constant: there it is the margin.
    """
    return _over_spread(margin_loss(scores, labels), scores, of=(2,))


def targeted_cross_entropy(scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the negative cross-entropy of each image with its target."""
    return -cross_entropy(scores, targets)


def targeted_margin(scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the target's score less the label's, per image."""
    own, wanted = (scores.float().gather(1, of[:, None]).squeeze(1) for of in (labels, targets))
    return wanted - own


def targeted_dlr(scores: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the targeted margin over the lead of the best score on the mean of the third and the fourth."""
    return _over_spread(targeted_margin(scores, labels, targets), scores, of=(2, 3))


def _over_spread(margin: Tensor, scores: Tensor, of: tuple[int, ...]) -> Tensor:
    """Divide by the lead of the best score on the mean of those at the ranks ``of``, as far as there are so many."""
    ranks = [rank for rank in of if rank < scores.shape[1]]
    if not ranks:
        return margin
    ordered = scores.float().topk(ranks[-1] + 1, dim=1).values
    spread = ordered[:, 0] - ordered[:, ranks].mean(1)
    # As in the paper's program: three equal scores have no ratio.
    return margin / (spread + 1e-12)


LOSSES: Mapping[LossName, Loss] = {"cross-entropy": cross_entropy, "margin": margin_loss, "dlr": dlr}
TARGETED: Mapping[LossName, TargetedLoss] = {
    "cross-entropy": targeted_cross_entropy,
    "margin": targeted_margin,
    "dlr": targeted_dlr,
}


@dataclass(frozen=True)
class Goal:
    """What a batch of images is to be taken for: anything but its labels, or its targets."""

    labels: Tensor
    name: LossName = "cross-entropy"
    targets: Tensor | None = None
    """A class for each image; None where any other will do."""

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image; a ``Loss``, for the images that this goal is of."""
        if self.targets is None:
            return LOSSES[self.name](scores, labels)
        return TARGETED[self.name](scores, labels, self.targets)

    def select(self, index: Tensor) -> Goal:
        """Return the goal of the images at ``index``."""
        return Goal(self.labels[index], self.name, None if self.targets is None else self.targets[index])


def likeliest(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the ``count`` classes beside each label that score highest, best first, N×count; fewer where there are."""
    others = scores.float().scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, scores.shape[1] - 1), dim=1).indices


def suffix(loss: LossName) -> str:
    """Return what the label of an attack ends with; nothing for cross-entropy."""
    return "" if loss == "cross-entropy" else f"-{loss}"
