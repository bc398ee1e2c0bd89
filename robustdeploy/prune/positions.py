"""Positions: the output and input channels of all layers, joined where they can only stay or go together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FREE = -1
"""Label of what no channel of any layer is in and no size is known of, such as a constant; lower ones are reasons."""

Side = Literal["out", "in"]


class Positions:
    """Numbers every channel of every layer; joins those that belong together, and notes which must stay and why.

    A label is such a number, or FREE, or a number below it that stands for a reason: what carries it has a fixed size,
    so whatever is joined with it must stay.
    """

    def __init__(self) -> None:
        # Union-find: joins come in any order, and a late one may unite classes that were met long before.
        self._parent: list[int] = []
        self._start: dict[tuple[str, Side], tuple[int, int]] = {}
        self._fixed: dict[int, str] = {}
        self._joined_by: dict[int, str] = {}
        self._reasons: list[str] = []

    def of(self, layer: str, side: Side, size: int) -> Tensor:
        """Return the labels of one side of a layer, in order."""
        if (layer, side) not in self._start:
            self._start[layer, side] = (len(self._parent), size)
            self._parent.extend(range(len(self._parent), len(self._parent) + size))
        start, size = self._start[layer, side]
        return torch.arange(start, start + size)

    def sides(self) -> dict[tuple[str, Side], npt.NDArray[np.int64]]:
        """Return, for each side of a layer that was met, which class each of its positions is in."""
        roots = self.roots()
        return {place: roots[start : start + size] for place, (start, size) in self._start.items()}

    def roots(self) -> npt.NDArray[np.int64]:
        """Return the class of every label."""
        return np.array([self._root(label) for label in range(len(self._parent))], dtype=np.int64)

    def all_of(self, layer: str) -> Tensor:
        """Return the labels of both sides of a layer, as far as they were met."""
        spans = [span for (name, _), span in self._start.items() if name == layer]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *(torch.arange(at, at + size) for at, size in spans)])

    def owner(self, label: int) -> str:
        """Return the layer that a label is of."""
        return next((layer for (layer, _), (start, size) in self._start.items() if start <= label < start + size), "")

    def because(self, reason: str) -> int:
        """Return the label of what has a fixed size for this reason."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        # Reasons are labels too, so that they go through views and slices like any other.
        return FREE - 1 - self._reasons.index(reason)

    def reason(self, label: int) -> str:
        """Return the reason that a label below FREE stands for."""
        return self._reasons[FREE - 1 - label]

    def why_fixed(self, root: int) -> str | None:
        """Return why a class must stay, or None."""
        return self._fixed.get(root)

    def why_joined(self, root: int) -> str | None:
        """Return what has joined the channels of one layer in a class, if anything has."""
        return self._joined_by.get(root)

    def join(self, one: Tensor, other: Tensor, why: str = "") -> None:
        """Join two sets of labels position by position, broadcast; ``why`` says what joins channels of one layer."""
        pairs = torch.stack(list(torch.broadcast_tensors(one, other))).reshape(2, -1)  # type: ignore[no-untyped-call]
        # A map holds each pair once per pixel; what Python loops over are the few that differ.
        for a, b in _unique(pairs[:, pairs[0] != pairs[1]]):
            if a >= 0 and b >= 0:
                self._unite(a, b, why)
            elif max(a, b) >= 0 and min(a, b) < FREE:
                self._fixed.setdefault(self._root(max(a, b)), self.reason(min(a, b)))

    def fix(self, labels: Tensor, reason: str) -> None:
        """Have the channels that are among ``labels`` stay."""
        for label in torch.unique(labels).tolist():
            if label >= 0:
                self._fixed.setdefault(self._root(label), reason)

    def _unite(self, a: int, b: int, why: str) -> None:
        # The lower label becomes the root, so that classes do not depend on the order of joins.
        low, high = sorted((self._root(a), self._root(b)))
        for notes in (self._fixed, self._joined_by):
            if high in notes:
                notes.setdefault(low, notes.pop(high))
        if why and low != high:
            self._joined_by.setdefault(low, why)
        self._parent[high] = low

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            # Halving the path: written as a loop, since a chain of joins would exceed Python's recursion limit.
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label


def _unique(pairs: Tensor) -> list[tuple[int, int]]:
    """Return the columns of ``pairs``, each once and in order; as one number each, as sorting those takes no time."""
    if not pairs.numel():
        return []
    lowest, width = int(pairs.min()), int(pairs.max() - pairs.min()) + 1
    numbers = torch.unique((pairs[0] - lowest) * width + (pairs[1] - lowest))
    return list(zip((numbers // width + lowest).tolist(), (numbers % width + lowest).tolist(), strict=True))
