"""Trainable channel masks with straight-through gradients, under a budget.

Vemparala et al., "Adversarial robust model compression using in-train pruning" (CVPR Workshop SAIAD 2021): the mask of
a channel is round(scale · tanh(M) + shift), trained together with the weights; its gradient passes the rounding
unchanged. The slides leave open how the budget is met. Here, while its utilisation falls along a schedule:

* within a group channels compete by M, which follows the straight-through gradient taken to second order: what giving
  up a kept channel, or taking back a masked one, would change in the loss. The first order alone is near zero for
  whatever is trained already;
* between groups, what counts is what a group's last channels add to its others (see information.py), against what one
  more channel costs;
* each group's *shift* is solved after every step so that the schedule's costs are kept to: the weight of the operation
  term is what is solved for, not a number to be tuned. At the freeze the shifts are solved once more for the budget
  itself, after which the masks no longer change.

With a budget of operations alone, utilisation is operations over budget, and falls from the dense net's to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.core.bounds import Rate, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import copied
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.budget import TOLERANCE, Counts, Limits, counts_below, exact_counts, limits_meeting
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.costs import CostModel, cost_model
from robustdeploy.prune.folding import Folding
from robustdeploy.prune.follow import OUTPUT
from robustdeploy.prune.groups import ChannelGroup, told_whole
from robustdeploy.prune.information import ImageGradients, worth_in_order
from robustdeploy.prune.latency import ENOUGH, TRIALS, LatencyCost, LatencyGoal
from robustdeploy.prune.protocol import PhaseInfo, StepData
from robustdeploy.prune.rehearsal import find_groups, rehearse
from robustdeploy.prune.staircase import counts_worth_most, first_steps

# The slides leave scale and shift open. ½·tanh spans exactly 1, so that a shift can move any mask across the rounding
# point.
SCALE = 0.5
ALMOST_ZERO = 1e-12
"""Stands for a mask of 0 until the freeze. At an exact zero a ReLU has no slope, and a masked channel could never learn
to come back; this much changes no score, and the frozen mask is exactly 0."""
LOOK_EVERY = 4
"""Steps from one look at the gradients of single images to the next."""
NARROW = 128
"""Working out what each of n channels adds takes n³ operations; a group of n is due at every (n // NARROW)-th look."""


@dataclass(frozen=True)
class Masks:
    """Channel masks round(½·tanh(M) + shift), learnt while training."""

    lr: Rate = 0.01
    """Step of a mask's M; its inverse is also the number of steps over which M averages its gradient, and a group its
    information."""
    warmup: Share = 0.1
    """Share of the training, or of its phases that train scores, before the first channel is masked."""
    freeze: Share = 0.35
    """Share of the training after which the budget is solved exactly and the masks stay; where a phase trains scores
    alone, they stay at its end."""
    floor: Share = 0.1
    """Least share of each group that is kept; lowered by itself where the budget needs it."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.freeze < 1:
            raise ValueError(f"0 <= warmup < freeze < 1 is needed, not warmup {self.warmup} and freeze {self.freeze}")
        if not 0 <= self.floor < 1 or not 0 < self.lr <= 1:
            raise ValueError("floor must be in [0, 1), and lr above 0 and at most 1")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedNet:
        """Attach masks to ``net``; raise BudgetError when ``budget`` cannot be reached."""
        return self._wrapped(net, image_shape, budget, None)

    def wrap_timed(
        self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget, timing: LatencyGoal
    ) -> MaskedNet:
        """Attach masks to ``net`` for a budget that limits latency as well."""
        return self._wrapped(net, image_shape, budget, timing)

    def _wrapped(
        self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget, timing: LatencyGoal | None
    ) -> MaskedNet:
        coupling = find_groups(net, image_shape)
        # Whatever makes a budget unreachable is mostly a layer that stays whole, so every refusal ends with their
        # names.
        left = told_whole(coupling.whole)
        if not coupling.groups:
            why = left or f" ({OUTPUT})"
            raise BudgetError(
                f"no channels of this {kind_of(net)} can be removed{why}; `prune: weights` masks single weights instead"
            )
        model = cost_model(net, coupling.groups, image_shape, budget, timing)
        try:
            sizes = [group.size for group in coupling.groups]
            # Where other targets run the net as well, what they prefer is kept on the staircase too.
            multiple = math.lcm(budget.channel_multiple or 1, budget.preferred_multiple or 1)
            steps = first_steps(model, sizes, multiple, self.floor) if model.steps else None
            limits = limits_meeting(budget, model, sizes, self.floor, steps)
            if (limits.quantum % multiple != 0)[limits.quantum < limits.most].any():
                multiple = budget.channel_multiple or 1  # the limits cannot be met in what is preferred
        except BudgetError as problem:
            raise BudgetError(f"{problem}{left}") from problem
        # A rehearsal leaves gradients and moved statistics behind, so it gets a net of its own.
        rehearse(MaskedNet(copied(net), coupling.groups, model, limits, self), net, image_shape)
        masked = MaskedNet(net, coupling.groups, model, limits, self, timing, multiple)
        masked.whole = coupling.whole
        return masked


class MaskedNet(nn.Module):
    """A net whose channels are multiplied by their masks, folded into parameters instead of activations.

    The masks scale the affine parameters of batch normalisation, or a layer's own weights where none follows, so a
    masked channel is exactly zero from there on and costs nothing extra to train. What is the masks' own in the state
    dict is all that is not the net's.
    """

    removes_channels = True

    def __init__(
        self,
        net: nn.Module,
        groups: tuple[ChannelGroup, ...],
        model: CostModel,
        limits: Limits,
        options: Masks,
        timing: LatencyGoal | None = None,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.net = net
        self.groups = groups
        self.model = model
        self.limits = limits
        self.options = options
        self.timing = timing
        self.multiple = multiple
        """What every count is a multiple of; ``limits`` has the one that each group is best kept in on the way."""
        self.sizes = [group.size for group in groups]
        self.whole: dict[str, str] = {}
        """Layers that keep all or some of their channels in any case, with the reason."""
        self._dense_utilisation = float(model.utilisation(limits.most.astype(float)))
        device = next(net.parameters()).device
        number = torch.arange(len(groups), device=device)
        self._group: Tensor
        self._ties: Tensor
        # All groups lie in one vector. A net has dozens of them, and one call for each would cost more than its
        # arithmetic.
        group = number.repeat_interleave(torch.tensor(self.sizes, device=device))
        self.register_buffer("_group", group, persistent=False)
        position = torch.cat([torch.arange(size, device=device) for size in self.sizes])
        # Equal values are told apart by their position, so that any count can be kept.
        # float64, because in float32 a difference of 1e-9 would vanish beside saturated values near 1.
        self.register_buffer("_ties", position.double() * 1e-9, persistent=False)
        # Tiny distinct values order the channels before training does.
        self.logits = nn.Parameter(1e-3 * torch.cos(position * 2.4 + group))
        # At a shift of 1 every mask rounds to 1, whatever its M: the dense net trains on until the warm-up is over.
        self.register_buffer("shifts", torch.full((len(groups),), 1.0, dtype=torch.float64, device=device))
        matrices = sum(size * size for size in self.sizes)
        self.register_buffer("information", torch.zeros(matrices, device=device))
        self.register_buffer("worth", torch.zeros(sum(self.sizes), dtype=torch.float64, device=device))
        # These are buffers, not numbers, so that the checkpoint of a training cut off at any step brings them back.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("flips", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=device))
        if timing is not None:
            # Per measured choice: what was foretold and what was found, as shares of the dense net's time.
            self.register_buffer("trials", torch.zeros((TRIALS, 2), dtype=torch.float64, device=device))
        self.on_phase(PhaseInfo())
        # Flips count what steps really used. The optimiser moves M between two of them, and comparing solved shifts
        # would miss it.
        self._used: Tensor | None = None
        """Which channels the step that is being made has kept."""
        self._folding = Folding(net, groups)
        self._image_gradients = ImageGradients(net, self._folding.carriers)

    @property
    def module(self) -> nn.Module:
        """The net under its masks: this."""
        return self

    def features(self) -> Sequence[str]:
        """Return no layer; what the masks learn from is watched where it is needed (see information.py)."""
        return ()

    def on_phase(self, phase: PhaseInfo) -> None:
        """Learn in phases that train scores, and freeze inside one only where there is something left to train."""
        self._learns, self._freeze = phase.trains_scores, phase.freeze(self.options.freeze)

    def penalty(self, step: StepData) -> Tensor | None:
        """Add nothing to the loss: the budget is met by solving for it."""
        return None

    def soft(self) -> Tensor:
        """Per channel, scale · tanh(M) + shift before rounding, in float64 so that saturated masks stay in order."""
        return SCALE * self._scores() + cast(Tensor, self.shifts)[self._group]

    def masks(self) -> tuple[Tensor, ...]:
        """Per group, the masks: 0 or 1 (see ALMOST_ZERO), with the gradient of the value before rounding."""
        soft = self.soft()
        # Not torch.round: it rounds one half to even, which is 0, while the shifts place kept channels at one half and
        # above.
        masks = (soft >= 0.5).float()
        # The straight-through estimate (Bengio et al. 2013): the added term is 0 in value and has the gradient of
        # ``soft``.
        if not self.is_frozen:
            masks = masks.clamp_min(ALMOST_ZERO) + (soft - soft.detach()).float()
        return tuple(torch.split(masks, self.sizes))

    @property
    def is_frozen(self) -> bool:
        """Whether the masks have stopped changing."""
        return bool(cast(Tensor, self.frozen))

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked parameters."""
        masks = self.masks()
        # Validation and phases of weights alone teach the masks nothing, so they pay for no hooks.
        looks = self.training and torch.is_grad_enabled() and self._learns and not self.is_frozen
        if not (looks and int(cast(Tensor, self.steps)) % LOOK_EVERY == 0):
            return self._scores_under(masks, images)
        with self._image_gradients.watching(masks, len(images)):
            return self._scores_under(masks, images)

    def _scores_under(self, masks: tuple[Tensor, ...], images: Tensor) -> Tensor:
        # What several modules share carries no mask (see groups.py), so nothing tied has to be looked for.
        return cast(Tensor, functional_call(self.net, self._folding.folded(masks), (images,), tie_weights=False))

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the masks their own step and a gradient averaged over about ten steps.

        Their decay makes M a moving average of the gradient, in its unit size: a mask never saturates and can come
        back, however long the training is.
        """
        # Dampening of 0.9 makes the momentum a plain average. Without it the step would be ten times as long.
        own = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1.0, "lr": self.options.lr, "name": "masks"}
        return [{"params": [self.logits], **own}]

    def before_step(self, step: StepData) -> None:
        """Give M the gradient to second order, at a root mean square of 1 per group, and follow the information.

        With a mask's gradient g and information F, masking a kept channel changes the loss by F/2 − g, and taking a
        masked one back by F/2 + g.
        """
        if not self._learns:
            return
        # The counts come before M moves, so that worths and gradient are of the masks that this loss was taken under.
        self._follow_information(len(step.labels))
        self._used = self._kept()
        steps = cast(Tensor, self.steps)
        steps += 1
        if (gradient := self.logits.grad) is None:
            return
        # Autograd gives the gradient in M. Dividing by the slope of tanh recovers that in the mask itself, which F is
        # of.
        slope = SCALE * (1 - torch.tanh(self.logits.detach()) ** 2)
        half = 0.5 * torch.cat([matrix.diagonal() for matrix in self._information()])
        # The clamp bounds the division where tanh has saturated and both numbers are close to 0.
        by_mask = (gradient / slope.clamp_min(1e-3) + torch.where(self._used, -half, half)).double()
        size = torch.zeros(len(self.sizes), dtype=torch.float64, device=gradient.device)
        sizes = torch.tensor(self.sizes, device=gradient.device)
        # Each group gets unit size, since the scale of a mask's gradient depends on fan-in and map. One rate then fits
        # all.
        size = size.index_add_(0, self._group, by_mask.square()).div_(sizes).sqrt_()
        self.logits.grad = (by_mask / (size[self._group] + 1e-12)).float() * slope

    def _follow_information(self, images: int) -> None:
        """Average what the step has told of single images, and work out what each channel adds by M's order."""
        if (found := self._image_gradients.take(images)) is None:
            return
        information = cast(Tensor, self.information)
        # A look stands for LOOK_EVERY steps, so it moves the average as far as that many steps would.
        information += min(1.0, LOOK_EVERY * self.options.lr) * (found - information)
        look, scores = int(cast(Tensor, self.steps)) // LOOK_EVERY, torch.split(self._scores().detach(), self.sizes)
        for matrix, score, worth in zip(self._information(), scores, self._worths(), strict=True):
            # A group that has no worth yet does not wait for its turn: all zeros would read as a group that is worth
            # nothing.
            if look % max(1, len(score) // NARROW) == 0 or not worth.any():
                order = torch.argsort(score, descending=True)
                worth.copy_(worth_in_order(matrix[order][:, order]))

    def _worths(self) -> Sequence[Tensor]:
        """Per group, what its first, second, … channel adds."""
        return torch.split(cast(Tensor, self.worth), self.sizes)

    def _information(self) -> list[Tensor]:
        """Per group, the information of its masks, n×n."""
        squares = [size * size for size in self.sizes]
        parts = torch.split(cast(Tensor, self.information), squares)
        return [part.view(size, size) for part, size in zip(parts, self.sizes, strict=True)]

    def after_step(self, progress: float) -> None:
        """Solve the shifts for the schedule's utilisation, and at the freeze for the budget itself."""
        if self.is_frozen or not self._learns or progress < self.options.warmup:
            return
        if self._freeze is not None and progress >= self._freeze:
            self.finalize()
            return
        # None where no step was made since the masks were built or resumed: the masks of now are then those in use.
        before = self._kept() if self._used is None else self._used
        # The ranks are taken before the counts are solved: both must come from the same M.
        order = self._ranks()
        counts = counts_below(self.model, self._values(), self.limits, self._scheduled(progress))
        self._set_counts(order, counts)
        self._count_flips(before)

    def finalize(self) -> None:
        """Solve the shifts for the budget itself; the masks stay from here on."""
        before = self._kept() if self._used is None else self._used
        order = self._ranks()
        self._solve(order)
        if self.timing is not None and self.timing.measure is not None:
            self._hold_against_device(order, self.timing, self.timing.measure)
        cast(Tensor, self.frozen).fill_(True)
        self._count_flips(before)

    def _solve(self, order: list[np.ndarray]) -> None:
        if self.model.steps:
            start = counts_below(self.model, self._values(), self.limits, 1.0)
            worths = [part.cpu().numpy() for part in self._worths()]
            self._set_counts(order, counts_worth_most(self.model, worths, self.limits, self.multiple, start))
            return
        for _ in range(3):  # what a channel costs depends on the counts, and these on what it costs
            self._set_counts(order, exact_counts(self.model, self._values(), self.limits))

    def _hold_against_device(
        self, order: list[np.ndarray], timing: LatencyGoal, measure: Callable[[nn.Module], float]
    ) -> None:
        """Measure the net that was chosen; where it misses the limit, correct the table and choose again."""
        cost, trials = cast(LatencyCost, self.model.costs["latency"]), cast(Tensor, self.trials)
        dense_us, tried = timing.profile.dense_us, []
        for number in range(TRIALS):
            counts = self._kept_counts()
            told = float(cost.of(counts)) / dense_us
            found = measure(compact_net(self.net, self.groups, self.kept()))
            trials[number] = torch.tensor([told, found], dtype=torch.float64)
            used = found * dense_us / timing.limit_us
            tried.append((used, counts.astype(np.int64)))
            # One that takes less than it may could keep more channels, unless the other limits forbid that.
            if used <= 1 and (used > ENOUGH or self.model.utilisation_but("latency", counts) > TOLERANCE):
                break
            cost.correction *= found / told
            try:
                self._solve(order)
            except BudgetError:  # by the corrected table nothing is quick enough; the report tells what was found
                break
        # The fullest that met the limit, or else the quickest.
        self._set_counts(order, min(tried, key=lambda each: (each[0] > 1, abs(1 - each[0])))[1])

    def latency_trials(self) -> list[tuple[float, float]]:
        """Return, per choice that was measured, what was foretold and found, as shares of the dense net's time."""
        if self.timing is None:
            return []
        return [(float(a), float(b)) for a, b in cast(Tensor, self.trials).tolist() if b > 0]

    def _count_flips(self, before: Tensor) -> None:
        flips = cast(Tensor, self.flips)
        flips += (before != self._kept()).sum()

    def _values(self) -> list[np.ndarray]:
        """Per group, what its first, second, … channel is worth by M's order: what it adds, per cost."""
        counts, worth = self._kept_counts(), cast(Tensor, self.worth).cpu().numpy()
        if not worth.any():  # nothing learnt yet: all groups alike
            # This falls within every group and is 1 at its present count, so all groups shrink in proportion.
            return [kept / np.arange(1, size + 1) for kept, size in zip(counts, self.sizes, strict=True)]
        # What one channel costs is a difference, not a derivative: costs are products of counts, and memory has kinks.
        # Of time, a whole step is what costs: the channels within one are free.
        steps = self.limits.quantum.astype(float) if self.model.steps else np.ones(len(counts))
        fewer = np.maximum(counts - np.diag(steps), 0)
        cost = np.maximum((self.model.utilisation(counts) - self.model.utilisation(fewer)) / steps, 1e-12)
        return [part / each for part, each in zip(np.split(worth, np.cumsum(self.sizes)[:-1]), cost, strict=True)]

    def _scheduled(self, progress: float) -> float:
        """Fall from the dense net's utilisation to 1, steeply first (Zhu and Gupta 2017's cubic)."""
        end = 1.0 if self._freeze is None else self._freeze
        part = (progress - self.options.warmup) / (end - self.options.warmup)
        return 1 + max(0.0, self._dense_utilisation - 1) * (1 - part) ** 3

    def _scores(self) -> Tensor:
        # In float32 tanh rounds to exactly 1 from about M = 9 on, and the order of the best channels would be lost.
        return torch.tanh(self.logits.double() + self._ties)

    def _ranks(self) -> list[np.ndarray]:
        """Per group, tanh(M) from the highest to the lowest."""
        return [np.sort(part.cpu().numpy())[::-1] for part in torch.split(self._scores().detach(), self.sizes)]

    def _set_counts(self, ordered: list[np.ndarray], counts: Counts) -> None:
        """Set each group's shift between its last kept and first masked channel."""
        # The middle between two values leaves the most room for rounding. When all stay, the edge is put below the
        # last.
        edges = [
            values[-1] - 1.0 if count == len(values) else (values[count - 1] + values[count]) / 2
            for values, count in zip(ordered, counts, strict=True)
        ]
        # Solved for SCALE · edge + shift = 0.5, the point where a mask rounds.
        cast(Tensor, self.shifts).copy_(0.5 - SCALE * torch.tensor(edges, dtype=torch.float64))

    def _kept(self) -> Tensor:
        return self.soft().detach() >= 0.5

    def _kept_counts(self) -> np.ndarray:
        return np.array([int(part.sum()) for part in torch.split(self._kept().cpu(), self.sizes)], dtype=float)

    def status(self) -> Mapping[str, float]:
        """The operations and the limited costs as fractions of the dense net's, channels kept, and flips so far.

        A flip is a channel that one step keeps and the next masks, or the other way round.
        """
        counts = self._kept_counts()
        costs, told = self.model.of(counts), dict.fromkeys(("ops", *self.model.limits))
        shares = {name: costs[name] / self.model.dense[name] for name in told}
        return {**shares, "channels": float(counts.sum()), "mask_flips": float(cast(Tensor, self.flips))}

    def kept(self) -> dict[str, Tensor]:
        """Per group, the indices of the channels kept."""
        kept = [torch.nonzero(part).view(-1) for part in torch.split(self._kept().cpu(), self.sizes)]
        return {group.name: index for group, index in zip(self.groups, kept, strict=True)}

    def costs(self) -> Mapping[str, float]:
        """What the channels kept cost: ``ops`` in MACs, ``params``, and ``memory`` in bytes where that is limited."""
        return self.model.of(self._kept_counts())

    def compact(self, twin: nn.Module | None = None) -> nn.Module:
        """Return the net, or ``twin``, without the masked channels. Raises TrainingError before the freeze."""
        if not self.is_frozen:
            raise TrainingError("the masks have not reached their budget yet, so there is nothing to compact")
        return compact_net(self.net if twin is None else twin, self.groups, self.kept())


plugin = Masks
