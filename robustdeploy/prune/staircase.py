"""Staircase: the best channel counts where a cost moves in steps, and fewer channels may even take longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from robustdeploy.cost.layer_times import grid
from robustdeploy.errors import BudgetError
from robustdeploy.prune.budget import Counts, Limits, limits_for
from robustdeploy.prune.costs import CostModel

Floats = npt.NDArray[np.float64]
Worth = Callable[[Counts], Floats]
"""How much a batch of choices is worth, one row each; more is better."""

PRICES = np.geomspace(0.01, 100, 33)
"""Of a whole budget, in units of what the dense net is worth: from where nearly all is kept to where nearly none is."""
_LITTLE = 0.01
_SWEEPS = 4
_NEAR = 4
"""Counts on either side of a group's own that an exchange between two groups may lead to."""
_MOST_PAIRS = 150_000


def most_valuable(model: CostModel, worth: Worth, limits: Limits, starts: Sequence[Counts]) -> Counts:
    """Return the choice of most ``worth`` that keeps every limit, or the cheapest that was seen where none does.

    A cut through a ranking takes channels away one by one, and can get stuck where a step of the staircase goes up
    again: ONNX Runtime takes longer for 12 of 16 channels than for all. Here a group may go to any count at once. Each
    price of the budget has a best choice, found group by group; exchanges between two groups then use up what it left.
    """
    choices = [_choices(int(low), int(high), int(step)) for low, high, step in _sides(limits)]
    found = [limits.clipped(start) for start in starts]
    found += [counts for start in found[:1] for counts in _best_by_price(model, worth, choices, start)]
    polished = [_polished(model, worth, choices, counts) for counts in _few(model, worth, found)]
    table = np.unique(np.array(polished), axis=0)
    used = model.utilisation(table.astype(float))
    place = np.argmin(used) if (used > 1).all() else np.argmax(np.where(used <= 1, worth(table), -np.inf))
    best: Counts = table[int(place)]
    return best


def first_steps(model: CostModel, sizes: Sequence[int], least: int, floor: float) -> Counts:
    """Return the multiple of each group that suits the limits, before anything is learnt; ``least`` divides all.

    It is the largest power of two in the count that the best choice has there, or the whole group. Which multiple pays
    depends on the limit: a layer of 16 channels is whole while there is time for it, and a few channels after that.
    """
    whole = np.array(sizes, dtype=np.int64)
    for share in (floor, floor / 2, floor / 4, 0.0):
        counts = most_valuable(model, evenly(model, whole), limits_for(sizes, least, share), [whole])
        if float(model.utilisation(counts.astype(float))) <= 1:
            break
    powers = np.array([count & -count for count in counts.tolist()], dtype=np.int64)
    steps: Counts = np.where(counts >= whole, whole, np.minimum(whole, np.lcm(powers, least)))
    return steps


def counts_worth_most(
    model: CostModel, worths: Sequence[Floats], limits: Limits, multiple: int, start: Counts
) -> Counts:
    """Return the counts by which a training's groups keep what is worth most, in any multiple of ``multiple``.

    ``worths`` are what each group's first, second, … channel adds. BudgetError where no choice keeps the limits.
    """
    # What adds nothing by itself is still kept where it costs nothing; untrained, that is all there is to go by.
    worth = mixed(summed(worths), evenly(model, limits.most))
    free = limits_for(limits.most.tolist(), multiple, float((limits.fewest / limits.most).min()))
    # The start has to be a choice among them: it keeps the limits, whatever becomes of the search.
    free = replace(free, fewest=np.minimum(free.fewest, limits.fewest))
    counts = most_valuable(model, worth, free, [start])
    if float(model.utilisation(counts.astype(float))) > 1:
        raise BudgetError("by the corrected table, no choice of channels is quick enough")
    return counts


def evenly(model: CostModel, sizes: Counts) -> Worth:
    """Return a worth for nets that have learnt nothing yet: operations, and no group far smaller than the others."""

    def worth(table: Counts) -> Floats:
        told: Floats = np.log(model.costs["ops"].of(table.astype(float))) + np.log(table / sizes).mean(-1)
        return told

    return worth


def summed(parts: Sequence[Floats]) -> Worth:
    """Return the worth that is the sum, over groups, of what each one's first channels add."""
    sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in parts]
    whole = sum(float(each[-1]) for each in sums) or 1.0

    def worth(table: Counts) -> Floats:
        told: Floats = np.sum([each[column] for each, column in zip(sums, table.T, strict=True)], axis=0) / whole
        return told

    return worth


def mixed(learnt: Worth, otherwise: Worth) -> Worth:
    """Return what was learnt, with a little of another worth: it decides where the former sees no difference."""
    return lambda table: learnt(table) + _LITTLE * otherwise(table)


def _sides(limits: Limits) -> Iterator[tuple[int, int, int]]:
    yield from zip(limits.fewest.tolist(), limits.most.tolist(), limits.quantum.tolist(), strict=True)


def _choices(low: int, high: int, step: int) -> Counts:
    """Return the counts that a group may have: whole steps, thinned out in large groups, and the whole group."""
    counts = step * grid(max(1, high // step))
    return np.unique(np.append(counts[(counts >= low) & (counts <= high)], [low, high]))


def _moved(counts: Counts, group: int, to: Counts) -> Counts:
    table = np.repeat(counts[None], len(to), axis=0)
    table[:, group] = to
    return table


def _best_by_price(model: CostModel, worth: Worth, choices: list[Counts], start: Counts) -> Iterator[Counts]:
    """Yield, from low prices to high ones, a choice that no change of a single group makes better at that price."""
    counts = start
    for price in PRICES:
        for _ in range(_SWEEPS):
            before = counts
            for group, to in enumerate(choices):
                table = _moved(counts, group, to)
                counts = table[int(np.argmax(worth(table) - price * model.utilisation(table.astype(float))))]
            if (counts == before).all():
                break
        yield counts


def _few(model: CostModel, worth: Worth, found: Sequence[Counts], most: int = 4) -> list[Counts]:
    """Return those that keep the limits and are worth most, or the cheapest one where none keeps them."""
    table = np.unique(np.array(found), axis=0)
    used = model.utilisation(table.astype(float))
    if (used > 1).all():
        return [table[int(np.argmin(used))]]
    order = np.argsort(-np.where(used <= 1, worth(table), -np.inf), kind="stable")
    return [table[number] for number in order[:most] if used[number] <= 1]


def _polished(model: CostModel, worth: Worth, choices: list[Counts], counts: Counts) -> Counts:
    """Move one group, or a pair of them, as long as the limits stay kept and the worth grows."""
    while True:
        best = float(worth(counts[None])[0])
        for table in (_singles(choices, counts), _pairs(choices, counts)):
            value = np.where(model.utilisation(table.astype(float)) <= 1, worth(table), -np.inf)
            place = int(np.argmax(value))
            if value[place] > best + 1e-9:
                counts = table[place]
                break
        else:
            return counts


def _singles(choices: list[Counts], counts: Counts) -> Counts:
    return np.concatenate([_moved(counts, group, to) for group, to in enumerate(choices)])


def _pairs(choices: list[Counts], counts: Counts) -> Counts:
    """Return the choices in which one group keeps less and another one more."""
    near = [_near(to, int(count)) for to, count in zip(choices, counts, strict=True)]
    parts = [counts[None]]
    for one, other in product(range(len(counts)), repeat=2):
        fewer, more = near[one][near[one] < counts[one]], near[other][near[other] > counts[other]]
        if one == other or not len(fewer) or not len(more):
            continue
        table = np.repeat(counts[None], len(fewer) * len(more), axis=0)
        table[:, one], table[:, other] = np.repeat(fewer, len(more)), np.tile(more, len(fewer))
        parts.append(table)
    return np.concatenate(parts)[:_MOST_PAIRS]


def _near(to: Counts, count: int) -> Counts:
    """Return the neighbours of a count, and the counts in whole blocks, which lie where steps do."""
    place = int(np.searchsorted(to, count))
    beside = to[max(0, place - _NEAR) : place + _NEAR + 1]
    return np.unique(np.concatenate([beside, to[to % 8 == 0], to[-1:]]))
