"""Channel counts that use a budget up: every cost within its limit, and one of them above 97 % of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from robustdeploy.core.recipe import Budget
from robustdeploy.errors import BudgetError
from robustdeploy.prune.costs import NAMES, UNITS, CostModel

# Counts come in whole channels, so equality is mostly impossible. A net far below its budget compares unfairly with one
# near it.
TOLERANCE = 0.97
"""A budget counts as used up when the largest of cost over limit is above this and not above 1."""

Counts = npt.NDArray[np.int64]
Values = Sequence[npt.NDArray[np.float64]]
"""Per group, how much each of its channels is worth, in any order."""


@dataclass(frozen=True)
class Limits:
    """Per group: fewest and most channels, and the quantum that counts move in."""

    fewest: Counts
    most: Counts
    quantum: Counts

    def snap(self, counts: Counts) -> Counts:
        """Round counts down to whole quanta inside the limits; a full group is always allowed."""
        # A group whose size is no multiple of the quantum would otherwise lose its remainder though nothing asks for
        # it.
        snapped = np.where(counts >= self.most, self.most, counts // self.quantum * self.quantum)
        return np.clip(snapped, self.fewest, self.most)

    def raised(self, counts: Counts) -> Counts:
        """Round counts up to whole quanta inside the limits; what is allowed already stays."""
        up: Counts = -(-counts // self.quantum) * self.quantum
        return np.clip(up, self.fewest, self.most)

    def clipped(self, counts: Counts) -> Counts:
        """Return ``counts`` inside the limits, in whichever multiple they are."""
        return np.clip(counts, self.fewest, self.most)

    def moves(self, counts: Counts) -> list[Counts]:
        """Return the choices that differ from ``counts`` by one quantum in one group."""
        steps = []
        for group, count in enumerate(counts):
            remainder = count % self.quantum[group]
            # From a full group of odd size the next count below is the last whole quantum, not one quantum less.
            down = remainder if count == self.most[group] and remainder else self.quantum[group]
            for moved in (count - down, min(count - remainder + self.quantum[group], self.most[group])):
                if self.fewest[group] <= moved <= self.most[group] and moved != count:
                    steps.append(np.concatenate([counts[:group], [moved], counts[group + 1 :]]))
        return steps


def limits_for(sizes: Sequence[int], multiple: int | Counts, floor: float) -> Limits:
    """Limits that keep whole quanta of ``multiple`` channels, of each group's own, and ``floor`` of it at least."""
    most = np.array(sizes, dtype=np.int64)
    quantum = np.minimum(most, multiple)
    # At least one quantum in any case: a group without channels would leave a layer without inputs.
    fewest = np.minimum(most, np.maximum(quantum, np.ceil(most * floor / quantum).astype(np.int64) * quantum))
    return Limits(fewest, most, quantum)


def limits_meeting(
    budget: Budget, model: CostModel, sizes: Sequence[int], floor: float, steps: Counts | None = None
) -> Limits:
    """Return the limits with the largest multiples, up to what is preferred, under which the budget can be met.

    ``steps`` are the multiples that a profile shows; they come in the place of what is preferred. Raises BudgetError
    where even those that the budget insists on leave no way.
    """
    preferred, least = np.full(len(sizes), budget.preferred_multiple or 1), budget.channel_multiple or 1
    multiples = np.lcm(_leaving_a_choice(preferred, sizes), least) if steps is None else steps
    while True:
        try:
            return _limits_with(multiples, model, sizes, floor)
        except BudgetError:
            if (multiples <= least).all():
                raise
        multiples = least * np.maximum(1, multiples // least // 2)


def _leaving_a_choice(multiples: Counts, sizes: Sequence[int]) -> Counts:
    """Return the multiples, of a small group their largest divisor that is at most half of it."""
    # A group that is kept whole or not at all could not help to meet a budget.
    divisors = (
        max(part for part in range(1, max(1, size // 2) + 1) if multiple % part == 0)
        for multiple, size in zip(multiples.tolist(), sizes, strict=True)
    )
    return np.fromiter(divisors, dtype=np.int64, count=len(sizes))


def _limits_with(multiples: Counts, model: CostModel, sizes: Sequence[int], most_floor: float) -> Limits:
    """Return the highest floor that leaves room to choose and a way to meet the budget exactly."""
    # No channel has proved its worth yet. Equal ranks in all groups stand for a training's own, to see what can be
    # reached.
    evenly = [np.arange(size) / size for size in sizes]
    least = float(model.utilisation(limits_for(sizes, multiples, 0.0).fewest.astype(float)))
    # A floor that takes most of the budget would leave the masks nothing to decide between groups.
    for floor in (most_floor, most_floor / 2, most_floor / 4):
        limits = limits_for(sizes, multiples, floor)
        if float(model.utilisation(limits.fewest.astype(float))) > max(0.6, least):
            continue
        try:
            exact_counts(model, evenly, limits)
        except BudgetError:
            continue
        return limits
    # Without any floor the attempt may still fail; then its error names the smallest reachable cost.
    limits = limits_for(sizes, multiples, 0.0)
    exact_counts(model, evenly, limits)
    return limits


def counts_below(model: CostModel, values: Values, limits: Limits, utilisation: float) -> Counts:
    """Keep the channels of highest value, over all groups together, as many as fit under ``utilisation``.

    Groups without a part in the cost that is full then go on alone, so that no channel is given up for nothing. Where
    not even the fewest channels fit, those are kept.
    """
    # Otherwise no cut would fit, and the search below would have no starting point.
    utilisation = max(utilisation, float(model.utilisation(limits.fewest.astype(float))))
    counts, free = limits.fewest, np.ones(len(limits.most), dtype=bool)
    owners = np.repeat(np.arange(len(values)), [len(value) for value in values])
    # A stable sort, so that equal values are kept in the order of the groups on every machine.
    ranked = owners[np.argsort(-np.concatenate(list(values)), kind="stable")]
    while free.any():
        fixed, ranked = np.where(free, -1, counts), ranked[free[ranked]]
        low, high = 0, len(ranked)
        # Halving finds the most, because no cost falls when a group keeps more. Latency may (see ``Cost``): then what
        # is found fits all the same, and staircase.py looks for more at the freeze.
        while low < high:  # the most channels whose counts still fit
            middle = (low + high + 1) // 2
            if model.utilisation(_counts_of(ranked[:middle], limits, fixed).astype(float)) <= utilisation:
                low = middle
            else:
                high = middle - 1
        counts = _counts_of(ranked[:low], limits, fixed)
        if low == len(ranked):
            break
        # Only groups with a part in the cost that was exceeded are settled. A memory peak concerns few of them.
        free &= ~model.blamed(_counts_of(ranked[: low + 1], limits, fixed).astype(float), utilisation)
    return counts


def _counts_of(owners: Counts, limits: Limits, fixed: Counts) -> Counts:
    """Count the channels by the groups that own them, except in groups whose count is fixed (not −1)."""
    counted = limits.snap(np.bincount(owners, minlength=len(fixed)))
    return np.where(fixed < 0, counted, fixed)


def exact_counts(model: CostModel, values: Values, limits: Limits) -> Counts:
    """Return counts that use the budget up, close to the ranking of ``values``; all channels where they fit.

    Starts from the ranking's own cut and changes it by as few quanta as it takes. Raises BudgetError, naming the
    smallest reachable cost or the nearest one below, when no choice of channels lands there.
    """
    if model.utilisation(limits.most.astype(float)) <= 1:
        return limits.most
    if model.utilisation(limits.fewest.astype(float)) > 1:
        raise BudgetError(_out_of_reach(model, limits))
    start = counts_below(model, values, limits, 1.0)
    # From cheap to thorough. Most nets are done with the first, and the last is exponential in the number of groups.
    searches: tuple[Callable[[], Counts], ...] = (
        lambda: start,
        lambda: _search(model, values, limits, start),
        lambda: _fill_a_part(model, values, limits, start),
        lambda: _enumerate(model, limits, start, _heaviest_first(model, limits)),
    )
    nearest = start
    for search in searches:
        found = search()
        if _is_full(model, found):
            return found
        nearest = max(nearest, found, key=lambda counts: float(model.utilisation(counts.astype(float))))
    # Where time goes in steps, the fullest choice below the limit is all that there is.
    if model.steps and float(model.utilisation(nearest.astype(float))) <= 1:
        return nearest
    raise BudgetError(_missed(model, limits, nearest))


def _is_full(model: CostModel, counts: Counts) -> bool:
    return TOLERANCE < float(model.utilisation(counts.astype(float))) <= 1


def _out_of_reach(model: CostModel, limits: Limits) -> str:
    smallest = model.of(limits.fewest.astype(float))
    told = [
        f"a budget of {_told(model, name, limit)} is out of reach: the smallest this net and target allow is "
        f"{_told(model, name, smallest[name])}"
        for name, limit in model.limits.items()
        if smallest[name] > limit
    ]
    return f"{'; '.join(told)}; ask for that or more{_or_finer(limits)}"


def _missed(model: CostModel, limits: Limits, nearest: Counts) -> str:
    costs = model.of(nearest.astype(float))
    fullest = max(model.limits, key=lambda name: costs[name] / model.limits[name])
    asked = " and ".join(_told(model, name, limit) for name, limit in model.limits.items())
    return (
        f"no choice of channels lands within 3 % under a budget of {asked}; the nearest found below it is "
        f"{_told(model, fullest, costs[fullest])}: ask for that{_or_finer(limits)}"
    )


def _told(model: CostModel, name: str, cost: float) -> str:
    """Write a cost as a fraction and as a number, both rounded up so that asking for either is asking for enough."""
    fraction = cost / model.dense[name]
    # Four significant digits: a fraction such as 0.0004123 in fixed places would be rounded far off.
    digits = 3 - math.floor(math.log10(fraction)) if fraction > 0 else 3
    # The inner rounding removes the error of the float product, which ceil would take for one unit more.
    up = math.ceil(round(fraction * 10**digits, 6)) / 10**digits
    return f"{up:.4g} of the {NAMES[name]} ({math.ceil(round(cost, 6)):,} {UNITS[name]})"


def _or_finer(limits: Limits) -> str:
    return ", or for a smaller channel multiple" if (limits.quantum > 1).any() else ""


def _search(model: CostModel, values: Values, limits: Limits, start: Counts, width: int = 64) -> Counts:
    """Beam search by single moves: nearest to the band first, ties by the value of the channels kept.

    Returns the most valuable counts in the band, or else the fullest below it that were seen.
    """
    # Running sums turn what any count of a group is worth into one look-up per move.
    ranked = [np.concatenate([[0.0], np.cumsum(np.sort(value)[::-1])]) for value in values]
    beam, seen, best, fullest = [start], {start.tobytes()}, start, float(model.utilisation(start.astype(float)))
    # A bound on this search, not on the answer: what needs more moves is left to the searches behind it.
    for _ in range(12):
        candidates = [move for counts in beam for move in limits.moves(counts) if move.tobytes() not in seen]
        unique = {move.tobytes(): move for move in candidates}
        # Moves commute, so the same counts come up along many ways. Unmarked they would fill the beam with copies.
        seen |= set(unique)
        if not (moves := list(unique.values())):
            break
        used = model.utilisation(np.array(moves, dtype=float))
        worth = np.array([sum(r[c] for r, c in zip(ranked, move, strict=True)) for move in moves])
        inside = (used > TOLERANCE) & (used <= 1)
        if inside.any():
            return moves[int(np.argmax(np.where(inside, worth, -np.inf)))]
        below = np.where(used <= 1, used, -np.inf)
        if below.max() > fullest:
            best, fullest = moves[int(np.argmax(below))], float(below.max())
        # Too much and too little are equally far from the band here: the way into it may lead through either.
        gap = np.where(used > 1, used - 1, TOLERANCE - used)
        beam = [moves[i] for i in np.lexsort((-worth, gap))[:width]]
    return best


def _fill_a_part(model: CostModel, values: Values, limits: Limits, start: Counts) -> Counts:
    """Look for groups that fill a limit by themselves, with the others at their least, and let those grow again.

    Of feature maps, only those of one moment must be full; single moves do not lead there when many moments are nearly.
    """
    best = start
    # Only limits that bind: filling one that the dense net keeps anyway would say nothing of the budget.
    for groups in (part for name in model.binding for part in model.costs[name].parts()):
        within = np.isin(np.arange(len(start)), groups)
        found = _enumerate(model, limits, np.where(within, start, limits.fewest), groups)
        best = max(best, found, key=lambda counts: float(model.utilisation(counts.astype(float))))
        if _is_full(model, found):
            # The groups that fill the limit are held; the others may take whatever that leaves in the other costs.
            pinned = Limits(
                np.where(within, found, limits.fewest), np.where(within, found, limits.most), limits.quantum
            )
            return counts_below(model, values, pinned, 1.0)
    return best


def _enumerate(model: CostModel, limits: Limits, start: Counts, groups: Counts, most: int = 300_000) -> Counts:
    """Try every choice of ``groups``, the first ones and as many as can be tried, and return the fullest that fits.

    The others stay as they are in ``start``: a beam may fill up with their small moves.
    """
    choices = [
        # The full group is appended since it is allowed even where it is no whole number of quanta.
        np.unique(np.append(np.arange(low, high + 1, quantum), high))
        for low, high, quantum in zip(limits.fewest, limits.most, limits.quantum, strict=True)
    ]
    chosen, tried = [np.array([count]) for count in start], 1
    for group in groups:
        # A large group may be passed over and a smaller one behind it still fit into the count of tries.
        if tried * len(choices[group]) <= most:
            chosen[group], tried = choices[group], tried * len(choices[group])
    # The start is among them, so that the result is never worse than what was there before.
    table = np.array([start, *product(*chosen)], dtype=np.int64)
    parts = np.array_split(table, 1 + len(table) // 20_000)  # a cost with many moments needs much memory at once
    used = np.concatenate([model.utilisation(part.astype(float)) for part in parts])
    fullest: Counts = table[int(np.argmax(np.where(used <= 1, used, -np.inf)))]
    return fullest


def _heaviest_first(model: CostModel, limits: Limits) -> npt.NDArray[np.int64]:
    """Order the groups by what the dense net's limited costs lose when the group is at its least.

    Where that is nothing, because another group's maps take as much, by what the smallest net's gain when it is whole.
    """
    alone = np.eye(len(limits.most), dtype=bool)
    least = np.where(alone, limits.fewest, limits.most).astype(float)
    whole = np.where(alone, limits.most, limits.fewest).astype(float)
    loss, gain = np.zeros(len(alone)), np.zeros(len(alone))
    for name, limit in model.limits.items():
        cost = model.costs[name]
        loss += (cost.of(limits.most.astype(float)) - cost.of(least)) / limit
        gain += (cost.of(whole) - cost.of(limits.fewest.astype(float))) / limit
    order: Counts = np.lexsort((-gain, -loss))
    return order
