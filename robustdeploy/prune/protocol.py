"""What a pruner is: it wraps a net for training under a budget and gives back a physically smaller one.

The training loop knows a pruner through this page alone. For a net under pruning it calls, in this order:

* ``on_phase`` when a phase of the training begins, and once more when that phase is resumed, before the state of
  ``module`` comes back from the checkpoint;
* ``prepare``, where it has one, before the first step that trains scores;
* in each step ``penalty`` inside the forward pass, ``before_step`` between the backward pass and the optimiser, and
  ``after_step`` behind the optimiser, until the masks are frozen;
* ``finalize`` when the last phase that trains scores ends and the masks are not frozen yet;
* ``compact`` for the net that is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from robustdeploy.core.recipe import Budget
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.latency import LatencyGoal

Trainable = Literal["weights", "scores", "both"]
"""What a phase trains: the net's own parameters, those of the pruner, or both."""


@dataclass(frozen=True)
class PhaseInfo:
    """What a pruner is told of the phase that begins."""

    name: str = "train"
    train: Trainable = "both"
    epochs: int = 1
    steps: int = 1
    """Optimiser steps of the phase."""
    last_of_scores: bool = True
    """Whether no later phase trains scores."""
    images: int = 1
    """Training images."""

    @property
    def trains_scores(self) -> bool:
        """Whether the pruner's own parameters are trained."""
        return self.train != "weights"

    def freeze(self, share: float) -> float | None:
        """Return ``share`` if masks may freeze there, else None: then they do when ``finalize`` is called.

        Frozen earlier, they would leave nothing to train to a phase of scores alone, or to a later phase of scores.
        """
        return share if self.train == "both" and self.last_of_scores else None


@dataclass(frozen=True)
class StepData:
    """What the loss of one step was taken on, in this process: N of the batch's images."""

    images: Tensor
    """The batch as it is (augmented), N×C×H×W in [0, 1]."""
    labels: Tensor
    adversarial: Tensor | None = None
    """The attacked images that the objective trained on, detached; None where it attacks none."""
    features: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    """Per layer that ``Pruning.features`` names, its outputs in the passes that the loss comes from, in their order.

    One pass may hold attacked images and then the same ones as they are, 2N in all. A gradient flows through them.
    """


class Pruning(Protocol):
    """A net under pruning."""

    net: nn.Module
    """The dense net; its parameters are trained in place."""
    removes_channels: bool
    """Whether ``compact`` gives a physically smaller net, which the training goes on with once the masks are frozen."""

    @property
    def module(self) -> nn.Module:
        """What is trained and scored in place of ``net``, which is part of it: ``net`` under its masks.

        Whatever tensors its state dict holds besides those of ``net`` are the pruner's own state (see ``own_state``).
        All that a resumed training needs must be among them.
        """
        ...

    @property
    def is_frozen(self) -> bool:
        """Whether the masks have met their budget and stopped changing."""
        ...

    def own_parameters(self) -> list[dict[str, object]]:
        """Parameter groups for the optimiser besides the net's own; one without ``lr`` follows the phase's schedule.

        One with ``lr`` moves by SGD, or by Adam where it says ``"rule": "adam"``.
        """
        ...

    def features(self) -> Sequence[str]:
        """Names of layers of ``net`` whose outputs a step shall keep for ``penalty`` and ``before_step``; mostly none.

        It is asked for when a phase begins.
        """
        ...

    def on_phase(self, phase: PhaseInfo) -> None:
        """Prepare for a phase. What it does to tensors is in the next checkpoint, anything else it must do again."""
        ...

    def penalty(self, step: StepData) -> Tensor | None:
        """Return a scalar that is added to the loss, if any; its gradient is averaged over processes like the loss's.

        Called inside the forward pass.
        """
        ...

    def before_step(self, step: StepData) -> None:
        """Look at the gradients, averaged over all processes, before the optimiser uses them."""
        ...

    def after_step(self, progress: float) -> None:
        """Project, anneal or freeze after an optimiser step.

        ``progress`` is the share done of all steps that train scores: 0 before the first, 1 behind the last.
        """
        ...

    def finalize(self) -> None:
        """Meet the budget exactly and freeze. Raises TrainingError where that cannot be done."""
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


Judge = Callable[[Tensor, Tensor, Noise], Tensor]
"""Takes n images (n×C×H×W, float32 in [0, 1]), their labels and their noise; returns one row for each."""


class Look(Protocol):
    """What may be looked at before the training: held-out training images, and never one of the test set."""

    threat: Threat
    seed: int
    """Of the run."""

    def judged(self, net: nn.Module, judge: Judge) -> Tensor:
        """Return the rows that ``judge`` gives for the held-out images, a batch at a time; ``net`` is in eval mode.

        An image's noise has its place among them as ``ids``. Raises Interrupted where a signal asks for a stop.
        """
        ...

    def settle(self, net: nn.Module, batches: int) -> None:
        """Average the statistics of batch normalisation in ``net`` over so many batches of training images."""
        ...


@dataclass(frozen=True)
class Prepared:
    """One item of a preparation that is done."""

    what: str
    """What is under way, e.g. ``searching channels``."""
    done: int
    total: int
    numbers: Mapping[str, float]
    """The latest, by name."""


@runtime_checkable
class Preparing(Protocol):
    """A net under pruning that searches, or measures, before the first step that trains scores."""

    def prepare(self, look: Look) -> Iterator[Prepared]:
        """Do one item after the other. Behind each the training may save, or stop.

        What was found so far is in the tensors of ``module``, which an item changes only when it looks at nothing any
        more. In a resumed training they come back first, and what is left to do is done.
        """
        ...


class Pruner(Protocol):
    """A way to prune while training. Its dataclass fields are its options.

    A class attribute ``needs_budget`` that is false has it prune without a budget too; ``removes_channels`` that is
    false says that the net keeps its shape and that the budget counts what is not zero; ``averages`` that is false says
    that ``train.ema`` cannot go with it; ``comes_last`` that is true, that nothing may train once the masks stay.
    """

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> Pruning:
        """Attach to ``net`` for ``budget``, all of whose limits must be met.

        Raises BudgetError, before any training and with the smallest reachable value, when it is out of reach.
        """
        ...


@runtime_checkable
class TimedPruner(Protocol):
    """A pruner that also keeps a limit on latency."""

    def wrap_timed(
        self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget, timing: LatencyGoal
    ) -> Pruning:
        """Attach to ``net`` as ``Pruner.wrap`` does, for a budget that limits latency too."""
        ...


def lacking(candidate: object) -> list[str]:
    """Return the names that ``Pruning`` has and ``candidate`` has not, sorted."""
    wanted = {*Pruning.__annotations__, *(name for name in vars(Pruning) if not name.startswith("_"))}
    return sorted(name for name in wanted if not hasattr(candidate, name))


def own_state(pruning: Pruning) -> dict[str, Tensor]:
    """Return the tensors of ``pruning.module`` that are not the net's, by their names in its state dict.

    They are told apart by the tensors themselves, so that a pruner may hold the net under any name, or several.
    """
    # keep_vars gives the tensors themselves; without it every entry is a new detached one, and no two would be the
    # same.
    nets = {id(value) for value in pruning.net.state_dict(keep_vars=True).values()}
    state = pruning.module.state_dict(keep_vars=True)
    return {
        name: value.detach() for name, value in state.items() if isinstance(value, Tensor) and id(value) not in nets
    }


def own_parameters(pruning: Pruning) -> dict[str, nn.Parameter]:
    """Return the parameters of ``pruning.module`` that are not the net's, by name."""
    nets = {id(value) for value in pruning.net.parameters()}
    return {name: value for name, value in pruning.module.named_parameters() if id(value) not in nets}


def load_own_state(pruning: Pruning, state: Mapping[str, Tensor]) -> None:
    """Put back what ``own_state`` returned. Raises KeyError for a tensor that is missing."""
    wanted = own_state(pruning)
    # Not strict, as the net's own tensors are loaded elsewhere: they may belong to a smaller net by then.
    pruning.module.load_state_dict({name: state[name] for name in wanted}, strict=False)
