"""What a distance is, and the steps that all of them share."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION


class Distance(Protocol):
    """Looks, on the host, for the nearest image that a net gets wrong. It proposes; it never judges itself."""

    @property
    def metric(self) -> str:
        """What its rows measure, e.g. ``r2_deepfool``; that metric's unit is the norm."""
        ...

    @property
    def label(self) -> str:
        """Name of its rows in the report, e.g. ``deepfool-box``."""
        ...

    @property
    def box(self) -> bool:
        """Whether it stays among the images that can be delivered, with pixels in [0, 1]."""
        ...

    @property
    def estimates(self) -> bool:
        """Whether it estimates how far a wrong image must be, and finds none."""
        ...

    @property
    def limit(self) -> int:
        """Most test images that it is asked of."""
        ...

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Return for ``images`` (N×C×H×W in [0, 1], all labelled right) the nearest wrong ones that it found.

        Where it found none that is the image itself. One that ``estimates`` returns N distances, infinite where there
        is nothing to tell.
        """
        ...


def linearised(net: nn.Module, images: Tensor, labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much the label leads each of ``others`` (N×K), and how that grows with each pixel (N×K×D).

    The growth is zero where the net's graph does not reach back to the pixels.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = net(leaf).float()
        leads = scores.gather(1, labels[:, None]) - scores.gather(1, others)
    slopes = []
    for column in range(others.shape[1]):
        # A sum and not a mean: each image's gradient is then its own, whatever the size of the batch.
        lead = leads[:, column].sum()
        keep = column + 1 < others.shape[1]
        (found,) = (
            torch.autograd.grad(lead, leaf, retain_graph=keep, allow_unused=True) if lead.requires_grad else (None,)
        )
        slopes.append(torch.zeros_like(leaf) if found is None else found)
    return leads.detach(), torch.stack(slopes, dim=1).flatten(2)


def is_wrong(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return one bit per image: no longer labelled right."""
    with torch.no_grad():
        wrong: Tensor = ~CLASSIFICATION.right(net(images), labels)
    return wrong


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Give one number per image the shape that multiplies images."""
    return values.view(-1, *(1,) * (images.ndim - 1))


def l2_norms(moves: Tensor) -> Tensor:
    """Return the ℓ2 norm of each image's move."""
    norms: Tensor = torch.linalg.vector_norm(moves.flatten(1), dim=1)
    return norms


def back_to_the_boundary(
    net: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, farthest: float, *, box: bool, halvings: int = 15
) -> Tensor:
    """Return, of each way from an image through ``targets``, the nearest point found that is wrong.

    A way ends at ``farthest`` times the move to its target, which must be wrong. Targets may lie outside of the box:
    each point is cut to it, so that pixels at its border rest there while the others move.
    """
    moves = targets - images
    near, far = torch.zeros(len(images), device=images.device), torch.full_like(moves.flatten(1)[:, 0], farthest)
    for _ in range(halvings):
        middle = (near + far) / 2
        wrong = is_wrong(net, on_the_way(images, moves, middle, box=box), labels)
        far, near = torch.where(wrong, middle, far), torch.where(wrong, near, middle)
    # The far end and not the middle: it is the one that was seen to be wrong.
    return on_the_way(images, moves, far, box=box)


def on_the_way(images: Tensor, moves: Tensor, share: Tensor | float, *, box: bool) -> Tensor:
    """Return the images moved by ``share`` of their moves, cut to the box where there is one."""
    there = images + (per_image(share, images) if isinstance(share, Tensor) else share) * moves
    return there.clamp(0, 1) if box else there
