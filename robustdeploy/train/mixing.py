"""Mixing: the loss on attacked images, with a share of it taken from the same images as they are.

Wang et al., "Adversarial robustness of pruned neural networks" (ICLR workshop 2018), train on clean and adversarial
images alike. Both halves go through the net as one batch. Batch normalisation then uses one set of statistics for
both, as the exported net will, which has only one; two passes would each be normalised by their own.
"""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn

from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.prune.gates import versions
from robustdeploy.train.features import latent, magnitude
from robustdeploy.train.protocol import ADVERSARIAL


def mixed(
    net: nn.Module, attacked: Tensor, images: Tensor, labels: Tensor, clean: float, l1: float = 0.0
) -> dict[str, Tensor]:
    """Return ``loss``, (1 - clean) · cross-entropy on ``attacked`` + clean · cross-entropy on ``images``.

    Beside it ``accuracy`` on the attacked images and, when clean ones have a share, ``clean_accuracy``. ``attacked``,
    given back as ``adversarial``, and ``images`` are N×C×H×W. Without a share the clean images are not scored at all.
    With ``l1`` the loss gets so much of the mean ``magnitude`` of latent features.
    """
    if l1:
        with latent(net) as maps:
            numbers = mixed(net, attacked, images, labels, clean)
        return sparse(numbers, magnitude(maps), l1)
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
    # Masks that a pruner draws for each image are the same for an image and its attacked version.
    with versions(len(images)):
        scores = net(torch.cat([attacked, images])).float()
    return scores[: len(attacked)], scores[len(attacked) :]


def sparse(numbers: dict[str, Tensor], size: Tensor, l1: float) -> dict[str, Tensor]:
    """Return a task's ``numbers`` with ``l1`` times the mean magnitude of features in the loss, and that beside it."""
    return {**numbers, "loss": numbers["loss"] + l1 * size, "activation": size.detach()}


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the share of rows whose highest score is the label's, without a gradient."""
    share: Tensor = CLASSIFICATION.right(scores.detach(), labels).float().mean()
    return share


def check_l1(l1: float) -> None:
    """Raise ValueError unless ``l1`` is a weight of activations in the loss."""
    if not (isfinite(l1) and l1 >= 0):
        raise ValueError(f"l1 must be 0 or more, not {l1}")


def check_share(clean: float) -> None:
    """Raise ValueError unless ``clean`` leaves a share of the loss to the attacked images."""
    if not 0 <= clean < 1:
        raise ValueError(f"clean must be in [0, 1), not {clean}; for clean images alone there is the task 'standard'")
