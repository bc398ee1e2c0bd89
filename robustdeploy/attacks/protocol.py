"""What a gradient attack is, and the steps that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.attacks.losses import Loss, cross_entropy
from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError
from robustdeploy.onboard.types import Threat


class GradientAttack(Protocol):
    """An adversary that follows the gradient of a net on the host. It proposes images; it never judges itself.

    It declares the norms that it attacks in as a class attribute, ``NORMS: ClassVar[tuple[str, ...]]``; by default
    ``linf`` alone.
    """

    @property
    def label(self) -> str:
        """Name of its rows in the report, e.g. ``pgd-50-10``."""
        ...

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return adversarial images for ``images`` (N×C×H×W in [0, 1], whole grey levels), inside the threat's ball."""
        ...


def box(images: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
    """Lowest and highest value each pixel may take, whole grey levels both; the radius is rounded down to those.

    Of an ℓ∞ ball alone: a UsageError in other norms, where pixels share one length.
    """
    if threat.norm != "linf":
        raise UsageError(f"a box was asked for where the threat is an {threat}; see robustdeploy.attacks.ball")
    eps = threat.levels / 255
    # Rounded again, as a float32 difference of grey levels may miss the nearest one by a bit.
    return to_grey_levels((images - eps).clamp_min(0)), to_grey_levels((images + eps).clamp_max(1))


def to_grey_levels(images: Tensor) -> Tensor:
    """Round to the 256 values that an 8-bit image can hold, so that what is attacked is what can be delivered."""
    return torch.round(images * 255) / 255


def input_gradient(
    net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, loss: Loss = cross_entropy
) -> tuple[Tensor, Tensor]:
    """Return the gradient of each image's loss by its pixels, and the scores it was taken at.

    It is zero where the net's graph does not reach back to the pixels; that such a net only looks robust is for the
    evaluation to find out.
    """
    leaf = images.detach().requires_grad_()
    # Evaluation and validation run under no_grad, and an attack needs its gradient all the same.
    with torch.enable_grad():
        scores = net(leaf)
        # A sum and not a mean: each image's gradient is then its own, whatever the size of the batch.
        total = loss(scores, labels).sum()
        (found,) = torch.autograd.grad(total, leaf, allow_unused=True) if total.requires_grad else (None,)
    return torch.zeros_like(leaf) if found is None else found.detach(), scores.detach()
