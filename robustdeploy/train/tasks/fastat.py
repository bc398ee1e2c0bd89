"""FastAT: adversarial training with one signed gradient step from a random start (Wong, Rice and Kolter, ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.errors import TrainingError
from robustdeploy.onboard.types import Threat


@dataclass(frozen=True)
class FastAt:
    """Train on one perturbed copy of each image; both passes run in training mode, as in the paper's code."""

    alpha: float | None = None
    """Step in pixels of [0, 1]; unset means 1.25 · eps, the paper's 10/255 at eps 8/255."""

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], not {self.alpha}")

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the cross-entropy on the perturbed batch, and the accuracy on it."""
        low, high = (images - threat.eps).clamp_min(0), (images + threat.eps).clamp_max(1)
        start = images + threat.eps * (2 * noise.uniform(0, tuple(images.shape[1:])) - 1)
        start = torch.minimum(torch.maximum(start, low), high).requires_grad_()
        loss = nn.functional.cross_entropy(net(start).float(), labels)
        (gradient,) = torch.autograd.grad(loss, start, allow_unused=True)
        if gradient is None:
            raise TrainingError("the net cuts the graph between pixels and scores, so FastAT has no gradient to follow")
        alpha = 1.25 * threat.eps if self.alpha is None else self.alpha
        attacked = torch.minimum(torch.maximum(start.detach() + alpha * gradient.sign(), low), high)
        scores = net(attacked).float()
        return {
            "loss": nn.functional.cross_entropy(scores, labels),
            "accuracy": (scores.detach().argmax(1) == labels).float().mean(),
        }


plugin = FastAt
