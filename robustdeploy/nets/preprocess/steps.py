"""Steps: all that a recipe has in front of a net, one after the other, as one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import PREPROCESS
from robustdeploy.errors import RecipeError
from robustdeploy.foreign import sentence
from robustdeploy.nets.preprocess.protocol import Step

Shape = tuple[int, int, int]
"""C, H, W."""


class Steps(nn.Module):
    """Map a camera's pixels in [0, 1], N×C×H×W, to what a net reads.

    It has no weights, and its operations are no MACs: it is there in the dense net and in the pruned one alike.
    """

    def __init__(self, choices: Sequence[Choice]) -> None:
        """Build the steps; a wrong option is a RecipeError."""
        super().__init__()
        self.steps: tuple[Step, ...] = tuple(PREPROCESS.build(each.name, each.options) for each in choices)
        self._names = tuple(each.name for each in choices)

    @property
    def normalise(self) -> bool:
        """Whether one of them normalises, so that nothing else should."""
        return any(getattr(step, "NORMALISES", False) for step in self.steps)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the net is given."""
        for step in self.steps:
            images = step(images)
        return images

    def shape(self, image_shape: Shape) -> Shape:
        """Return C, H and W of what they make of images of ``image_shape``; RecipeError where one takes no such."""
        images = torch.zeros(1, *image_shape)
        for name, step in zip(self._names, self.steps, strict=True):
            try:
                images = step(images)
            except Exception as error:  # a step may be anybody's code
                raise RecipeError(f"preprocess: {name}: {_why(error)}") from error
        channels, height, width = images.shape[1:]
        return channels, height, width


def _why(error: Exception) -> str:
    if "allocate memory" in str(error):  # torch has no exception of its own for it
        return "memory does not hold what it makes of a single image; give it a smaller size"
    return str(error) if isinstance(error, ValueError) else sentence(f"{type(error).__name__}: {error}")[:300]


def prepared_statistics(
    choices: Sequence[Choice], image_shape: Shape, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel of what the steps give, for images of C×H×W that have ``mean`` and ``std``.

    Where one of the steps normalises, these leave the numbers as they are.
    """
    if not choices:
        return mean, std
    steps = Steps(choices)
    channels = steps.shape(image_shape)[0]
    if steps.normalise:
        return (0.0,) * channels, (1.0,) * channels

    def moved(values: tuple[float, ...]) -> tuple[float, ...]:
        # An image of one colour stays one through resizing and cropping, so only the order of the channels counts.
        plain = torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1).expand(1, *image_shape)
        return tuple(round(value, 6) for value in steps(plain).mean((0, 2, 3)).tolist())

    return moved(mean), moved(std)
