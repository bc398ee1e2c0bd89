"""Labels: tensors that say of every number of a feature map which channel it is of, and how they combine."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdeploy.prune.positions import FREE, Positions


def varied(labels: Tensor) -> list[int]:
    """Return the dimensions along which labels differ."""
    return [d for d in range(labels.dim()) if labels.shape[d] > 1 and _differs(labels, d)]


def _differs(labels: Tensor, dim: int) -> bool:
    # A stride of 0 proves that nothing differs, without a look at millions of labels.
    return labels.stride(dim) != 0 and not torch.equal(labels, labels.narrow(dim, 0, 1).expand_as(labels))


def narrowed(labels: Tensor) -> Tensor:
    """Return the labels with size 1 in every dimension along which they do not differ."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1 and not _differs(labels, dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


def along(labels: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """Return labels of ``shape``, given by a vector along one dimension."""
    view = [1] * len(shape)
    view[dim] = len(labels)
    return labels.view(view).expand(shape)


def vector(positions: Positions, labels: Tensor, dim: int) -> Tensor:
    """Join what has one place along ``dim``, and return one label for each place."""
    rows = narrowed(labels).movedim(dim, 0)
    rows = rows.reshape(rows.shape[0], -1)
    # The highest label is a channel if any is: FREE and the reasons lie below 0.
    highest = rows.max(1).values
    positions.join(highest[:, None], rows)
    return highest.expand(labels.shape[dim])


def joined_along(positions: Positions, labels: Tensor, dims: list[int], why: str) -> Tensor:
    """Join labels along ``dims`` and return them with size 1 there."""
    for dim in dims:
        highest = labels.amax(dim, keepdim=True)
        positions.join(highest, labels, why)
        labels = highest
    return labels


def combined(positions: Positions, one: Tensor, other: Tensor) -> Tensor:
    """Return the labels of what an operation makes, number by number, of two tensors; join the channels that meet.

    What has size 1 where the other has channels is spread over them: it is no channel of theirs, but must stay.
    """
    shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
    ours, theirs = (labels.view([1] * (len(shape) - labels.dim()) + list(labels.shape)) for labels in (one, other))
    spread_ours = any(ours.shape[dim] == 1 for dim in varied(theirs))
    spread_theirs = any(theirs.shape[dim] == 1 for dim in varied(ours))
    reason = "it is one channel that is spread over several others"
    if spread_ours:
        positions.fix(ours, reason)
    if spread_theirs:
        positions.fix(theirs, reason)
    if spread_ours and spread_theirs:
        return torch.full(shape, positions.because(reason))
    if spread_ours or spread_theirs:
        return (theirs if spread_ours else ours).expand(shape)
    # Joining is done on as few labels as there are channels, not on every pixel of a map.
    small, slim = narrowed(ours), narrowed(theirs)
    positions.join(small, slim)
    small, slim = torch.broadcast_tensors(small, slim)  # type: ignore[no-untyped-call]
    # A channel tells more than a reason, and a reason more than FREE.
    known = torch.where((small == FREE) | ((slim >= 0) & (small < 0)), slim, small)
    return known.expand(shape)
