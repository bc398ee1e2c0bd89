"""Weight masks: a net whose single weights are multiplied by trainable masks; it keeps its shape and gains zeros.

A weight's mask is round(½·tanh(M) + shift), with one M per weight (Vemparala et al., "Adversarial robust model
compression using in-train pruning", CVPR Workshop SAIAD 2021); its gradient passes the rounding unchanged, so that a
masked weight can come back until the masks are frozen. The slides leave the shift open. Here it is the weight's
magnitude, less a threshold: HYDRA (Sehwag et al., NeurIPS 2020) lets its scores start from the magnitudes of a trained
net, but this training begins with random weights, whose magnitudes say nothing, so the magnitude goes with the weight
instead of being a start that stays. With all M at 0 this is magnitude pruning while training (Zhu and Gupta 2017).

The thresholds are what a rule sets, for the whole net or for a few weights at a time. They are set anew in every
EVERY-th step, and the masks stay as they are in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.cost.module import copied
from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import set_gains
from robustdeploy.prune.protocol import PhaseInfo, StepData
from robustdeploy.prune.weight_budget import LayerWeight, WeightCost

SCALE = 0.5
EVERY = 10
"""Steps from one setting of the masks to the next."""


@dataclass(frozen=True)
class Course:
    """When the masks close, and how fast their M learn."""

    lr: float
    """Step of an M; its inverse is also the number of steps over which M averages its gradient."""
    warmup: float
    """Share of the training before the first weight is masked."""
    freeze: float
    """Share of the training after which the masks stay; where a phase trains scores alone, they stay at its end."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.freeze < 1:
            raise ValueError(f"0 <= warmup < freeze < 1 is needed, not warmup {self.warmup} and freeze {self.freeze}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr must be above 0 and at most 1, not {self.lr}")

    def left(self, progress: float, freeze: float | None = None) -> float:
        """Return the share of the way to the budget still to go: from 1 to 0, steeply first (Zhu and Gupta's cubic).

        The way ends at ``freeze``, by default this course's.
        """
        part = (progress - self.warmup) / ((self.freeze if freeze is None else freeze) - self.warmup)
        return (1 - min(1.0, max(0.0, part))) ** 3


class Rule(Protocol):
    """Which weights stay."""

    def __call__(self, values: Sequence[Tensor], left: float) -> list[Tensor]:
        """Return masks (bool, shaped like ``values``) when the share ``left`` of the way to the budget is still to go.

        ``values`` are ½·tanh(M) and magnitude of each weight together; ``left`` of 0 must meet the budget exactly.
        """
        ...


class Masked(torch.autograd.Function):
    """Weights times masks, with the gradient of M = ``m`` as if the masks were ½·tanh(M) and a shift, not rounded."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, keep: Tensor, m: Tensor) -> Tensor:
        """Return ``weight`` where ``keep``, else 0."""
        ctx.save_for_backward(weight, keep, m)
        return weight * keep

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        """Return the gradients of ``weight`` and of ``m``."""
        weight, keep, m = ctx.saved_tensors
        # The weight's own gradient is that of the masked net; M's ignores the mask, or a masked weight could never come
        # back.
        return gradient * keep, None, gradient * weight * _slope(m)


def _slope(m: Tensor) -> Tensor:
    return SCALE * (1 - torch.tanh(m).square())


def names_of(net: nn.Module, name: str) -> list[str]:
    """Return the names of a parameter in all modules that share it, one for each module."""
    # functional_call replaces by name. Under one name alone, the other layers would go on with the unmasked weight.
    wanted = net.get_parameter(name)
    return [
        f"{module_name}.{kind}" if module_name else kind
        for module_name, module in net.named_modules()
        for kind, parameter in module.named_parameters(recurse=False)
        if parameter is wanted
    ]


class WeightMaskedNet(nn.Module):
    """A net whose ``weights`` are multiplied by their masks."""

    removes_channels = False

    def __init__(
        self,
        net: nn.Module,
        weights: Sequence[LayerWeight],
        rule: Rule,
        costs: Sequence[WeightCost],
        course: Course,
        whole: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.net = net
        self.weights = tuple(weights)
        self.rule = rule
        self.course = course
        self.whole = dict(whole)
        """Layers whose weights all stay, with the reason."""
        self._costs = tuple(costs)
        self.on_phase(PhaseInfo())
        tensors = [net.get_parameter(weight.name).detach() for weight in weights]
        self._names = [names_of(net, weight.name) for weight in weights]
        # Zeros say nothing yet: the first masks are those of magnitude alone.
        self.logits = nn.ParameterList([nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors])
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"keep{number}", torch.ones_like(tensor, dtype=torch.bool))
        device = next(net.parameters()).device
        # Counted in a buffer, so that a resumed training sets its masks in the same steps.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("flips", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=device))

    @property
    def module(self) -> nn.Module:
        """The net under its masks: this."""
        return self

    def features(self) -> Sequence[str]:
        """Return no layer."""
        return ()

    def on_phase(self, phase: PhaseInfo) -> None:
        """Learn in phases that train scores, and freeze inside one only where there is something left to train."""
        self._learns, self._freeze = phase.trains_scores, phase.freeze(self.course.freeze)

    def penalty(self, step: StepData) -> Tensor | None:
        """Add nothing to the loss: the budget is met by the rule."""
        return None

    @property
    def is_frozen(self) -> bool:
        """Whether the masks have stopped changing."""
        return bool(cast(Tensor, self.frozen))

    @property
    def keeps(self) -> list[Tensor]:
        """Per weight tensor, which of its entries are kept now, as bool of its shape."""
        return [cast(Tensor, getattr(self, f"keep{number}")) for number in range(len(self.weights))]

    def values(self) -> list[Tensor]:
        """Per weight tensor, what its entries compete by: ½·tanh(M) and half the magnitude.

        Magnitudes are over the fourth root of the weight's price, halfway between no regard to prices and the square
        per price, and in units in which their root mean square is 1.
        """
        magnitudes = [
            self.net.get_parameter(weight.name).detach().abs() / weight.price**0.25 for weight in self.weights
        ]
        total = sum(float(magnitude.square().sum()) for magnitude in magnitudes)
        # One unit for the whole net: with one per layer, magnitudes of different layers could not compete.
        unit = math.sqrt(total / max(1, sum(weight.size for weight in self.weights))) + 1e-12
        return [
            SCALE * (torch.tanh(m.detach()) + magnitude / unit)
            for m, magnitude in zip(self.logits, magnitudes, strict=True)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked weights."""
        frozen, masked = self.is_frozen, dict[str, Tensor]()
        for weight, keep, m, names in zip(self.weights, self.keeps, self.logits, self._names, strict=True):
            value = self.net.get_parameter(weight.name)
            # Frozen masks learn nothing, and a plain product spares what the backward pass would have to hold.
            product = value * keep if frozen else cast(Tensor, Masked.apply(value, keep, m))
            masked |= dict.fromkeys(names, product)
        # Torch's own search for tied weights takes a module of two names for two modules, and restores it wrongly.
        return cast(Tensor, functional_call(self.net, masked, (images,), tie_weights=False))

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the masks their own step and a gradient averaged over about ten steps.

        Their decay makes M a moving average of the gradient, in its unit size: what a weight is worth beside its
        magnitude, however long the training is.
        """
        # Dampening of 0.9 makes the momentum a plain average; without it the step would be ten times as long.
        own = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1.0, "lr": self.course.lr, "name": "masks"}
        # An optimiser refuses a group without parameters.
        return [{"params": list(self.logits), **own}] if self.weights else []

    def before_step(self, step: StepData) -> None:
        """Scale the gradient of each layer's masks to a root mean square of 1, like that of a group of channels."""
        for m in self.logits:
            if m.grad is not None:
                # The gradient in the mask, not in M: the slope of tanh would let weights with a large M weigh less in
                # the mean.
                of_mask = m.grad / _slope(m.detach()).clamp_min(1e-3)
                m.grad /= of_mask.square().mean().sqrt() + 1e-12

    def after_step(self, progress: float) -> None:
        """Set the masks anew where that is due, at the freeze for the budget itself."""
        if self.is_frozen or not self._learns or progress < self.course.warmup:
            return
        if self._freeze is not None and progress >= self._freeze:
            self.finalize()
            return
        if int(cast(Tensor, self.steps)) % EVERY == 0:
            self._set(self.course.left(progress, 1.0 if self._freeze is None else None))
        cast(Tensor, self.steps).add_(1)

    def finalize(self) -> None:
        """Set the masks once more, for the budget itself; they stay from here on."""
        self._set(0.0)
        cast(Tensor, self.steps).add_(1)
        cast(Tensor, self.frozen).fill_(True)

    @torch.no_grad()
    def _set(self, left: float) -> None:
        for keep, new in zip(self.keeps, self.rule(self.values(), left), strict=True):
            cast(Tensor, self.flips).add_((keep != new).sum())
            keep.copy_(new)

    def costs(self) -> Mapping[str, float]:
        """Operations (MACs) and parameters other than zero, and the activation memory (bytes) if that is limited."""
        kept = [int(keep.sum()) for keep in self.keeps]
        return {cost.name: float(cost.of(kept)) for cost in self._costs}

    def status(self) -> Mapping[str, float]:
        """Operations and parameters other than zero, as fractions of the dense net's, and how often masks changed."""
        found, dense = self.costs(), {cost.name: cost.dense for cost in self._costs}
        nonzero = {f"nonzero_{name}": found[name] / dense[name] for name in ("ops", "params")}
        return {**nonzero, "mask_flips": float(cast(Tensor, self.flips))}

    def kept(self) -> dict[str, Tensor]:
        """Per layer, the places of the weights kept in the flattened weight tensor."""
        pairs = zip(self.weights, self.keeps, strict=True)
        return {weight.layer: torch.nonzero(keep.flatten()).view(-1).cpu() for weight, keep in pairs}

    def compact(self, twin: nn.Module | None = None) -> nn.Module:
        """Return a copy of the net, or of ``twin``, of the same shape, its masked weights exactly 0.

        Raises TrainingError before the freeze.
        """
        if not self.is_frozen:
            raise TrainingError("the masks have not reached their budget yet, so there is nothing to compact")
        plain = copied(self.net if twin is None else twin)
        with torch.no_grad():
            for weight, keep in zip(self.weights, self.keeps, strict=True):
                # Not a product: −1 · 0 is −0, which some stores and comparisons tell from 0, and NaN · 0 is NaN.
                plain.get_parameter(weight.name).masked_fill_(~keep, 0)
        set_gains(plain, on=False)
        return plain
