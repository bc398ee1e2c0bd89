"""Mixing: the loss on attacked images, with a share of it taken from the same images as they are.

Wang et al., "Adversarial robustness of pruned neural networks" (ICLR workshop 2018), train on clean and adversarial
images alike. Both halves go through the net as one batch. Batch normalisation then uses one set of statistics for
both, as the exported net will, which has only one; two passes would each be normalised by their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.train.protocol import ADVERSARIAL


def mixed(net: nn.Module, attacked: Tensor, images: Tensor, labels: Tensor, clean: float) -> dict[str, Tensor]:
    """Return ``loss``, (1 - clean) · cross-entropy on ``attacked`` + clean · cross-entropy on ``images``.

    Beside it ``accuracy`` on the attacked images and, when clean ones have a share, ``clean_accuracy``. ``attacked``,
    given back as ``adversarial``, and ``images`` are N×C×H×W. Without a share the clean images are not scored at all.
    """
    # Not only cheaper: clean images in the batch would change the statistics that the attacked ones are normalised by.
    if clean == 0:
        # Under autocast scores are bfloat16, whose eight bits would round the loss away from small differences.
        scores = net(attacked).float()
        return {
            "loss": nn.functional.cross_entropy(scores, labels),
            "accuracy": accuracy(scores, labels),
            ADVERSARIAL: attacked.detach(),
        }
    scores, on_clean = both(net, attacked, images)
    losses = [nn.functional.cross_entropy(s, labels) for s in (scores, on_clean)]
    return {
        "loss": (1 - clean) * losses[0] + clean * losses[1],
        "accuracy": accuracy(scores, labels),
        "clean_accuracy": accuracy(on_clean, labels),
        ADVERSARIAL: attacked.detach(),
    }


def both(net: nn.Module, attacked: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of ``attacked`` and of ``images``, N×K each in float32, from one pass over the two."""
    scores = net(torch.cat([attacked, images])).float()
    return scores[: len(attacked)], scores[len(attacked) :]


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the share of rows whose highest score is the label's, without a gradient."""
    share: Tensor = CLASSIFICATION.right(scores.detach(), labels).float().mean()
    return share


def check_share(clean: float) -> None:
    """Raise ValueError unless ``clean`` leaves a share of the loss to the attacked images."""
    if not 0 <= clean < 1:
        raise ValueError(f"clean must be in [0, 1), not {clean}; for clean images alone there is the task 'standard'")
