"""AMC: how many channels each group keeps is searched by reinforcement learning on the trained net (He et al., 2018).

"AMC: AutoML for model compression and acceleration on mobile devices" (ECCV 2018) walks through the layers and lets an
agent say what share of each stays. Here it walks through the channel groups. An action is cut where the budget would
leave too little for the groups behind it, and what is left over at the end is given out, so every episode uses the
budget up. Which channels stay is told by the ℓ1 norm of their weights. In place of the paper's least squares, batch
normalisation is settled anew on a few batches. The counts of the best episode are cut, once, before the training, whose
phases are the fine-tuning.

The reward is that of Vemparala et al. (CVPR Workshop SAIAD 2021): accuracy · log10(ψ). They do not define ψ. Here it is
one over the mean divergence KL(f(x) ‖ f(x + δ)), at least 1.001; δ is one FGSM step on the dense net and stays for the
whole search. No net is credited with a smaller divergence than the dense net has: one that answers all images alike
has none, and would win.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.bounds import Count
from robustdeploy.core.recipe import Budget
from robustdeploy.data.images import pixels
from robustdeploy.data.noise import Noise
from robustdeploy.nets.size import WEIGHTED, size_of
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.courses import Once
from robustdeploy.prune.ddpg import Ddpg, Transitions
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.masked_channels import (
    MaskedChannels,
    Prunable,
    highest_channels,
    prunable,
    rehearsed_channels,
)
from robustdeploy.prune.one_shot import MeanMagnitude
from robustdeploy.prune.protocol import Look, Prepared

LEAST = 0.2
"""Least share of a group that an action may keep, as in the authors' program; less where the budget needs it."""
SIGMA, DECAY = 0.5, 0.95
"""Spread of the noise on actions when the policy begins to learn, and what of it each episode leaves."""
REMEMBERED = 100
"""Episodes that the agent learns from."""
BATCH = 64
SETTLED = 4
"""Batches on which batch normalisation is settled in each episode."""
FLOOR = 1.001
"""Of ψ, so that no reward is below zero."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Amc:
    """Channels in counts that a search finds on the trained net, for its accuracy and how little an attack moves it."""

    reward: Literal["kl", "accuracy"] = "kl"
    """What an episode is worth: accuracy · log10(ψ), or the accuracy alone, on held-out images."""
    episodes: Count = 400
    """Smaller nets that are looked at."""
    warmup: Count = 100
    """Of these, how many are drawn at random before the agent acts."""

    removes_channels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.warmup > self.episodes:
            raise ValueError(f"warmup must not be above episodes ({self.episodes})")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedChannels:
        """Attach to ``net`` for images of C×H×W; BudgetError when ``budget`` is out of reach."""
        channels = prunable(net, image_shape, budget, floor=LEAST)
        filters = ChannelWeights.of_filters(net, channels.groups)
        walk = Walk(net, channels)
        return rehearsed_channels(
            net, image_shape, channels, filters, Once(0.0), lambda tensors: (Searched(walk, filters, self), None)
        )


class Walk:
    """The way through the groups: what the agent sees before each, and which counts its actions come to."""

    def __init__(self, net: nn.Module, channels: Prunable) -> None:
        self.channels = channels
        model, limits = channels.model, channels.limits
        self.sizes = limits.most
        self._ladders = [
            np.unique(np.append(np.arange(low, high + 1, quantum), high))
            for low, high, quantum in zip(limits.fewest, limits.most, limits.quantum, strict=True)
        ]
        # By the limit that binds; operations where none does.
        self._cost = next(iter([*model.binding, "ops"]))
        places = {name: place for place, (name, _) in enumerate(net.named_modules())}
        firsts = [min(places[member.layer] for member in group.members) for group in channels.groups]
        self.order: Counts = np.argsort(firsts, kind="stable")
        """Numbers of the groups, those at the net's input first."""
        self._turns = np.argsort(self.order)
        layers = np.array([_traits(net, turn, channels.groups[number]) for turn, number in enumerate(self.order)])
        span = np.ptp(layers, axis=0)
        self._layers = (layers - layers.min(0)) / np.where(span == 0, 1, span)
        self.width = self._layers.shape[1] + 3

    def states(self, counts: Counts) -> npt.NDArray[np.float32]:
        """Return what is seen before each group, in their order, when those before it keep ``counts``."""
        limits, number = self.channels.limits, len(counts)
        done = self._turns[None, :] < np.arange(number)[:, None]
        cost, dense = self.channels.model.costs[self._cost], self.channels.model.dense[self._cost]
        now = cost.of(np.where(done, counts, limits.most).astype(float)) / dense
        least = cost.of(np.where(done, counts, limits.fewest).astype(float)) / dense
        last = np.concatenate([[1.0], self.shares(counts)[:-1]])
        moving = np.stack([1 - now, now - least, last], 1)
        return np.concatenate([self._layers, moving], 1).astype(np.float32)

    def shares(self, counts: Counts) -> npt.NDArray[np.float64]:
        """Return what the groups keep, in their order."""
        kept: npt.NDArray[np.float64] = (counts / self.sizes)[..., self.order]
        return kept

    def clipped(self, counts: Counts, number: int, share: float) -> int:
        """Return the count nearest below ``share`` of group ``number`` that leaves enough for the groups behind it."""
        limits, ladder = self.channels.limits, self._ladders[number]
        behind = self._turns > self._turns[number]
        choices = np.tile(np.where(behind, limits.fewest, counts), (len(ladder), 1))
        choices[:, number] = ladder
        fits = self.channels.model.utilisation(choices.astype(float)) <= 1
        # The least always fits, as the counts before were chosen so; rounding up lets a share of 1 mean all.
        wanted = ladder[fits & (ladder <= max(ladder[0], math.ceil(share * self.sizes[number])))]
        return int(wanted[-1]) if len(wanted) else int(ladder[0])

    def filled(self, counts: Counts) -> Counts:
        """Return counts that use the budget up, all groups grown from ``counts`` by about the same share."""
        worth = [
            (count - np.arange(size) - 0.5) / size for count, size in zip(counts.tolist(), self.sizes, strict=True)
        ]
        return np.array(self.channels.counts(worth), dtype=np.int64)


def _traits(net: nn.Module, turn: int, group: ChannelGroup) -> list[float]:
    """Return what the agent sees of a group: where it is, and the shape of the first layer that makes it."""
    modules = [net.get_submodule(member.layer) for member in group.members if member.side == "out"]
    makers = [module for module in modules if isinstance(module, WEIGHTED)]
    first = makers[0] if makers else modules[0]
    size, weights = size_of(first), sum(module.weight.numel() for module in makers)
    convolution = getattr(first, "kernel_size", None) is not None
    stride = float(cast(tuple[int, ...], first.stride)[0]) if convolution else 1.0
    kernel = float(cast(tuple[int, ...], first.kernel_size)[0]) if convolution else 1.0
    inputs = float(size.inputs) if size is not None else float(group.size)
    return [float(turn), float(convolution), inputs, float(group.size), stride, kernel, float(weights)]


class Searched(nn.Module):
    """Channels compete by the mean magnitude of their weights; how many of a group stay, a search has found."""

    def __init__(self, walk: Walk, filters: ChannelWeights, options: Amc) -> None:
        super().__init__()
        self._walk, self._filters, self._options = walk, filters, options
        self.values = MeanMagnitude(filters).values
        groups = len(walk.sizes)
        self.agent = Ddpg(walk.width)
        # All on the CPU, where nets as small as the agent's are quicker.
        self.register_buffer("episodes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("tried", torch.zeros(REMEMBERED, groups, dtype=torch.int64))
        self.register_buffer("rewards", torch.zeros(REMEMBERED, dtype=torch.float64))
        self.register_buffer("best", torch.tensor(walk.channels.even, dtype=torch.int64))
        self.register_buffer("best_reward", torch.zeros((), dtype=torch.float64))

    def counts(self) -> list[int]:
        """Return the counts of the best episode; of equal shares where nothing was searched."""
        return [int(count) for count in cast(Tensor, self.best)]

    def search(self, net: nn.Module, look: Look) -> Iterator[Prepared]:
        """Look at one smaller net after the other."""
        channels = self._walk.channels
        begun, episodes = int(cast(Tensor, self.episodes)), self._options.episodes
        # Where all channels fit there is nothing to choose.
        if begun == episodes or float(channels.model.utilisation(channels.limits.most.astype(float))) <= 1:
            return
        values = self.values([net.get_parameter(name).detach() for name in self._filters.names], [])
        trial = Trial(net, channels, values, look, self._options.reward)
        for episode in range(begun, episodes):
            # Of the episode alone, so that a search that was cut draws what it would have drawn.
            generator = torch.Generator().manual_seed(key(look.seed, "amc", episode) >> 1)
            if episode == 0:
                self.agent.begin(generator)
            counts = self._walked(episode, generator)
            reward = trial.reward(counts)
            # Nothing is looked at from here on, so a checkpoint holds an episode whole or not at all.
            self._remember(episode, counts, reward)
            if episode >= self._options.warmup:
                self._learn(episode, generator)
            best = float(cast(Tensor, self.best_reward))
            yield Prepared("searching channels", episode + 1, episodes, {"reward": reward, "best_reward": best})

    def _walked(self, episode: int, generator: torch.Generator) -> Counts:
        """Return the counts of an episode: at random at first, then the agent's actions under noise."""
        counts = self._walk.sizes.copy()
        draws = torch.rand(len(counts), generator=generator, dtype=torch.float64).tolist()
        for turn, (number, draw) in enumerate(zip(self._walk.order.tolist(), draws, strict=True)):
            share = draw
            if episode >= self._options.warmup:
                state = torch.from_numpy(self._walk.states(counts)[turn : turn + 1])
                sigma = SIGMA * DECAY ** (episode - self._options.warmup)
                share = truncated(float(self.agent.act(state)), sigma, draw)
            counts[number] = self._walk.clipped(counts, number, share)
        return self._walk.filled(counts)

    def _remember(self, episode: int, counts: Counts, reward: float) -> None:
        place, best = episode % REMEMBERED, cast(Tensor, self.best_reward)
        found = torch.from_numpy(counts)
        cast(Tensor, self.tried)[place] = found
        cast(Tensor, self.rewards)[place] = reward
        if episode == 0 or reward > float(best):
            cast(Tensor, self.best).copy_(found)
            best.fill_(reward)
        cast(Tensor, self.episodes).fill_(episode + 1)

    def _learn(self, episode: int, generator: torch.Generator) -> None:
        """Make as many updates as an episode has actions, on actions of those that are remembered."""
        tried = cast(Tensor, self.tried)[: episode + 1].numpy()
        rewards = cast(Tensor, self.rewards)[: episode + 1].float()
        states = torch.from_numpy(np.stack([self._walk.states(counts) for counts in tried]))
        shares = torch.from_numpy(self._walk.shares(tried)).float()
        many, groups, _ = states.shape
        for _ in range(groups):
            drawn = torch.randint(many * groups, (BATCH,), generator=generator)
            which, turn = drawn // groups, drawn % groups
            following, ends = states[which, (turn + 1).clamp_max(groups - 1)], turn == groups - 1
            # The reward comes at the end alone, and is given to every action (AMC, section 3.3).
            self.agent.learn(Transitions(states[which, turn], shares[which, turn], rewards[which], following, ends))


def truncated(mean: float, sigma: float, draw: float) -> float:
    """Return the number at ``draw`` (from 0 to 1) of a normal distribution that is cut to [0, 1]."""
    if sigma < 1e-6:
        return mean
    normal = NormalDist(mean, sigma)
    low, high = normal.cdf(0), normal.cdf(1)
    # What lies at an end is at infinity for the distribution itself.
    at = min(max(low + draw * (high - low), 1e-12), 1 - 1e-12)
    return min(1.0, max(0.0, normal.inv_cdf(at)))


class Trial:
    """What a choice of counts is worth before any fine-tuning, on held-out images."""

    def __init__(
        self,
        net: nn.Module,
        channels: Prunable,
        values: Sequence[Tensor],
        look: Look,
        kind: Literal["kl", "accuracy"],
    ) -> None:
        self._net, self._channels, self._values, self._look, self._kind = net, channels, values, look, kind
        self._attacked: Tensor | None = None
        self.least = 0.0
        """The dense net's divergence, below which no net is credited."""
        if kind == "kl":
            attacked = look.judged(net, lambda images, labels, noise: Fgsm()(net, images, labels, look.threat, noise))
            self._attacked = (attacked * 255).round().to(torch.uint8)
            self.least = self._judged(net)[1]

    def reward(self, counts: Counts) -> float:
        """Return accuracy · log10(ψ) of the net with so many channels of each group, or its accuracy."""
        small = self.smaller(counts)
        self._look.settle(small, SETTLED)
        accuracy, divergence = self._judged(small)
        worth = accuracy if self._kind == "accuracy" else accuracy * math.log10(psi(max(divergence, self.least)))
        # A net that a cut has broken may give numbers that are none; it is worth nothing.
        return worth if math.isfinite(worth) else 0.0

    def smaller(self, counts: Counts) -> nn.Module:
        """Return the net with so many channels of each group, those of the highest values."""
        groups = self._channels.groups
        kept = {
            group.name: torch.nonzero(highest_channels(value, int(count)).cpu()).view(-1)
            for group, value, count in zip(groups, self._values, counts, strict=True)
        }
        return compact_net(self._net, groups, kept)

    def _judged(self, net: nn.Module) -> tuple[float, float]:
        """Return the accuracy of ``net``, and the mean divergence of what it says of attacked images."""

        def judge(images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
            scores = net(images)
            rows = CLASSIFICATION.right(scores, labels).double()
            if self._attacked is None:
                return torch.stack([rows, torch.zeros_like(rows)], 1)
            moved = net(pixels(self._attacked[noise.ids]))
            return torch.stack([rows, divergences(scores, moved)], 1)

        accuracy, divergence = self._look.judged(net, judge).mean(0).tolist()
        return accuracy, divergence


def divergences(scores: Tensor, moved: Tensor) -> Tensor:
    """Return, per image, KL(f(x) ‖ f(x + δ)) of two nets' probabilities, in nats."""
    before, after = (F.log_softmax(each.double(), 1) for each in (scores, moved))
    return F.kl_div(after, before, reduction="none", log_target=True).sum(1).clamp_min(0)


def psi(divergence: float) -> float:
    """Return ψ, one over the mean divergence, but not below FLOOR."""
    return max(1 / max(divergence, 1e-12), FLOOR)


plugin = Amc
