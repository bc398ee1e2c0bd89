"""Channel counts that meet an operation budget exactly: actual MACs in (0.97 · target, target]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from robustdeploy.errors import BudgetError
from robustdeploy.prune.operations import OperationModel

TOLERANCE = 0.97
"""The budget counts as met when the actual MACs are above this share of the target and not above the target."""

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
        snapped = np.where(counts >= self.most, self.most, counts // self.quantum * self.quantum)
        return np.clip(snapped, self.fewest, self.most)

    def moves(self, counts: Counts) -> list[Counts]:
        """Return the choices that differ from ``counts`` by one quantum in one group."""
        steps = []
        for group, count in enumerate(counts):
            remainder = count % self.quantum[group]
            down = remainder if count == self.most[group] and remainder else self.quantum[group]
            for moved in (count - down, min(count - remainder + self.quantum[group], self.most[group])):
                if self.fewest[group] <= moved <= self.most[group] and moved != count:
                    steps.append(np.concatenate([counts[:group], [moved], counts[group + 1 :]]))
        return steps


def limits_for(sizes: Sequence[int], multiple: int, floor: float) -> Limits:
    """Limits that keep whole quanta of ``multiple`` channels and at least ``floor`` of each group."""
    most = np.array(sizes, dtype=np.int64)
    quantum = np.minimum(most, multiple)
    fewest = np.minimum(most, np.maximum(quantum, np.ceil(most * floor / quantum).astype(np.int64) * quantum))
    return Limits(fewest, most, quantum)


def counts_below(model: OperationModel, values: Values, limits: Limits, macs: float) -> Counts:
    """Keep the channels of highest value, over all groups together, as many as fit under ``macs``."""
    everything = np.sort(np.concatenate(list(values)))[::-1]
    low, high = 0, len(everything)
    while low < high:  # the most channels whose counts still fit
        middle = (low + high + 1) // 2
        if model.macs(_counts_above(values, limits, everything[middle - 1]).astype(float)) <= macs:
            low = middle
        else:
            high = middle - 1
    threshold = everything[low - 1] if low else np.inf
    return _counts_above(values, limits, threshold)


def _counts_above(values: Values, limits: Limits, threshold: float) -> Counts:
    return limits.snap(np.array([int((value >= threshold).sum()) for value in values], dtype=np.int64))


def exact_counts(model: OperationModel, values: Values, limits: Limits, target: float) -> Counts:
    """Return counts whose MACs lie in (0.97 · target, target], close to the ranking of ``values``.

    Starts from the ranking's own cut and changes it by as few quanta as it takes. Raises BudgetError, naming the
    nearest reachable values, when no choice of channels lands there.
    """
    smallest = float(model.macs(limits.fewest.astype(float)))
    dense = float(model.macs(limits.most.astype(float)))
    if smallest > target:
        raise BudgetError(
            f"a budget of {target / dense:.4g} of the operations ({target:,.0f} MACs) is out of reach: "
            f"the smallest this net and target allow is {smallest / dense:.4g} ({smallest:,.0f} MACs)"
        )
    start = counts_below(model, values, limits, target)
    if _fits(model, start, target):
        return start
    found = _search(model, values, limits, target, start)
    if found is None:
        found = _enumerate(model, limits, target, start)
    if found is None:
        nearest = float(model.macs(start.astype(float)))
        raise BudgetError(
            f"no choice of channels lands within 3 % under a budget of {target / dense:.4g} of the operations; "
            f"the nearest found below it is {nearest / dense:.4g}: ask for that, or for a smaller channel multiple"
        )
    return found


def _fits(model: OperationModel, counts: Counts, target: float) -> bool:
    return TOLERANCE * target < float(model.macs(counts.astype(float))) <= target


def _search(
    model: OperationModel, values: Values, limits: Limits, target: float, start: Counts, width: int = 64
) -> Counts | None:
    """Beam search by single moves: nearest to the band first, ties by the value of the channels kept."""
    ranked = [np.concatenate([[0.0], np.cumsum(np.sort(value)[::-1] - value.min())]) for value in values]
    beam, seen = [start], {start.tobytes()}
    for _ in range(12):
        candidates = [move for counts in beam for move in limits.moves(counts) if move.tobytes() not in seen]
        if not candidates:
            return None
        unique = {move.tobytes(): move for move in candidates}
        seen |= set(unique)
        moves = list(unique.values())
        macs = model.macs(np.array(moves, dtype=float))
        worth = np.array([sum(r[c] for r, c in zip(ranked, move, strict=True)) for move in moves])
        inside = (macs > TOLERANCE * target) & (macs <= target)
        if inside.any():
            return moves[int(np.argmax(np.where(inside, worth, -np.inf)))]
        gap = np.where(macs > target, macs - target, TOLERANCE * target - macs)
        beam = [moves[i] for i in np.lexsort((-worth, gap))[:width]]
    return None


def _enumerate(
    model: OperationModel, limits: Limits, target: float, start: Counts, most: int = 300_000
) -> Counts | None:
    """Try every choice of the groups that weigh most, as many as can be tried, and return the largest that fits.

    The others stay as they are in ``start``: a beam may fill up with their small moves.
    """
    choices = [
        np.unique(np.append(np.arange(low, high + 1, quantum), high))
        for low, high, quantum in zip(limits.fewest, limits.most, limits.quantum, strict=True)
    ]
    chosen, tried = [np.array([count]) for count in start], 1
    for group in np.argsort(-_weights(model, limits), kind="stable"):
        if tried * len(choices[group]) <= most:
            chosen[group], tried = choices[group], tried * len(choices[group])
    table = np.array(list(product(*chosen)), dtype=np.int64)
    macs = model.macs(table.astype(float))
    inside = (macs > TOLERANCE * target) & (macs <= target)
    return table[int(np.argmax(np.where(inside, macs, -np.inf)))] if inside.any() else None


def _weights(model: OperationModel, limits: Limits) -> npt.NDArray[np.float64]:
    """Operations that each group governs: what the dense net loses when the group is at its least."""
    least = np.where(np.eye(len(limits.most), dtype=bool), limits.fewest, limits.most)
    return model.macs(limits.most.astype(float)) - model.macs(least.astype(float))
