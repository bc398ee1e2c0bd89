"""Beta-Bernoulli masks: each channel has a probability of its own to be there, drawn for every image (ANP).

Madaan, Shin and Hwang, "Adversarial neural pruning with latent vulnerability suppression" (ICML 2020), with the masks
of Lee et al., "Adaptive network sparsification with dependent variational Beta-Bernoulli dropout" (2018). A channel's
probability π has the prior Beta(α, 1), which wants most of them near zero, and the posterior Kumaraswamy(a, b). Where
nothing is drawn a channel is multiplied by E[π]. With the task ``anp-vs`` the masks follow the attacked images' loss
alone, and with ``standard`` this is Bayesian pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.core.bounds import Positive, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.courses import Once
from robustdeploy.prune.masked_channels import MaskedChannels, in_one_order, prunable, rehearsed_channels
from robustdeploy.prune.protocol import PhaseInfo

EULER = 0.5772156649015329
LEAST, MOST = -10.0, 50.0
"""What the numbers behind a and b are cut to, as in the authors' program."""


@dataclass(frozen=True)
class BetaBernoulli:
    """Channels by the expectation of masks that are drawn for each image, and learn beside the weights."""

    alpha: Positive = 1e-4
    """Of the prior Beta(alpha, 1); the smaller it is, the fewer channels it wants."""
    beta: Positive = 1.0
    """Weight of the divergence from the prior, which is divided by the number of training images."""
    temperature: Positive = 0.1
    """Of the drawn masks, which are smooth: near 0 they are 0 or 1."""
    start: Share = 0.68
    """Expectation that each mask begins with. The authors have 0.68 for VGG's convolutions and 0.24 elsewhere."""
    lr: Positive = 0.01
    """Rate of the masks' own Adam, whatever moves the weights."""
    threshold: Share = 1e-3
    """Without a budget: channels of a lower expectation go."""
    freeze: Share = 0.5
    """Share of the training after which the channels are chosen and stay."""

    needs_budget: ClassVar[bool] = False
    """Without one the threshold decides."""
    averages: ClassVar[bool] = False
    """At the freeze the expectations go into the weights, and averages from before would not know."""

    def __post_init__(self) -> None:
        if not 0 < self.start < 1:
            raise ValueError(f"start must be above 0 and below 1, not {self.start}")
        if self.freeze == 0:
            raise ValueError("freeze must be above 0: there must be steps in which the masks learn")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedChannels:
        """Attach masks to ``net`` for images of C×H×W; BudgetError when ``budget`` is out of reach."""
        channels = prunable(net, image_shape, budget)
        sizes = [group.size for group in channels.groups]
        device = next(net.parameters()).device
        return rehearsed_channels(
            net,
            image_shape,
            channels,
            ChannelWeights.of_filters(net, channels.groups),
            Once(self.freeze),
            lambda tensors: (BetaMasks(sizes, self, device), in_one_order),
        )


class BetaMasks(nn.Module):
    """The posteriors of all channels, group behind group."""

    def __init__(self, sizes: Sequence[int], options: BetaBernoulli, device: torch.device) -> None:
        super().__init__()
        self.sizes, self.options, self._images = list(sizes), options, 1
        total = sum(sizes)
        # With b = 1 the expectation is a / (a + 1).
        a = options.start / (1 - options.start)
        self.raw_a = nn.Parameter(torch.full((total,), _before_softplus(a), device=device))
        self.raw_b = nn.Parameter(torch.full((total,), _before_softplus(1.0), device=device))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool, device=device))

    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Let the masks act from here on; until then the net is as it would be without them."""
        self._images = phase.images
        cast(Tensor, self.begun).fill_(True)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return a and b of each channel's Kumaraswamy distribution, in float64: log-gammas are differences."""
        a = F.softplus(self.raw_a.double().clamp_min(LEAST))
        return a, F.softplus(self.raw_b.double().clamp(LEAST, MOST))

    def expected(self) -> Tensor:
        """Return E[π] of each channel, b · B(1 + 1/a, b)."""
        a, b = self.posterior()
        beta = torch.lgamma(1 + 1 / a) + torch.lgamma(b) - torch.lgamma(1 + 1 / a + b)
        return b * beta.exp()

    def divergence(self) -> Tensor:
        """Return KL(Kumaraswamy(a, b) ‖ Beta(α, 1)) summed over the channels (Nalisnick and Smyth, ICLR 2017)."""
        a, b = self.posterior()
        alpha = self.options.alpha
        of_powers = (1 - alpha / a) * (-EULER - torch.digamma(b) - 1 / b)
        return (of_powers + (a * b / alpha).log() - (b - 1) / b).sum()

    def penalty(self, weights: Sequence[Tensor]) -> Tensor | None:
        """Return the divergence as a share of what all training images say, so that it counts once for all of them."""
        return (self.options.beta * self.divergence() / self._images).float()

    def factors(self, images: int) -> list[Tensor]:
        """Draw masks for so many images from torch's generator; per group, images × channels."""
        a, b = (value.float() for value in self.posterior())
        shape, device = (images, len(a)), a.device
        # π = (1 − u^(1/b))^(1/a), as a logarithm: most of it lies where π itself would round to 0 or 1.
        log_pi = (log_one_minus_exp(_uniform(shape, device).log() / b) / a).clamp_max(-1e-7)
        logit_pi = log_pi - log_one_minus_exp(log_pi)
        masks = torch.sigmoid((torch.logit(_uniform(shape, device)) + logit_pi) / self.options.temperature)
        return list(torch.split(masks, self.sizes, 1))

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return the expectations."""
        return list(torch.split(self.expected().detach(), self.sizes))

    def counts(self) -> list[int]:
        """Return how many channels of each group are above the threshold, one at least."""
        above = torch.split(self.expected().detach() >= self.options.threshold, self.sizes)
        return [max(1, int(part.sum())) for part in above]

    def masks(self, keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return what channels are multiplied by where no mask is drawn."""
        expected = self.expected() if bool(cast(Tensor, self.begun)) else torch.ones_like(self.raw_a)
        return list(torch.split(expected.to(self.raw_a.dtype), self.sizes))

    def gains(self) -> list[Tensor]:
        """Return what kept channels stay multiplied by."""
        return [mask.detach() for mask in self.masks([])]

    def own_parameters(self) -> list[dict[str, object]]:
        """Give both numbers of each channel Adam at a rate of its own; nothing pulls them to zero but the prior."""
        own = {"lr": self.options.lr, "weight_decay": 0.0, "rule": "adam", "name": "masks"}
        return [{"params": [self.raw_a, self.raw_b], **own}]


def log_one_minus_exp(x: Tensor) -> Tensor:
    """Return log(1 − eˣ) for x < 0, exact at both ends (Mächler 2012)."""
    return (-torch.expm1(x)).log()


def _uniform(shape: tuple[int, int], device: torch.device) -> Tensor:
    # Away from both ends, where the logarithms have no value.
    return torch.rand(shape, device=device).clamp(1e-6, 1 - 1e-6)


def _before_softplus(value: float) -> float:
    """Return the number whose softplus, log(1 + eˣ), is ``value``."""
    return log(exp(value) - 1)


plugin = BetaBernoulli
