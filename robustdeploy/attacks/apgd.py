"""APGD: projected gradient steps that shorten themselves where the loss no longer rises (Croce and Hein, ICML 2020).

Steps have a momentum, and begin with twice eps. At checkpoints that follow each other ever faster, an image whose loss
rose too seldom, or whose best loss stayed where it was, goes on from its best iterate with half the step.

In ℓ1 steps have no momentum, and move fewer pixels the fewer were changed so far (Croce and Hein, "Mind the box", ICML
2021): where that share still falls they begin again with a step of eps, and else shorten to a tenth of it.

Iterates are floats, since steps become smaller than a grey level. An iterate that is misclassified counts only if it
still is when it is rounded to whole grey levels, as it will be stored; the image goes on otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.ball import Ball, ball
from robustdeploy.attacks.distance.protocol import per_image
from robustdeploy.attacks.losses import LOSSES, Goal, likeliest, suffix
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.core.bounds import Count, LossName, Whole
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat

_KEPT = 0.75
"""Share of a step that follows the gradient; the rest repeats the step before."""
_RISES = 0.75
"""A step is halved where fewer of the steps since the last checkpoint than this share made the loss rise."""

_FIRST_SHARE = 0.2
_FEWER = 0.95
"""In ℓ1 steps begin anew where the share of changed pixels fell below this share of what it was."""
_SHRINK = 1.5


@dataclass(frozen=True)
class Apgd:
    """Steps of their own size for each image, towards no class or towards each of the likeliest ones."""

    steps: Count = 100
    """Gradient steps per start."""
    restarts: Count = 1
    """Random starts; later ones attack only the images that still stand."""
    loss: LossName = "cross-entropy"
    """What the steps climb. Of two classes ``dlr`` is ``margin``."""
    targets: Whole = 0
    """Classes to be taken for, the likeliest first, each with all restarts; with 0 any class will do."""

    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``apgd-100``, ``apgd-100-5`` for 5 starts, ``apgd-100-dlr`` by loss, ``apgd-100-dlr-t9`` for 9 targets."""
        restarts = f"-{self.restarts}" if self.restarts > 1 else ""
        targets = f"-t{self.targets}" if self.targets else ""
        return f"apgd-{self.steps}{restarts}{suffix(self.loss)}{targets}"

    @property
    def starts(self) -> int:
        """How often it sets out for an image that stands to the end."""
        return self.restarts * max(1, self.targets)

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return the strongest image found for each input."""
        best, best_loss = images.clone(), images.new_full((len(images),), -torch.inf)
        standing = torch.arange(len(images), device=images.device)
        judged = LOSSES[self.loss]
        for number, goal in enumerate(self._goals(net, images, labels)):
            if not len(standing):
                break
            room = ball(images[standing], threat)
            start = room.anywhere(noise.select(standing), number)
            found, fooled = _climbed(net, start, goal.select(standing), room, threat.norm == "l1", self.steps)
            with torch.no_grad():
                # By one loss for all starts: those towards several classes are not comparable.
                loss = judged(net(found), labels[standing]).to(best_loss.dtype)
            better = fooled | (loss > best_loss[standing])
            best[standing[better]], best_loss[standing[better]] = found[better], loss[better]
            standing = standing[~fooled]
        return best

    def _goals(self, net: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Goal]:
        """What each start climbs towards, for all images."""
        if self.targets == 0:
            yield from [Goal(labels, self.loss)] * self.restarts
            return
        if not len(images):
            return
        with torch.no_grad():
            targets = likeliest(net(images), labels, self.targets)
        for target in targets.unbind(1):
            yield from [Goal(labels, self.loss, target)] * self.restarts


@dataclass(frozen=True)
class _State:
    """Where the images are that still climb; every field has one entry per image."""

    image: Tensor
    """Its place in the batch."""
    now: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor
    rises: Tensor
    """Steps since the last checkpoint that made the loss rise."""
    halved: Tensor
    """Whether its step was halved at the last checkpoint."""
    checked_loss: Tensor
    """Its best loss at the last checkpoint."""
    share: Tensor
    """Share of the pixels that a step in ℓ1 moves."""
    changed: Tensor
    """Share of the pixels that were changed in its best iterate at the last checkpoint."""

    def select(self, mask: Tensor) -> _State:
        """Return the state of some of the images."""
        return _State(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def _climbed(net: nn.Module, start: Tensor, goal: Goal, room: Ball, sparse: bool, steps: int) -> tuple[Tensor, Tensor]:
    """Climb from one start; return grey levels, misclassified or of the highest loss, and which are the former."""
    found, fooled = room.whole(start), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    state, scores = _begun(net, start, goal, room.radius if sparse else 2 * room.radius)
    state = _standing(net, state, scores, goal, room, found, fooled)
    checkpoints = _sparse_checkpoints(steps) if sparse else _checkpoints(steps)
    for number in range(1, steps + 1):
        if not len(state.image):
            break
        state, scores = _stepped(net, state, goal, room, 1.0 if sparse or number == 1 else _KEPT)
        state = _standing(net, state, scores, goal, room, found, fooled)
        if number in checkpoints:
            state = _sparser(state, room) if sparse else _checked(state, checkpoints[number])
    found[state.image] = room.select(state.image).whole(state.best)
    return found, fooled


def _begun(net: nn.Module, start: Tensor, goal: Goal, first: float) -> tuple[_State, Tensor]:
    gradient, scores = input_gradient(net, start, goal.labels, goal.loss)
    loss = goal.loss(scores, goal.labels).to(start.dtype)
    numbers = torch.arange(len(start), device=start.device)
    step = per_image(torch.full_like(loss, first), start)
    state = _State(
        image=numbers,
        now=start,
        before=start,
        gradient=gradient,
        loss=loss,
        best=start,
        best_gradient=gradient,
        best_loss=loss,
        step=step,
        rises=torch.zeros_like(numbers),
        halved=torch.ones_like(loss, dtype=torch.bool),
        checked_loss=loss,
        share=torch.full_like(loss, _FIRST_SHARE),
        changed=torch.ones_like(loss),
    )
    return state, scores


def _stepped(net: nn.Module, state: _State, goal: Goal, room: Ball, kept: float) -> tuple[_State, Tensor]:
    """Take one step with all images; return where they are now and the scores there."""
    its = room.select(state.image)
    along = its.inside(state.now + state.step * its.steepest(state.gradient, state.now, state.share))
    now = its.inside(state.now + kept * (along - state.now) + (1 - kept) * (state.now - state.before))
    own = goal.select(state.image)
    gradient, scores = input_gradient(net, now, own.labels, own.loss)
    loss = own.loss(scores, own.labels).to(now.dtype)
    higher = loss > state.best_loss
    wide = higher.view_as(state.step)
    moved = replace(
        state,
        now=now,
        before=state.now,
        gradient=gradient,
        loss=loss,
        best=torch.where(wide, now, state.best),
        best_gradient=torch.where(wide, gradient, state.best_gradient),
        best_loss=torch.where(higher, loss, state.best_loss),
        rises=state.rises + (loss > state.loss),
    )
    return moved, scores


def _standing(
    net: nn.Module, state: _State, scores: Tensor, goal: Goal, room: Ball, found: Tensor, fooled: Tensor
) -> _State:
    """Store the images that are misclassified, rounded too, in ``found`` and ``fooled``; return the others' state."""
    labels = goal.labels[state.image]
    wrong = ~CLASSIFICATION.right(scores, labels)
    if not bool(wrong.any()):
        return state
    rounded = room.select(state.image[wrong]).whole(state.now[wrong])
    with torch.no_grad():
        still = ~CLASSIFICATION.right(net(rounded), labels[wrong])
    fell = state.image[wrong][still]
    found[fell], fooled[fell] = rounded[still], True
    return state.select(~fooled[state.image])


def _checked(state: _State, window: int) -> _State:
    """Halve the steps of images that got nowhere in the last ``window`` steps, and take these back to their best."""
    stuck = state.rises <= _RISES * window
    stuck |= ~state.halved & (state.best_loss <= state.checked_loss)
    wide = stuck.view_as(state.step)
    return replace(
        state,
        step=torch.where(wide, state.step / 2, state.step),
        now=torch.where(wide, state.best, state.now),
        gradient=torch.where(wide, state.best_gradient, state.gradient),
        loss=torch.where(stuck, state.best_loss, state.loss),
        rises=torch.zeros_like(state.rises),
        halved=stuck,
        checked_loss=state.best_loss,
    )


def _sparser(state: _State, room: Ball) -> _State:
    """Move fewer pixels; begin anew from the best iterate where fewer are changed in it, else take shorter steps."""
    its = room.select(state.image)
    changed = (state.best != its.images).flatten(1).to(state.loss.dtype).mean(1)
    fewer = changed < _FEWER * state.changed
    wide = fewer.view_as(state.step)
    first = its.radius
    return replace(
        state,
        step=torch.where(wide, first, (state.step / _SHRINK).clamp_min(first / 10)),
        now=torch.where(wide, state.best, state.now),
        gradient=torch.where(wide, state.best_gradient, state.gradient),
        loss=torch.where(fewer, state.best_loss, state.loss),
        share=changed / _SHRINK,
        changed=changed,
    )


def _sparse_checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which that is looked at: every 4 % of all."""
    window = max(1, int(0.04 * steps))
    return dict.fromkeys(range(window, steps + 1, window), window)


def _checkpoints(steps: int) -> dict[int, int]:
    """Return the steps after which it is looked back, and over how many: 22 % of all, then ever fewer down to 6 %."""
    window, least, less = (max(1, int(share * steps)) for share in (0.22, 0.06, 0.03))
    found: dict[int, int] = {}
    at = window
    while at <= steps:
        found[at] = window
        window = max(least, window - less)
        at += window
    return found


plugin = Apgd
