"""What a pruner is: it wraps a net for training under a budget and gives back a physically smaller one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from robustdeploy.core.recipe import Budget


class Pruning(Protocol):
    """A net under pruning. It is the module that is trained; its state dict holds the masks as well."""

    net: nn.Module
    """The dense net; its parameters are trained in place."""
    removes_channels: bool
    """Whether ``compact`` gives a physically smaller net, which the training goes on with once the masks are frozen."""

    @property
    def is_frozen(self) -> bool:
        """Whether the masks have met their budget and stopped changing."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Score ``images`` with the masked net."""
        ...

    def own_parameters(self) -> list[dict[str, object]]:
        """Parameter groups for the optimiser besides the net's own."""
        ...

    def before_step(self, images: int) -> None:
        """Look at the gradients, averaged over all processes, before the optimiser uses them.

        ``images`` is the number of images in this process's batch.
        """
        ...

    def after_step(self, progress: float) -> None:
        """Project, anneal or freeze after an optimiser step."""
        ...

    def status(self) -> Mapping[str, float]:
        """Numbers for the training log, e.g. the operations now kept.

        ``mask_flips``, where it is one of them, counts from the start of the training; the log has those of each epoch.
        """
        ...

    def kept(self) -> dict[str, Tensor]:
        """Per channel group or masked weight, the indices kept."""
        ...

    def costs(self) -> Mapping[str, float]:
        """What the masks keep, by the names of Budget: ``ops`` in MACs, ``params``, ``memory`` in bytes."""
        ...

    def compact(self, twin: nn.Module | None = None) -> nn.Module:
        """Return a net that computes what the masked one does, without it. Raises TrainingError before the freeze.

        With ``twin``, a module like ``net`` whose tensors hold something else (an optimiser's momenta, averaged
        weights), that one is cut instead: each kept number stays with its channel.
        """
        ...


class Pruner(Protocol):
    """A way to prune while training. Its dataclass fields are its options.

    A class attribute ``needs_budget`` that is false has it prune without a budget too; ``removes_channels`` that is
    false says that the net keeps its shape and that the budget counts what is not zero.
    """

    def begin(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> Pruning:
        """Attach to ``net`` for ``budget``, all of whose limits must be met.

        Raises BudgetError, before any training and with the smallest reachable value, when it is out of reach.
        """
        ...
