"""TRADES: cross-entropy on clean images, plus how far an attack moves the net's opinion (Zhang et al., ICML 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor, nn

from robustdeploy.core.bounds import Count, Positive, Step
from robustdeploy.cost.module import evaluating
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.mixing import accuracy, both
from robustdeploy.train.protocol import ADVERSARIAL
from robustdeploy.train.tasks.ascent import ball, check_count, check_step, inside, spread, step_up

START = 0.001
"""Standard deviation of the noise an attack starts from, in pixels of [0, 1]; at no distance there is no slope."""


@dataclass(frozen=True)
class Trades:
    """Minimise cross-entropy(clean) + beta · KL(clean ‖ attacked), the attack having climbed that KL.

    As in the paper's code the attack sees the net in eval mode and the loss comes from training mode, with a gradient
    through both sides of the KL. Two things differ: the noise of the start is uniform, of the same deviation as the
    paper's normal one, and clean and attacked images are scored as one batch, for the reasons given in ``mixing``.
    """

    beta: Positive = 6.0
    """Weight of the KL; the paper's 1/λ."""
    steps: Count = 10
    """Gradient steps per batch; each costs a pass forward and back."""
    alpha: Step | None = None
    """Step in pixels of [0, 1]; unset means eps / 4 (the paper's 0.007 at eps 0.031 is eps / 4.4)."""

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_step(self.alpha)
        if not (isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta must be above 0, not {self.beta}")

    def __call__(
        self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Mapping[str, Tensor]:
        """Return the loss, ``accuracy`` on the perturbed batch and ``clean_accuracy`` on the images as they are."""
        with evaluating(net):
            attacked = self._attacked(net, images, threat, noise)
        scores, on_clean = both(net, attacked, images)
        natural = nn.functional.cross_entropy(on_clean, labels)
        return {
            # The mean over images, as cross-entropy is; summed, beta would grow with the batch.
            "loss": natural + self.beta * divergence(scores, on_clean) / len(labels),
            "accuracy": accuracy(scores, labels),
            "clean_accuracy": accuracy(on_clean, labels),
            ADVERSARIAL: attacked,
        }

    def _attacked(self, net: nn.Module, images: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Climb the KL from close to ``images``.

        The first step is never in bfloat16: so close to an image most scores, and for some images all, round to those
        of the image itself, and an attack that has no slope there stays there.
        """
        room = ball(images, threat.eps)
        # A uniform number in ± r has standard deviation r/√3.
        moved = inside(images + spread(noise.uniform(0, tuple(images.shape[1:])), START * sqrt(3)), room)
        alpha = threat.eps / 4 if self.alpha is None else self.alpha
        with torch.autocast(images.device.type, enabled=False):
            # Fixed during the attack: it climbs away from what the net says of the clean image.
            opinion = net(images).float().detach()
            moved = step_up(lambda x: divergence(net(x).float(), opinion), moved, alpha, room, "TRADES")
        for _ in range(self.steps - 1):
            moved = step_up(lambda x: divergence(net(x).float(), opinion), moved, alpha, room, "TRADES")
        return moved


def divergence(scores: Tensor, from_scores: Tensor) -> Tensor:
    """Return KL(softmax(from_scores) ‖ softmax(scores)), summed over the rows of two N×K tables of scores.

    Both sides stay logarithms: the slope of p · log p has no value at the zeros that a softmax rounds to.
    """
    return nn.functional.kl_div(scores.log_softmax(1), from_scores.log_softmax(1), reduction="sum", log_target=True)


plugin = Trades
