"""Masked weights: the one net of every pruner of single weights; it keeps its shape and gains zeros.

A pruner of weights says three things, and this module does the rest:

* a *scorer* gives the values that weights compete by. It may learn them beside the weights, add a penalty to the loss,
  or move the weights itself;
* a *spread* says which of them stay, so that the budget is met (see ``prune.spreads``);
* a *course* says when the masks are set and when they stay (see ``prune.courses``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.cost.module import copied
from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import set_gains
from robustdeploy.prune.courses import Course
from robustdeploy.prune.protocol import PhaseInfo, StepData
from robustdeploy.prune.rehearsal import rehearse
from robustdeploy.prune.weight_budget import Maskable


class Spread(Protocol):
    """Which weights stay."""

    def __call__(self, values: Sequence[Tensor], left: float) -> Sequence[Tensor]:
        """Return masks (bool, shaped like ``values``) when the share ``left`` of the way to the budget is still to go.

        The highest values of a layer stay; ``left`` of 0 must meet the budget exactly.
        """
        ...


class Scorer(Protocol):
    """What single weights compete by. A module, where it has a state of its own; the protocols below are optional."""

    def values(self, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> list[Tensor]:
        """Return what the entries of each of ``weights`` compete by, the highest first, under the masks ``keeps``."""
        ...


@runtime_checkable
class Multiplying(Protocol):
    """A scorer that the loss reaches, or that decides what of a weight the net uses, until the masks stay."""

    def product(self, number: int, weight: Tensor, keep: Tensor) -> Tensor:
        """Return what is used of the weight tensor ``number`` under its mask ``keep``."""
        ...


@runtime_checkable
class Learnt(Protocol):
    """A scorer with parameters of its own."""

    def own_parameters(self) -> list[dict[str, object]]:
        """Return the optimiser's groups, as ``Pruning.own_parameters`` does."""
        ...


@runtime_checkable
class Rescaling(Protocol):
    """A scorer that changes its own gradients before the optimiser uses them."""

    def before_step(self) -> None:
        """Change them in place."""
        ...


@runtime_checkable
class Penalising(Protocol):
    """A scorer that adds to the loss."""

    def penalty(self, weights: Sequence[Tensor]) -> Tensor | None:
        """Return a scalar."""
        ...


@runtime_checkable
class Beginning(Protocol):
    """A scorer that starts from the weights as they are when a phase that trains scores begins."""

    def begin(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], phase: PhaseInfo) -> None:
        """Prepare; of what it does to tensors a resumed training has the checkpoint's."""
        ...


@runtime_checkable
class Following(Protocol):
    """A scorer that follows the training step by step."""

    def after_step(self, progress: float, weights: Sequence[Tensor], keeps: Sequence[Tensor]) -> None:
        """Look at, or move, the weights behind an optimiser step, before masks are set."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A scorer that does something with the weights when masks are set, and when they stay."""

    def settle(self, weights: Sequence[Tensor], keeps: Sequence[Tensor], *, last: bool) -> None:
        """Move ``weights`` under their new masks; with ``last`` those masks stay."""
        ...


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


class MaskedWeights(nn.Module):
    """A net whose ``layers.weights`` are multiplied by masks."""

    removes_channels = False

    def __init__(self, net: nn.Module, layers: Maskable, scorer: Scorer, spread: Spread, course: Course) -> None:
        super().__init__()
        self.net = net
        self.weights = layers.weights
        self.whole = layers.whole
        """Layers whose weights all stay, with the reason."""
        self.scorer = scorer
        self.spread = spread
        self.course = course
        self._costs = layers.costs
        self._names = [names_of(net, weight.name) for weight in self.weights]
        self._learns, self._end = True, course.freeze
        device = next(net.parameters()).device
        for number, value in enumerate(self._values()):
            self.register_buffer(f"keep{number}", torch.ones_like(value, dtype=torch.bool))
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
        """Per weight tensor, which of its entries are kept now, as bool of its shape."""
        return [cast(Tensor, getattr(self, f"keep{number}")) for number in range(len(self.weights))]

    def _values(self) -> list[Tensor]:
        return [self.net.get_parameter(weight.name).detach() for weight in self.weights]

    def values(self) -> list[Tensor]:
        """Per weight tensor, what its entries compete by now."""
        return self.scorer.values(self._values(), self.keeps)

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked weights."""
        # Frozen masks learn nothing, and a plain product spares what the backward pass would have to hold.
        scorer = None if self.is_frozen or not isinstance(self.scorer, Multiplying) else self.scorer
        masked: dict[str, Tensor] = {}
        for number, (weight, keep, names) in enumerate(zip(self.weights, self.keeps, self._names, strict=True)):
            value = self.net.get_parameter(weight.name)
            product = value * keep if scorer is None else scorer.product(number, value, keep)
            masked |= dict.fromkeys(names, product)
        # Torch's own search for tied weights takes a module of two names for two modules, and restores it wrongly.
        return cast(Tensor, functional_call(self.net, masked, (images,), tie_weights=False))

    def own_parameters(self) -> list[dict[str, object]]:
        """Return the scorer's, if it has any."""
        groups = self.scorer.own_parameters() if isinstance(self.scorer, Learnt) else []
        # An optimiser refuses a group without parameters.
        return [group for group in groups if group["params"]]

    @property
    def bits(self) -> int | None:
        """Bits of a code for each weight, where the scorer leaves them few values."""
        return getattr(self.scorer, "bits", None)

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

    def penalty(self, step: StepData) -> Tensor | None:
        """Add what the scorer asks for, while it learns."""
        if not (self._learns and isinstance(self.scorer, Penalising)):
            return None
        # Not detached: the gradient goes to the weights.
        return self.scorer.penalty([self.net.get_parameter(weight.name) for weight in self.weights])

    def before_step(self, step: StepData) -> None:
        """Let the scorer change its own gradients."""
        if isinstance(self.scorer, Rescaling):
            self.scorer.before_step()

    def after_step(self, progress: float) -> None:
        """Set the masks anew where that is due, at the freeze for the budget itself."""
        if self.is_frozen or not self._learns:
            return
        if isinstance(self.scorer, Following):
            self.scorer.after_step(progress, self._values(), self.keeps)
        if self._end is not None and progress >= self._end:
            self.finalize()
            return
        if progress >= self.course.warmup:
            self._set_if_due(progress)
            cast(Tensor, self.steps).add_(1)

    def _set_if_due(self, progress: float) -> None:
        steps, settings = (int(cast(Tensor, counter)) for counter in (self.steps, self.settings))
        if (left := self.course.left(progress, self._end or 1.0, steps, settings)) is not None:
            self._set(left)

    def finalize(self) -> None:
        """Set the masks once more, for the budget itself; they stay from here on."""
        self._set(0.0, last=True)
        cast(Tensor, self.steps).add_(1)
        cast(Tensor, self.frozen).fill_(True)

    @torch.no_grad()
    def _set(self, left: float, *, last: bool = False) -> None:
        for weight, keep, new in zip(self.weights, self.keeps, self.spread(self.values(), left), strict=True):
            if not new.any():
                raise TrainingError(
                    f"pruning would leave {weight.layer} without any weight, and the net would be cut in two there: "
                    "give a larger budget, or a spread that leaves each layer some"
                )
            cast(Tensor, self.flips).add_((keep != new).sum())
            keep.copy_(new)
        cast(Tensor, self.settings).add_(1)
        if isinstance(self.scorer, Settling):
            self.scorer.settle(self._values(), self.keeps, last=last)

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


def rehearsed(
    net: nn.Module,
    image_shape: tuple[int, int, int],
    layers: Maskable,
    course: Course,
    parts: Callable[[Sequence[Tensor]], tuple[Scorer, Spread]],
) -> MaskedWeights:
    """Return ``net`` under masks, a copy of which has made a step; ``parts`` makes both of the weights' tensors."""
    # A rehearsal leaves gradients and moved statistics behind, so it gets a net and a scorer of its own.
    for trial in (copied(net), net):
        tensors = [trial.get_parameter(weight.name).detach() for weight in layers.weights]
        masked = MaskedWeights(trial, layers, *parts(tensors), course)
        if trial is not net:
            rehearse(masked, trial, image_shape)
    return masked
