"""Importance scores on single weights, trained while the weights rest: HYDRA (Sehwag et al., NeurIPS 2020).

Made for three phases: pretrain (``train: weights``), scores (``train: scores``), fine-tune (``train: weights``). When
the phase of scores begins, each weight's score is the weight itself, times sqrt(6 / fan-in) over the layer's largest.
In every step the weights of the highest magnitude of score are used, the same share of each layer, and the others are
zero; the loss reaches the scores as if nothing were cut (straight-through). When the phase ends the choice stays.

The share is the largest that meets the budget. In HYDRA each layer keeps the same share too; layers that a few weights
connect are no exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.core.bounds import Positive
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import copied
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.nets.channel_pad import set_gains
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.groups import COMPUTED, computed_weights, told_whole
from robustdeploy.prune.protocol import PhaseInfo, StepData
from robustdeploy.prune.rehearsal import rehearse
from robustdeploy.prune.weight_budget import LayerWeight, WeightCost, layer_weights, weight_costs, weight_limits
from robustdeploy.prune.weight_masks import names_of


@dataclass(frozen=True)
class Scores:
    """One score per weight of every convolution and linear layer; the net keeps its shape and gains zeros."""

    lr: Positive | None = None
    """Rate of the scores; unset, they follow the phase's schedule as the paper's do."""

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> ScoredNet:
        """Attach scores to ``net`` for one image of C×H×W; BudgetError when one weight per layer is more than allowed.

        The budget's ``ops`` and ``params`` are those other than zero; ``channel_multiple`` has no meaning here.
        """
        weights = layer_weights(net, image_shape)
        whole = dict.fromkeys(computed_weights(net, image_shape), COMPUTED)
        if not weights:
            raise BudgetError(
                f"this {kind_of(net)} has no convolution or linear layer whose weights can be masked{told_whole(whole)}"
            )
        costs = weight_costs(net, image_shape, budget, weights)
        limits = weight_limits(budget, costs)
        sizes = [weight.size for weight in weights]
        for limit in limits:
            if (smallest := limit.cost.of([1 for _ in sizes])) > limit.most:
                raise limit.refusal(smallest, "that scores on weights reach here, with one weight in each layer,")

        def fits(share: float) -> bool:
            return all(limit.cost.of(_counts(sizes, share)) <= limit.most for limit in limits)

        # The cost never falls as the share rises, so halving the doubtful stretch finds the largest share that fits.
        # A share of 1 is asked for first: halving would only come close to it, and one weight would be lost for
        # nothing.
        low, high = (1.0, 1.0) if fits(1.0) else (0.0, 1.0)
        # Narrower than this the counts at both ends differ by at most one weight in any layer.
        while high - low > 1 / (4 * max(sizes)):
            low, high = ((low + high) / 2, high) if fits((low + high) / 2) else (low, (low + high) / 2)
        counts = _counts(sizes, low)
        rehearse(ScoredNet(copied(net), weights, counts, costs, self, whole), net, image_shape)
        return ScoredNet(net, weights, counts, costs, self, whole)


def _counts(sizes: Sequence[int], share: float) -> list[int]:
    # A layer without any weight would cut the net in two, so one stays in each.
    return [max(1, math.floor(share * size)) for size in sizes]


class ScoredNet(nn.Module):
    """A net that uses, of each of ``weights``, the ``counts`` entries of the highest scores."""

    removes_channels = False

    def __init__(
        self,
        net: nn.Module,
        weights: Sequence[LayerWeight],
        counts: Sequence[int],
        costs: Sequence[WeightCost],
        options: Scores,
        whole: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.net = net
        self.weights = tuple(weights)
        self.counts = tuple(counts)
        self.options = options
        self.whole = dict(whole)
        """Layers whose weights all stay, with the reason."""
        self._names = [names_of(net, weight.name) for weight in weights]
        self._costs = tuple(costs)
        tensors = [net.get_parameter(weight.name).detach() for weight in weights]
        # Placeholders of the right shape: a net that is trained first must not be scored by its random start.
        self.scores = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in tensors])
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"keep{number}", torch.ones_like(tensor, dtype=torch.bool))
        device = next(net.parameters()).device
        self.register_buffer("flips", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=device))

    @property
    def module(self) -> nn.Module:
        """The net with its unimportant weights at zero: this."""
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether the choice of weights has been made."""
        return bool(cast(Tensor, self.frozen))

    @property
    def keeps(self) -> list[Tensor]:
        """Per weight tensor, which of its entries are used, as bool of its shape; all before the phase of scores."""
        return [cast(Tensor, getattr(self, f"keep{number}")) for number in range(len(self.weights))]

    def forward(self, images: Tensor) -> Tensor:
        """Score ``images`` with the chosen weights; the gradient of a score is that of its weight's mask."""
        used: dict[str, Tensor] = {}
        for weight, keep, score, names in zip(self.weights, self.keeps, self.scores, self._names, strict=True):
            mask = keep.to(score.dtype)
            if score.requires_grad:
                # Zero in value; its slope is the score's sign, since scores are ranked by magnitude.
                mask = mask + (score.abs() - score.detach().abs())
            used |= dict.fromkeys(names, self.net.get_parameter(weight.name) * mask)
        # Torch's own search for tied weights takes a module of two names for two modules, and restores it wrongly.
        return cast(Tensor, functional_call(self.net, used, (images,), tie_weights=False))

    def own_parameters(self) -> list[dict[str, object]]:
        """Give the scores the optimiser's own settings, and the phase's rate unless they have one."""
        rate = {} if self.options.lr is None else {"lr": self.options.lr}
        return [{"params": list(self.scores), "name": "scores", **rate}]

    def features(self) -> Sequence[str]:
        """Return no layer."""
        return ()

    @torch.no_grad()
    def on_phase(self, phase: PhaseInfo) -> None:
        """Begin scoring from the weights as they are by then."""
        # On a resume this runs before the checkpoint is loaded, so the scores that it sets here are overwritten.
        if not phase.trains_scores or self.is_frozen:
            return
        for weight, score in zip(self.weights, self.scores, strict=True):
            value = self.net.get_parameter(weight.name)
            # sqrt(6 / fan-in) is the bound of He's uniform initialisation; it gives the scores of each layer the range
            # of fresh weights.
            fan_in = value[0].numel()
            score.copy_(value * (math.sqrt(6 / fan_in) / value.abs().max().clamp_min(1e-12)))
        self._choose()

    def penalty(self, step: StepData) -> Tensor | None:
        """Add nothing to the loss."""
        return None

    def before_step(self, step: StepData) -> None:
        """Leave the gradients as they are."""

    def after_step(self, progress: float) -> None:
        """Choose anew, once scores are what is trained."""
        # Progress stays 0 through a pretraining phase, in which all weights are in use.
        if progress > 0 and not self.is_frozen:
            self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        flips = cast(Tensor, self.flips)
        for keep, score, count in zip(self.keeps, self.scores, self.counts, strict=True):
            chosen = torch.zeros(keep.numel(), dtype=torch.bool, device=keep.device)
            # By place and not by threshold: with equal scores at the cut a threshold would keep too many.
            chosen[score.abs().flatten().topk(count).indices] = True
            flips += (keep.flatten() != chosen).sum()
            keep.copy_(chosen.view(keep.shape))

    def finalize(self) -> None:
        """Let the choice stay."""
        self._choose()
        cast(Tensor, self.frozen).fill_(True)

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
        """Return a copy of the net, or of ``twin``, of the same shape, its unused weights exactly 0.

        Raises TrainingError before the choice is made.
        """
        if not self.is_frozen:
            raise TrainingError("the masks have not reached their budget yet, so there is nothing to compact")
        plain = copied(self.net if twin is None else twin)
        with torch.no_grad():
            for weight, keep in zip(self.weights, self.keeps, strict=True):
                plain.get_parameter(weight.name).masked_fill_(~keep, 0)
        set_gains(plain, on=False)
        return plain


plugin = Scores
