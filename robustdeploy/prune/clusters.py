"""Clusters: numbers put onto the nearest of a few, found by k-means in one dimension, of which one stays 0."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 50


def centres_of(values: Tensor, count: int) -> Tensor:
    """Return ``count`` centres of ``values``, one of them 0, in order; where there are fewer values, those and 0.

    Begins with centres at equal distances, which keeps the large values that matter (Han et al., "Deep compression",
    ICLR 2016, section 3.2).
    """
    ordered = values.detach().double().flatten().sort().values
    distinct = _distinct(torch.cat([ordered, ordered.new_zeros(1)]))
    if len(distinct) <= count:
        return distinct.to(values.dtype)
    span = torch.linspace(float(ordered[0]), float(ordered[-1]), count - 1, dtype=torch.float64, device=values.device)
    centres = torch.cat([span, span.new_zeros(1)]).sort().values
    zero = int(torch.searchsorted(centres, centres.new_zeros(1)))
    # Sums up to each value, so that a cluster's mean is one difference and no round looks at all values.
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    ends = torch.tensor([0, len(ordered)], device=values.device)
    for _ in range(ROUNDS):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = torch.cat([ends[:1], inner, ends[1:]])
        sizes = edges.diff()
        means = (sums[edges[1:]] - sums[edges[:-1]]) / sizes.clamp_min(1)
        moved = torch.where(sizes > 0, means, centres)
        moved[zero] = 0
        if torch.equal(moved, centres):
            break
        centres = moved
    # In the weights' own precision two may fall together.
    return _distinct(centres.to(values.dtype))


def _distinct(values: Tensor) -> Tensor:
    found: Tensor = torch.unique(values)  # in order
    return found


def nearest(values: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest of ``centres``, which are in order, for each of ``values``."""
    return centres[torch.bucketize(values.detach().contiguous(), (centres[1:] + centres[:-1]) / 2)]
