"""Image passes: how often a training has sent an image through the net, and a gradient back.

Trainings are compared at equal passes, since an attack's step costs as much as one of the optimiser. The passes are
counted where they happen, so that a task of anybody's is counted like the shipped ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robustdeploy.train import ranks


@dataclass
class Passes:
    """What the steps of a training have cost in all processes, in images: one attacked by one step is two of each."""

    forward: int = 0
    backward: int = 0

    @contextmanager
    def counted(self, module: nn.Module, processes: int | None = None) -> Iterator[None]:
        """Count the passes through ``module`` that begin inside the block, and their gradients whenever they come.

        So many ``processes`` share the batches out; unset, all that train.
        """
        shares = ranks.world() if processes is None else processes
        handle = module.register_forward_hook(lambda _, inputs, output: self._note(output, shares))
        try:
            yield
        finally:
            handle.remove()

    def _note(self, output: Any, shares: int) -> None:
        if not isinstance(output, Tensor) or not output.ndim:
            return
        images = len(output) * shares  # each process has an equal share of the batch
        self.forward += images
        if output.requires_grad:
            output.register_hook(lambda gradient: self._note_gradient(images))  # type: ignore[no-untyped-call]

    def _note_gradient(self, images: int) -> None:
        self.backward += images
