"""First step: what a training asks of a net first, asked of a copy of the untrained net, so that it fails at once.

A forward pass in eval mode, which is what exports and counts need, says nothing of the pass in training mode, nor of
the way back to the parameters and to the pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustdeploy.cost.module import copied
from robustdeploy.errors import TrainingError, UsageError
from robustdeploy.train.batches import Batches
from robustdeploy.train.loss import BatchLoss
from robustdeploy.train.plan import Plan
from robustdeploy.train.precision import resolved

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
IMAGES = 2
"""Of the step; a layer that normalises a batch needs more than one."""
_ADVICE = {
    "modified by an inplace operation": "; it overwrites what the pass back needs: write y = y * 2, not y *= 2",
    "leaf Variable that requires grad is being used in an in-place": "; it overwrites its own images or weights: write "
    "x = x - 0.5, not x -= 0.5",
    "view of a leaf Variable": "; it overwrites its own images or weights: work on x.clone()",
    "must implement either the backward": "; give each torch.autograd.Function a backward",
    "more than 1 value per channel": "; batch normalisation of maps of one pixel needs more: shrink the images less",
}
"""What torch's own words mean for a net, by a part of them."""


def check_first_step(net: nn.Module, plan: Plan, what: str) -> None:
    """Raise an error where a step of the training on the first images fails; ``net`` is left as it is."""
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UsageError(f"{what} has no parameter that can be trained; leave requires_grad on where it should be")
    if closed := [name for name, layer in net.named_modules() if isinstance(layer, _DROPOUT) and layer.p >= 1]:
        raise UsageError(
            f"{what} cannot be trained: dropout in {closed[0].removeprefix('net.')} has p = 1, so nothing passes it "
            "while training; give it a p below 1"
        )
    # Two images show every fault that this looks for, and a whole batch takes long on the CPU.
    few = replace(plan, options=plan.options.model_copy(update={"batch_size": IMAGES}))
    try:
        # A net with dropout draws numbers here, and the training's own must not move by that.
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
            warnings.simplefilter("ignore")
            _step(copied(net).cpu().train(), few, what)
    except UsageError:
        raise
    except TrainingError as problem:  # it says what, of which net it does not know
        raise UsageError(f"{what} cannot be trained: {problem}") from problem
    except Exception as problem:  # foreign code may raise anything
        told = f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}".removesuffix(": ")
        advice = next((said for words, said in _ADVICE.items() if words in told), "")
        told = told.partition(" Hint: ")[0][:200]
        raise UsageError(
            f"{what} cannot be trained: a step in training mode, on a batch of {IMAGES}, fails ({told}){advice}"
        ) from problem


def _step(trial: nn.Module, plan: Plan, what: str) -> None:
    batch = Batches(plan).at(0)
    # Before any objective: its own error about scores of another shape would name an operation, not the net.
    _check_scores(trial(batch.images), len(batch.labels), what)
    loss = BatchLoss(trial, plan.threat, resolved(plan.options.precision, torch.device("cpu")))
    # Of every phase, since the last one's would otherwise fail after hours.
    for objective in dict.fromkeys(phase.objective for phase in plan.phases):
        loss(objective, batch, None)["loss"].backward()


def _check_scores(scores: Any, count: int, what: str) -> None:
    """Look at what the net gives in training mode; in eval mode that was done when it was built."""
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != count:
        given = f"a tensor of {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise UsageError(
            f"{what} gives {given} for a batch of {count} in training mode, not one row of logits each; of several "
            "outputs the one called 'logits' or 'out' counts, or else the first"
        )
    if not scores.requires_grad:
        raise UsageError(
            f"{what} cannot be trained: in training mode its scores have no gradient; look for detach(), no_grad() or "
            "argmax in its forward pass"
        )
