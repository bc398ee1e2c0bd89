"""Ascent: the room an attack has around training images, and one signed gradient step inside it.

Unlike ``attacks.protocol.box``, nothing is rounded to grey levels here: what is trained on is never delivered.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustdeploy.errors import TrainingError
from robustdeploy.prune.information import unwatched

Room = tuple[Tensor, Tensor]
"""Lowest and highest value of each pixel."""
Loss = Callable[[Tensor], Tensor]
"""Images, or what is added to them, to a scalar."""


def ball(images: Tensor, eps: float) -> Room:
    """Return the ℓ∞ ball of radius ``eps`` around ``images``, as far as it lies in [0, 1]."""
    return (images - eps).clamp_min(0), (images + eps).clamp_max(1)


def anywhere(images: Tensor) -> Room:
    """Return all of [0, 1], for attacks that are free to leave the ball."""
    return images.new_zeros(()), images.new_ones(())


def inside(images: Tensor, room: Room) -> Tensor:
    """Move each pixel to the nearest value that ``room`` has."""
    low, high = room
    return torch.minimum(torch.maximum(images, low), high)


def spread(uniform: Tensor, radius: float) -> Tensor:
    """Stretch numbers of [0, 1) over [-radius, radius)."""
    return radius * (2 * uniform - 1)


def step_up(loss: Loss, images: Tensor, alpha: float, room: Room, task: str) -> Tensor:
    """Return ``images`` (N×C×H×W) moved by ``alpha`` along the sign of the gradient of ``loss``, inside ``room``."""
    return inside(images + alpha * slope(loss, images, task).sign(), room)


def slope(loss: Loss, where: Tensor, task: str) -> Tensor:
    """Return the gradient of ``loss`` at ``where``, and leave none behind in the net.

    Raises TrainingError, in the name of ``task``, when the loss does not depend on ``where``.
    """
    with torch.enable_grad(), unwatched():
        leaf = where.detach().requires_grad_()
        value = loss(leaf)
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True) if value.requires_grad else (None,)
    return reaching(gradient, task)


def reaching(gradient: Tensor | None, task: str) -> Tensor:
    """Return ``gradient``; raise TrainingError, in the name of ``task``, when there is none."""
    if gradient is None:
        raise TrainingError(
            f"the net cuts the graph between pixels and scores, so {task} has no gradient to follow; "
            "make each of its layers differentiable, or train with the task 'standard'"
        )
    return gradient


def check_step(alpha: float | None) -> None:
    """Raise ValueError unless ``alpha``, where it is set, is a step in pixels of [0, 1]."""
    if alpha is not None and not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], not {alpha}")


def check_count(name: str, count: int) -> None:
    """Raise ValueError unless option ``name`` asks for at least one."""
    if count < 1:
        raise ValueError(f"{name} must be at least 1, not {count}")
