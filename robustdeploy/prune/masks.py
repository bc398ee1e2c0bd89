"""Trainable channel masks with straight-through gradients, under an operation budget.

Vemparala et al., "Adversarial robust model compression using in-train pruning" (CVPR Workshop SAIAD 2021): the mask of
a channel is round(scale · tanh(M) + shift), trained together with the weights; its gradient passes the rounding
unchanged. The slides leave open how the budget is met. Here, while the operations fall along a schedule:

* the task's gradient of each group's masks is scaled to unit size, so that channels compete within their group;
* a penalty, ramped up with the schedule, charges every channel its share of the operations, so that groups compete;
* each group's *shift* is solved after every step so that exactly the schedule's operations are kept. At the freeze it
  is solved once more for the budget itself, after which the masks no longer change.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.cost.module import evaluating, layer_macs
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.prune.budget import Counts, Limits, counts_below, exact_counts, limits_for
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.groups import ChannelGroup, Normalisation, find_groups
from robustdeploy.prune.operations import OperationModel, operation_model
from robustdeploy.prune.protocol import GroupNormalised

SCALE = 0.5
ALMOST_ZERO = 1e-12
"""Stands for a mask of 0 until the freeze. At an exact zero a ReLU has no slope, and a masked channel could never learn
to come back; this much changes no score, and the frozen mask is exactly 0."""


@dataclass(frozen=True)
class Masks:
    """Channel masks round(½·tanh(M) + shift), learnt while training."""

    lr: float = 0.01
    """Step of a mask's M; its inverse is also the number of steps over which M averages its gradient."""
    penalty: float = 0.02
    """Weight of the operation term against the task's unit-size gradient, at full ramp."""
    warmup: float = 0.1
    """Share of the training before the first channel is masked."""
    freeze: float = 0.35
    """Share of the training after which the budget is solved exactly and the masks stay."""
    floor: float = 0.4
    """Least share of each group that is kept; lowered by itself where the budget needs it."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.freeze < 1:
            raise ValueError(f"0 <= warmup < freeze < 1 is needed, not warmup {self.warmup} and freeze {self.freeze}")
        if not 0 <= self.floor < 1 or self.lr <= 0 or self.penalty < 0:
            raise ValueError("floor must be in [0, 1), lr above 0 and penalty not below 0")

    def begin(self, net: nn.Module, image_shape: tuple[int, int, int], ops: float, multiple: int) -> MaskedNet:
        """Attach masks to ``net``; raise BudgetError when ``ops`` of its operations cannot be reached."""
        coupling = find_groups(net, image_shape)
        if not coupling.groups:
            raise BudgetError(f"this {type(net).__name__} has no channels that can be removed: {coupling.whole}")
        model = operation_model(net, coupling.groups, layer_macs(net, image_shape))
        sizes = [group.size for group in coupling.groups]
        limits = self._limits(model, sizes, ops, multiple)
        _rehearse(MaskedNet(_shaken(net), coupling.groups, model, limits, ops, self), image_shape)
        return MaskedNet(net, coupling.groups, model, limits, ops, self)

    def _limits(self, model: OperationModel, sizes: list[int], ops: float, multiple: int) -> Limits:
        """Return the highest floor that leaves room to choose and a way to meet the budget exactly."""
        dense = float(model.macs(np.array(sizes, float)))
        evenly = [np.arange(size) / size for size in sizes]
        for floor in (self.floor, self.floor / 2, self.floor / 4):
            limits = limits_for(sizes, multiple, floor)
            if float(model.macs(limits.fewest.astype(float))) > 0.6 * ops * dense:
                continue
            try:
                exact_counts(model, evenly, limits, ops * dense)
            except BudgetError:
                continue
            return limits
        limits = limits_for(sizes, multiple, 0.0)
        exact_counts(model, evenly, limits, ops * dense)
        return limits


class MaskedNet(nn.Module):
    """A net whose channels are multiplied by their masks, folded into parameters instead of activations.

    The masks scale the affine parameters of batch normalisation, or a layer's own weights where none follows, so a
    masked channel is exactly zero from there on and costs nothing extra to train.
    """

    def __init__(
        self,
        net: nn.Module,
        groups: tuple[ChannelGroup, ...],
        operations: OperationModel,
        limits: Limits,
        ops: float,
        options: Masks,
    ) -> None:
        super().__init__()
        self.net = net
        self.groups = groups
        self.operations = operations
        self.limits = limits
        self.options = options
        self.sizes = [group.size for group in groups]
        self.dense_macs = float(operations.macs(limits.most.astype(float)))
        self.target_macs = ops * self.dense_macs
        device = next(net.parameters()).device
        # Tiny distinct values order the channels before training does.
        starts = [1e-3 * torch.cos(torch.arange(size, device=device) * 2.4 + i) for i, size in enumerate(self.sizes)]
        self.logits = nn.ParameterList([nn.Parameter(start) for start in starts])
        self.register_buffer("shifts", torch.full((len(groups),), 1.0, dtype=torch.float64, device=device))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=device))
        self._plan = _plan(net, groups)
        self._scale = self.dense_macs / sum(self.sizes)

    def soft(self) -> list[Tensor]:
        """Per group, scale · tanh(M) + shift before rounding, in float64 so that saturated masks stay in order."""
        shifts = cast(Tensor, self.shifts)
        return [SCALE * torch.tanh(_ordered(m)) + shift for m, shift in zip(self.logits, shifts, strict=True)]

    def masks(self) -> list[Tensor]:
        """Per group, the masks: 0 or 1 (see ALMOST_ZERO), with the gradient of the value before rounding."""
        if self.is_frozen:
            return [(soft >= 0.5).float() for soft in (s.detach() for s in self.soft())]
        return [(soft >= 0.5).float().clamp_min(ALMOST_ZERO) + (soft - soft.detach()).float() for soft in self.soft()]

    @property
    def is_frozen(self) -> bool:
        """Whether the masks have stopped changing."""
        return bool(cast(Tensor, self.frozen))

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked parameters."""
        masks = self.masks()
        if not self.is_frozen:
            masks = [cast(Tensor, GroupNormalised.apply(mask)) for mask in masks]
        return cast(Tensor, functional_call(self.net, self._masked(masks), (images,)))

    def _masked(self, masks: list[Tensor]) -> dict[str, Tensor]:
        """Return the parameters and buffers that carry masks, multiplied by them."""
        tensors = {**dict(self.net.named_parameters()), **dict(self.net.named_buffers())}
        masked: dict[str, Tensor] = {}
        for name, parts in self._plan.items():
            value = tensors[name]
            for group, positions, channels in parts:
                mask = masks[group]
                if positions is not None:
                    mask = torch.ones(len(value), device=value.device).index_put((positions,), mask[channels])
                value = value * mask.view(-1, *[1] * (value.dim() - 1))
            masked[name] = value
        return masked

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the masks their own step and a gradient averaged over about ten steps.

        Their decay makes M a moving average of the gradient, in its unit size: a mask never saturates and can come
        back, however long the training is.
        """
        own = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1.0, "lr": self.options.lr, "name": "masks"}
        return [{"params": list(self.logits), **own}]

    def penalty(self, progress: float) -> Tensor:
        """Charge each channel its share of the operations, in units where an average channel costs 1."""
        if self.is_frozen:
            return torch.zeros((), device=cast(Tensor, self.shifts).device)
        ramp = min(1.0, max(0.0, (progress - self.options.warmup) / (self.options.freeze - self.options.warmup)))
        kept = torch.stack([mask.sum() for mask in self.masks()]).double()
        return (self.options.penalty * ramp * self.operations.macs_of(kept) / self._scale).float()

    def after_step(self, progress: float) -> None:
        """Solve the shifts for the schedule's operations, and at the freeze for the budget itself."""
        if self.is_frozen:
            return
        with torch.no_grad():
            values = [torch.tanh(_ordered(m)).cpu().numpy() for m in self.logits]
            if progress >= self.options.freeze:
                self._set_counts(values, exact_counts(self.operations, values, self.limits, self.target_macs))
                cast(Tensor, self.frozen).fill_(True)
            elif progress >= self.options.warmup:
                self._set_counts(
                    values, counts_below(self.operations, values, self.limits, self._scheduled_macs(progress))
                )

    def _scheduled_macs(self, progress: float) -> float:
        """Fall from the dense net's operations to the target, steeply first (Zhu and Gupta 2017's cubic)."""
        part = (progress - self.options.warmup) / (self.options.freeze - self.options.warmup)
        return self.target_macs + (self.dense_macs - self.target_macs) * (1 - part) ** 3

    def _set_counts(self, values: list[np.ndarray], counts: Counts) -> None:
        """Set each group's shift between its last kept and first masked channel."""
        shifts = []
        for value, count in zip(values, counts, strict=True):
            ordered = np.sort(value)[::-1]
            edge = ordered[-1] - 1.0 if count == len(ordered) else (ordered[count - 1] + ordered[count]) / 2
            shifts.append(0.5 - SCALE * edge)
        cast(Tensor, self.shifts).copy_(torch.tensor(shifts, dtype=torch.float64))

    def status(self) -> Mapping[str, float]:
        """Operations kept as a fraction, and channels kept."""
        kept = np.array([int((soft >= 0.5).sum()) for soft in self.soft()], dtype=float)
        return {"ops": float(self.operations.macs(kept)) / self.dense_macs, "channels": float(kept.sum())}

    def kept(self) -> dict[str, Tensor]:
        """Per group, the indices of the channels kept."""
        kept = [torch.nonzero(soft >= 0.5).view(-1).cpu() for soft in self.soft()]
        return {group.name: index for group, index in zip(self.groups, kept, strict=True)}

    def compact(self) -> nn.Module:
        """Return the net without its masked channels. Raises TrainingError before the freeze."""
        if not self.is_frozen:
            raise TrainingError("the masks have not reached their budget yet, so there is nothing to compact")
        return compact_net(self.net, self.groups, self.kept())


def _ordered(m: Tensor) -> Tensor:
    """Return M in float64, with equal values told apart by their position so that any count can be kept."""
    return m.double() + torch.arange(len(m), device=m.device) * 1e-9


def _shaken(net: nn.Module) -> nn.Module:
    """Return a copy of ``net`` whose normalisation layers shift and scale, as they will after training."""
    copied = copy.deepcopy(net)
    for module in copied.modules():
        if isinstance(module, Normalisation) and module.affine:
            with torch.no_grad():
                wave = torch.sin(torch.arange(module.num_features, device=module.weight.device) * 1.7)
                module.weight.copy_(1 + 0.3 * wave)
                module.bias.copy_(0.5 * wave)
    return copied


def _rehearse(masked: MaskedNet, image_shape: tuple[int, int, int]) -> None:
    """Prune at once and compare with the compact net, so that a net that cannot be compacted fails before training.

    The scores of an untrained net may be large, so the gap is taken relative to them.
    """
    masked.after_step(1.0)
    images = torch.linspace(0, 1, 2 * math.prod(image_shape), device=cast(Tensor, masked.shifts).device)
    batch, compact = images.view(2, *image_shape), masked.compact()
    with evaluating(masked), evaluating(compact), torch.no_grad():
        theirs, ours = masked(batch), compact(batch)
    if not bool((theirs - ours).abs().max() <= 1e-3 * (1 + theirs.abs().max())):
        raise TrainingError(
            f"this {type(masked.net).__name__} cannot be pruned: without its masked channels it gives other scores, so "
            "a masked channel is not zero everywhere it is read (an activation with f(0) ≠ 0 behind it, for instance)"
        )


_Part = tuple[int, Tensor | None, Tensor | None]


def _plan(net: nn.Module, groups: tuple[ChannelGroup, ...]) -> dict[str, list[_Part]]:
    """Say for each parameter or buffer which groups' masks multiply it, and where."""
    modules = dict(net.named_modules())
    device = next(net.parameters()).device
    plan: dict[str, list[_Part]] = {}
    for number, group in enumerate(groups):
        for member in group.members:
            if not member.masked:
                continue
            for kind in ("weight", "bias", "gain"):
                if (value := getattr(modules[member.layer], kind, None)) is None:
                    continue
                whole = len(member.positions) == group.size == len(value)
                part: _Part = (number, None, None)
                if not (whole and bool((member.positions == member.channels).all())):
                    part = (number, member.positions.to(device), member.channels.to(device))
                plan.setdefault(f"{member.layer}.{kind}", []).append(part)
    return plan


plugin = Masks
