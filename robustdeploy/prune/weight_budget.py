"""Weight budgets: what each single weight of a net costs, and what the kept ones may cost together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from robustdeploy.core.amount import absolute
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import macs, params, weight_macs
from robustdeploy.cost.sparse import LAYERS
from robustdeploy.errors import BudgetError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.costs import NAMES, UNITS
from robustdeploy.prune.groups import COMPUTED, computed_weights, told_whole


@dataclass(frozen=True)
class LayerWeight:
    """The weights of one convolution or linear layer; each of them costs the same number of MACs."""

    layer: str
    """The layer's name in the net; where several layers share the weights, the first one's."""
    size: int
    macs: int
    """MACs of all layers with these weights for one image, a multiple of ``size``."""
    price: float = 1.0
    """What one of these weights takes of the budget, beside those of other layers."""

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return f"{self.layer}.weight"


def layer_weights(net: nn.Module, image_shape: tuple[int, int, int]) -> tuple[LayerWeight, ...]:
    """Return every weight tensor of ``net`` that masks can multiply, for one image of C×H×W.

    A weight that is computed from other parameters (a parametrisation) is none, and one that the layer computes
    something from before it multiplies: its zeros would not be those of the product. ``computed_weights`` names both.
    """
    counted, computed = weight_macs(net, image_shape), computed_weights(net, image_shape)
    found: dict[int, LayerWeight] = {}
    for name, module in net.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(module, LAYERS) and weight is not None and name not in computed:
            # Keyed by the tensor: layers that share one must share its mask, and it is stored once but multiplied in
            # each.
            first = found.get(id(weight), LayerWeight(name, weight.numel(), 0))
            found[id(weight)] = LayerWeight(
                first.layer, first.size, first.macs + counted[f"{name}.weight" if name else "weight"]
            )
    return tuple(found.values())


@dataclass(frozen=True)
class WeightCost:
    """What kept weights cost: ``each[i]`` for every one of tensor i, and ``fixed`` for what no mask can take away."""

    name: str
    """As in Budget: ``ops`` in MACs, ``params``, or ``memory`` in bytes."""
    each: tuple[int, ...]
    fixed: int
    dense: int
    """All weights kept."""

    def of(self, kept: Sequence[int]) -> int:
        """Return the cost of ``kept[i]`` weights of each tensor i."""
        return self.fixed + sum(each * count for each, count in zip(self.each, kept, strict=True))


def weight_costs(
    net: nn.Module, image_shape: tuple[int, int, int], budget: Budget, weights: Sequence[LayerWeight]
) -> tuple[WeightCost, ...]:
    """Return the operations and parameters of ``net`` other than zero, where ``weights`` can be masked.

    With a budget for it also the activation memory, none of which zeros among the weights can save.
    """
    ops_dense, numbers = macs(net, image_shape), params(net)
    ops = WeightCost(
        "ops", tuple(w.macs // w.size for w in weights), ops_dense - sum(w.macs for w in weights), ops_dense
    )
    stored = WeightCost("params", tuple(1 for _ in weights), numbers - sum(w.size for w in weights), numbers)
    if budget.memory is None:
        return ops, stored
    peak = peak_bytes(net, image_shape)
    # A dense runtime holds maps in full, whatever zeros produced them.
    return ops, stored, WeightCost("memory", tuple(0 for _ in weights), peak, peak)


@dataclass(frozen=True)
class Limit:
    """The most that kept weights may cost in the end."""

    cost: WeightCost
    most: int

    def at(self, left: float) -> int:
        """Return the limit when the share ``left`` of the way from the dense net is still to go."""
        return self.most + int((self.cost.dense - self.most) * left)

    def refusal(self, smallest: int, means: str) -> BudgetError:
        """Say that the limit is out of reach, and what ``smallest`` cost is within it by ``means``."""
        name, unit, dense = NAMES[self.cost.name], UNITS[self.cost.name], self.cost.dense
        return BudgetError(
            f"a budget of {self.most / dense:.4g} of the {name} ({self.most:,} {unit}) is out of reach: the smallest "
            f"{means} is {smallest / dense:.4g} ({smallest:,} {unit}); ask for that or more"
        )


def priced(weights: Sequence[LayerWeight], limits: Sequence[Limit]) -> tuple[LayerWeight, ...]:
    """Return ``weights``, each with what one of them takes of the dense net's costs that there are ``limits`` on.

    Where that is nothing, because no image passes the layer, the price is the lowest of the others.
    """
    shares = [sum(limit.cost.each[i] / limit.cost.dense for limit in limits) for i in range(len(weights))]
    lowest = min((share for share in shares if share > 0), default=1.0)
    return tuple(replace(weight, price=share or lowest) for weight, share in zip(weights, shares, strict=True))


def weight_limits(budget: Budget, costs: Sequence[WeightCost]) -> tuple[Limit, ...]:
    """Return the limits that ``budget`` sets on ``costs``; BudgetError for one on activation memory that binds."""
    amounts = budget.amounts
    # A budget above the dense net's cost is one that keeps everything.
    limits = [Limit(c, min(c.dense, int(absolute(amounts[c.name], c.dense)))) for c in costs if c.name in amounts]
    for limit in limits:
        if limit.cost.name == "memory" and limit.most < limit.cost.dense:
            raise limit.refusal(limit.cost.dense, "without removing channels, which `prune: masks` does,")
    return tuple(limit for limit in limits if limit.cost.name != "memory")


ELSEWHERE = "weights are masked in convolutions and linear layers alone"


@dataclass(frozen=True)
class Maskable:
    """What of a net can be masked, what it costs, and what of that a budget allows."""

    weights: tuple[LayerWeight, ...]
    costs: tuple[WeightCost, ...]
    limits: tuple[Limit, ...]
    whole: Mapping[str, str]
    """Layers whose weights all stay, with the reason."""

    @property
    def sizes(self) -> list[int]:
        """Weights of each tensor."""
        return [weight.size for weight in self.weights]

    @property
    def share(self) -> float:
        """The share of what can be masked that the budget leaves; biases and normalisation are spent in any case."""
        shares = [
            (limit.most - limit.cost.fixed) / max(1, limit.cost.dense - limit.cost.fixed) for limit in self.limits
        ]
        return max(0.0, min(shares, default=1.0))

    def fits(self, counts: Sequence[int]) -> bool:
        """Whether ``counts[i]`` weights of each tensor i are within all limits."""
        return all(limit.cost.of(counts) <= limit.most for limit in self.limits)


def unmasked(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, str]:
    """Return what of ``net`` multiplies by weights and is never masked, with the reason."""
    whole = dict.fromkeys(computed_weights(net, image_shape), COMPUTED)
    for name, module in net.named_modules():
        if isinstance(module, LAYERS) or ".parametrizations." in name:
            continue
        # One row for all, as a table of positions has, multiplies nothing.
        wide = [own for own, value in module.named_parameters(recurse=False) if value.dim() > 1 and len(value) > 1]
        if type(module).__module__.startswith("torch.nn.") and wide:
            whole[name] = ELSEWHERE
        else:
            whole |= {f"{name}.{own}".lstrip("."): ELSEWHERE for own in wide}
    return whole


def maskable(
    net: nn.Module, image_shape: tuple[int, int, int], budget: Budget, means: str, *, ends_whole: bool = False
) -> Maskable:
    """Return all weights of ``net`` that can be masked, for one image of C×H×W, under ``budget``.

    With ``ends_whole`` the first and the last layer keep all of theirs. Raises BudgetError when there are none, or when
    one weight in each layer is more than the budget allows; ``means`` says how it would be met.
    """
    every = layer_weights(net, image_shape)
    whole = unmasked(net, image_shape)
    weights = every[1:-1] if ends_whole else every
    if ends_whole:
        whole |= {weight.layer: "the first and the last layer were asked to" for weight in (*every[:1], *every[-1:])}
    if not weights:
        raise BudgetError(
            f"this {kind_of(net)} has no convolution or linear layer whose weights can be masked{told_whole(whole)}"
        )
    costs = weight_costs(net, image_shape, budget, weights)
    found = Maskable(weights, costs, weight_limits(budget, costs), whole)
    single = [1 for _ in weights]
    for limit in found.limits:
        if (smallest := limit.cost.of(single)) > limit.most:
            problem = limit.refusal(smallest, f"that {means} reach here, with one weight in each layer,")
            raise BudgetError(f"{problem}{told_whole(whole)}")
    return found
