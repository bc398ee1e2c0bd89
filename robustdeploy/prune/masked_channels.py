"""Masked channels: the one net of pruners that rank channels and cut them for the budget, and then go on smaller.

A scorer gives each channel a value; the highest of a group stay. How many stay of each group is one search for counts
that use the budget up (see ``prune.budget``), in which a spread says what the first, second, … channel of a group is
worth beside those of others. A course says when the masks are set. The hooks of a scorer are those of
``prune.masked_weights``; the weights that it is shown are the ones that make the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import copied
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.budget import Limits, exact_counts, limits_meeting
from robustdeploy.prune.channel_weights import ChannelWeights
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.costs import CostModel, cost_model
from robustdeploy.prune.courses import Course
from robustdeploy.prune.folding import Folding
from robustdeploy.prune.follow import OUTPUT
from robustdeploy.prune.gates import Gates, draws
from robustdeploy.prune.groups import ChannelGroup, told_whole
from robustdeploy.prune.masked_weights import Beginning, Following, Learnt, Penalising
from robustdeploy.prune.protocol import Look, PhaseInfo, Prepared, StepData
from robustdeploy.prune.rehearsal import find_groups, rehearse

Worth = list[npt.NDArray[np.float64]]


class ChannelScorer(Protocol):
    """What channels compete by."""

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return, per group, a value of each channel, the highest first, from the weights that make them."""
        ...


@runtime_checkable
class Masking(Protocol):
    """A channel scorer that the loss reaches."""

    def masks(self, keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return, per group, what the channels are multiplied by until they are chosen."""
        ...


@runtime_checkable
class Gating(Protocol):
    """A channel scorer that draws masks for each image while it learns, and uses their expectation elsewhere."""

    def factors(self, images: int) -> list[Tensor]:
        """Draw what the channels are multiplied by: per group, images × channels."""
        ...

    def gains(self) -> list[Tensor]:
        """Return, per group, what the channels that stay are multiplied by for good."""
        ...


@runtime_checkable
class Searching(Protocol):
    """A channel scorer that looks at smaller nets before the first step that trains scores."""

    def search(self, net: nn.Module, look: Look) -> Iterator[Prepared]:
        """Do what ``Preparing.prepare`` does; ``net`` is dense, and stays as it is."""
        ...


ChannelSpread = Callable[[Sequence[Tensor]], Worth]
"""From the values, per group what its first, second, … channel is worth beside those of the others, falling."""


def in_one_order(values: Sequence[Tensor]) -> Worth:
    """Compare channels of all groups by their values."""
    return [np.sort(value.double().cpu().numpy())[::-1] for value in values]


def in_equal_shares(values: Sequence[Tensor]) -> Worth:
    """Have every group keep the same share."""
    return [1 - (np.arange(len(value)) + 0.5) / len(value) for value in values]


@dataclass(frozen=True)
class Prunable:
    """The channel groups of a net, what they cost, and the counts that are allowed."""

    groups: tuple[ChannelGroup, ...]
    model: CostModel
    limits: Limits
    even: tuple[int, ...]
    """Channels of each group where all keep about the same share and the budget is used up."""
    whole: Mapping[str, str]
    """Layers that keep all or some of their channels in any case, with the reason."""

    @property
    def shares(self) -> list[float]:
        """Per group, the share of its channels in ``even``."""
        return [count / group.size for count, group in zip(self.even, self.groups, strict=True)]

    def counts(self, worth: Worth) -> tuple[int, ...]:
        """Return counts that use the budget up, close to the ranking of ``worth``."""
        try:
            return tuple(int(count) for count in exact_counts(self.model, worth, self.limits))
        except BudgetError:
            # From this ranking no count was found that fits, and there is one: the training must not end here.
            return self.even

    def allowed(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return ``counts``, raised to the next that the multiples allow."""
        return tuple(int(count) for count in self.limits.raised(np.array(counts, dtype=np.int64)))


def prunable(net: nn.Module, image_shape: tuple[int, int, int], budget: Budget, floor: float = 0.0) -> Prunable:
    """Return what channels of ``net`` can be cut for images of C×H×W; BudgetError when ``budget`` is out of reach.

    Each group keeps at least the share ``floor``, or less where the budget needs it.
    """
    coupling = find_groups(net, image_shape)
    # Whatever makes a budget unreachable is mostly a layer that stays whole, so every refusal ends with their names.
    left = told_whole(coupling.whole)
    if not coupling.groups:
        why = left or f" ({OUTPUT})"
        raise BudgetError(f"no channels of this {kind_of(net)} can be removed{why}; prune single weights instead")
    try:
        model = cost_model(net, coupling.groups, image_shape, budget)
        sizes = [group.size for group in coupling.groups]
        # What no choice of channels reaches is refused here, before training, by the same ranking.
        limits = limits_meeting(budget, model, sizes, floor)
        even = exact_counts(model, [np.arange(size) / size for size in sizes], limits)
    except BudgetError as problem:
        raise BudgetError(f"{problem}{left}") from problem
    return Prunable(coupling.groups, model, limits, tuple(int(count) for count in even), coupling.whole)


class MaskedChannels(nn.Module):
    """A net whose channels are multiplied by masks, folded into the parameters behind them (see ``Folding``)."""

    removes_channels = True

    def __init__(
        self,
        net: nn.Module,
        channels: Prunable,
        weights: ChannelWeights,
        scorer: ChannelScorer,
        spread: ChannelSpread | None,
        course: Course,
    ) -> None:
        super().__init__()
        self.net = net
        self._channels = channels
        self.groups, self.model, self.whole = channels.groups, channels.model, channels.whole
        self.scorer = scorer
        self._weights, self._spread, self.course = weights, spread, course
        self._folding = Folding(net, self.groups)
        self._gates = Gates(net, self._folding.carriers)
        self._learns, self._end = True, course.freeze
        device = next(net.parameters()).device
        for number, group in enumerate(self.groups):
            self.register_buffer(f"keep{number}", torch.ones(group.size, dtype=torch.bool, device=device))
        # Counted in buffers, so that a resumed training sets its masks in the same steps.
        for counter in ("steps", "settings", "flips"):
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=device))

    @property
    def module(self) -> nn.Module:
        """The net under its masks: this."""
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether the masks have stopped changing."""
        return bool(cast(Tensor, self.frozen))

    @property
    def keeps(self) -> list[Tensor]:
        """Per group, which of its channels are kept now."""
        return [cast(Tensor, getattr(self, f"keep{number}")) for number in range(len(self.groups))]

    def _values(self) -> list[Tensor]:
        return [self.net.get_parameter(name).detach() for name in self._weights.names]

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked parameters."""
        if isinstance(self.scorer, Gating) and self.training and self._learns and not self.is_frozen:
            with self._gates.multiplying(self.scorer.factors(draws(len(images)))):
                return cast(Tensor, self.net(images))
        dtype = next(self.net.parameters()).dtype
        masks = [keep.to(dtype) for keep in self.keeps]
        if isinstance(self.scorer, Masking) and not self.is_frozen:
            masks = self.scorer.masks(self.keeps)
        # What several modules share carries no mask (see groups.py), so nothing tied has to be looked for.
        return cast(Tensor, functional_call(self.net, self._folding.folded(masks), (images,), tie_weights=False))

    def own_parameters(self) -> list[dict[str, object]]:
        """Return the scorer's, if it has any."""
        return self.scorer.own_parameters() if isinstance(self.scorer, Learnt) else []

    def features(self) -> Sequence[str]:
        """Return no layer."""
        return ()

    def on_phase(self, phase: PhaseInfo) -> None:
        """Learn in phases that train scores, and freeze inside one only where there is something left to train."""
        self._learns = phase.trains_scores
        self._end = None if self.course.freeze is None else phase.freeze(self.course.freeze)
        # On a resume this runs before the checkpoint is loaded, so what it sets here is overwritten.
        if not self._learns or self.is_frozen:
            return
        if isinstance(self.scorer, Beginning):
            self.scorer.begin(self._values(), self.keeps, phase)
        if self.course.at_once:
            self._set_if_due(0.0)

    def prepare(self, look: Look) -> Iterator[Prepared]:
        """Let the scorer search before the first step that trains scores, if it does."""
        if isinstance(self.scorer, Searching):
            yield from self.scorer.search(self.net, look)

    def penalty(self, step: StepData) -> Tensor | None:
        """Add what the scorer asks for, while it learns."""
        if not (self._learns and isinstance(self.scorer, Penalising)):
            return None
        # Not detached: the gradient goes to the weights.
        return self.scorer.penalty([self.net.get_parameter(name) for name in self._weights.names])

    def before_step(self, step: StepData) -> None:
        """Leave the gradients as they are."""

    def after_step(self, progress: float) -> None:
        """Set the masks where that is due, at the freeze for the budget itself."""
        if self.is_frozen or not self._learns:
            return
        if isinstance(self.scorer, Following):
            self.scorer.after_step(progress, self._values(), self.keeps)
        if self._end is not None and progress >= self._end:
            self.finalize()
        elif progress >= self.course.warmup:
            self._set_if_due(progress)
            cast(Tensor, self.steps).add_(1)

    def _set_if_due(self, progress: float) -> None:
        steps, settings = (int(cast(Tensor, counter)) for counter in (self.steps, self.settings))
        if (left := self.course.left(progress, self._end or 1.0, steps, settings)) is not None:
            self._set(at_budget=left == 0)

    def finalize(self) -> None:
        """Choose the channels for the budget itself; they stay from here on."""
        self._set(at_budget=True)
        if isinstance(self.scorer, Gating):
            self._absorb(self.scorer.gains())
        cast(Tensor, self.frozen).fill_(True)

    @torch.no_grad()
    def _absorb(self, gains: Sequence[Tensor]) -> None:
        """Multiply the parameters that scale the channels by ``gains`` for good.

        A group that a shortcut without parameters joins has none there, so its channels are multiplied no more.
        """
        bare = {at.group for at in self._folding.carriers if isinstance(self.net.get_submodule(at.layer), ChannelPad)}
        factors = [torch.ones_like(gain) if number in bare else gain for number, gain in enumerate(gains)]
        for name, value in self._folding.folded(factors).items():
            if not name.endswith(".gain"):
                self.net.get_parameter(name).copy_(value)

    @torch.no_grad()
    def _set(self, *, at_budget: bool) -> None:
        values = self.scorer.values(self._values(), self.keeps)
        if at_budget and self.model.limits and self._spread is not None:
            counts: Sequence[int] = self._channels.counts(self._spread(values))
        else:
            counts = cast(Sharing, self.scorer).counts()
            counts = self._channels.allowed(counts) if at_budget else counts
        for keep, value, count in zip(self.keeps, values, counts, strict=True):
            chosen = highest_channels(value, count)
            cast(Tensor, self.flips).add_((keep != chosen).sum())
            keep.copy_(chosen)
        cast(Tensor, self.settings).add_(1)

    def _counts(self) -> npt.NDArray[np.float64]:
        return np.array([float(keep.sum()) for keep in self.keeps])

    def costs(self) -> Mapping[str, float]:
        """What the channels kept cost: ``ops`` in MACs, ``params``, and ``memory`` in bytes where that is limited."""
        return self.model.of(self._counts())

    def status(self) -> Mapping[str, float]:
        """The operations and the limited costs as fractions of the dense net's, channels kept, and flips so far."""
        costs, told = self.costs(), dict.fromkeys(("ops", *self.model.limits))
        shares = {name: costs[name] / self.model.dense[name] for name in told}
        return {**shares, "channels": float(self._counts().sum()), "mask_flips": float(cast(Tensor, self.flips))}

    def kept(self) -> dict[str, Tensor]:
        """Per group, the indices of the channels kept."""
        pairs = zip(self.groups, self.keeps, strict=True)
        return {group.name: torch.nonzero(keep.cpu()).view(-1) for group, keep in pairs}

    def compact(self, twin: nn.Module | None = None) -> nn.Module:
        """Return the net, or ``twin``, without the masked channels. Raises TrainingError before the freeze."""
        if not self.is_frozen:
            raise TrainingError("the masks have not reached their budget yet, so there is nothing to compact")
        return compact_net(self.net if twin is None else twin, self.groups, self.kept())


def highest_channels(value: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` channels of the highest value."""
    # Stable, so that equal values give the same choice on every machine.
    highest = torch.argsort(value, descending=True, stable=True)[:count]
    return torch.zeros(len(value), dtype=torch.bool, device=value.device).index_fill_(0, highest, True)


class Sharing(Protocol):
    """A channel scorer that says how many channels stay while the way to the budget is not done, or without one.

    Without a spread it says so at its end too, and meets the budget.
    """

    def counts(self) -> list[int]:
        """Return the channels that each group keeps now."""
        ...


def rehearsed_channels(
    net: nn.Module,
    image_shape: tuple[int, int, int],
    channels: Prunable,
    weights: ChannelWeights,
    course: Course,
    parts: Callable[[Sequence[Tensor]], tuple[ChannelScorer, ChannelSpread | None]],
) -> MaskedChannels:
    """Return ``net`` under masks, a copy of which has made a step; ``parts`` makes both of the tensors."""
    # A rehearsal leaves gradients and moved statistics behind, so it gets a net and a scorer of its own.
    for trial in (copied(net), net):
        tensors = [trial.get_parameter(name).detach() for name in weights.names]
        masked = MaskedChannels(trial, channels, weights, *parts(tensors), course)
        if trial is not net:
            rehearse(masked, trial, image_shape)
    return masked
