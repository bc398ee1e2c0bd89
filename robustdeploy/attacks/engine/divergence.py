"""Divergence: looks for images in the box that the twin in torch labels right and the engine on the board wrong.

A parity check on random images sees none of these, as both nets are far from a tie there. This search goes to the ties.
It steps towards another class until the twin is wrong. Between the last right image and the first wrong one it bisects,
one grey level of one pixel at a time, and then lowers the margin further by pairs of pixels. There a small error of the
engine decides. It walks along the tie and asks the engine at each place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.engine.protocol import AskScores, alike
from robustdeploy.attacks.losses import Goal, margin_loss
from robustdeploy.attacks.protocol import box, input_gradient, to_grey_levels
from robustdeploy.core.bounds import Count, Whole
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Threat

_ROUNDING = 2.0**-22
"""Share of the largest score, nearer than which to a tie the twin's own rounding decides."""
_LOWERED = 6
"""Pairs of pixels that are moved, one after the other, to lower a margin."""
_SHARE = 0.9
"""Of the margin that a pair is meant to take away; all of it would overshoot."""
_MOVED = 0.1
"""Share of the pixels that a step along a tie moves."""


@dataclass(frozen=True)
class Divergence:
    """Rounds towards one class each; in each a walk along the tie with it, the engine asked at every place."""

    rounds: Count = 5
    """Ties that are looked for: first from the image itself, then from random points of its box."""
    steps: Count = 20
    """Gradient steps towards each."""
    walks: Whole = 6
    """Steps along each tie, from where the engine was nearest to being wrong."""

    KIND: ClassVar[str] = "divergence"

    @property
    def label(self) -> str:
        """``divergence-5-6`` for 5 rounds with 6 steps along each tie."""
        return f"divergence-{self.rounds}-{self.walks}"

    def __call__(
        self, twin: nn.Module, ask: AskScores, images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Tensor:
        """Return an image on which the two differ, where one was found, and the image itself elsewhere.

        An image that the twin itself labels wrong is left alone.
        """
        with torch.no_grad():
            scores = twin(images)
        search = _Search(twin, ask, images, labels, threat, noise, scores, images.clone(), torch.zeros_like(scores))
        standing = torch.arange(len(images), device=images.device)[CLASSIFICATION.right(scores, labels)]
        standing = standing[~search.asked(images[standing], standing)[0]]
        for number in range(self.rounds):
            if not len(standing):
                break
            standing = search.round(standing, number, self.steps, self.walks)
        return search.found


@dataclass
class _Search:
    """What is known of a batch. Images are named by ``at``, their places in it."""

    twin: nn.Module
    ask: AskScores
    images: Tensor
    labels: Tensor
    threat: Threat
    noise: Noise
    scores: Tensor
    """The twin's, of the images as they are."""
    found: Tensor
    """The images, each replaced by one on which the two differ."""
    lean: Tensor
    """By how much the engine scores each class above the twin, where it was asked last; N×K."""

    def asked(self, points: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Ask the engine at ``points``; return where it is wrong and the twin right, and the engine's margins."""
        scores, labels = self.ask(points, at), self.labels[at]
        # In a batch of all images, as the evaluation judges: near a tie another batch rounds otherwise.
        whole = self.found.clone()
        whole[at] = points
        with torch.no_grad():
            own = self.twin(whole)[at]
        self.lean[at] = torch.where(alike(scores, own)[:, None], scores - own, 0)
        differ = CLASSIFICATION.right(own, labels) & ~CLASSIFICATION.right(scores, labels)
        self.found[at[differ]] = points[differ]
        return differ, -margin_loss(scores, labels)

    def round(self, at: Tensor, number: int, steps: int, walks: int) -> Tensor:
        """Look for one tie and walk along it; return the places of images on which nothing was found."""
        right, wrong, reached = self._approached(at, number, steps)
        # One that reached no tie is asked once, as near to one as it came.
        best = self._tie(right, wrong, at, number << 16)
        differ, margin = self.asked(best, at)
        left, go = at[~differ & ~reached], reached & ~differ
        at, best, wrong, margin = at[go], best[go], wrong[go], margin[go]
        for walk in range(1, walks + 1):
            if not len(at):
                break
            step = (number << 16) + 2 * walk
            moved = self._moved(best, at, step)
            still = CLASSIFICATION.right(self._scored(moved), self.labels[at])[:, None, None, None]
            tie = self._tie(torch.where(still, moved, best), torch.where(still, wrong, moved), at, step + 1)
            differ, found = self.asked(tie, at)
            # On from where the engine is nearest to being wrong: its error there is the largest so far.
            nearer = found < margin
            best = torch.where(nearer[:, None, None, None], tie, best)
            margin = torch.minimum(found, margin)
            at, best, wrong, margin = (each[~differ] for each in (at, best, wrong, margin))
        return torch.cat([left, at]).sort().values

    def _scored(self, points: Tensor) -> Tensor:
        with torch.no_grad():
            scores: Tensor = self.twin(points)
        return scores

    def _targets(self, at: Tensor, number: int) -> Tensor:
        """Return the class that each image steps towards: those that the engine leans to first, the likeliest first."""
        own = self.labels[at][:, None]
        lean = self.lean[at] - self.lean[at].gather(1, own)
        scores = self.scores[at]
        # Where the engine leans to no class, or its scores say nothing, all are alike.
        first = (lean > 0) * (scores.amax(1) - scores.amin(1) + 1)[:, None]
        wanted = (scores + first).scatter(1, own, -torch.inf)
        return wanted.sort(1, descending=True).indices[:, number % (wanted.shape[1] - 1)]

    def _approached(self, at: Tensor, number: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Step towards a class; return the last right image, the first wrong one, and where there is such a one."""
        images, labels, targets = self.images[at], self.labels[at], self._targets(at, number)
        low, high = box(images, self.threat)
        alpha = max(self.threat.levels // 4, 1) / 255
        now = images.clone()
        if number:
            drawn = self.noise.select(at).uniform(number << 16, tuple(images.shape[1:]))
            now = to_grey_levels(low + (high - low) * drawn).clamp(low, high)
        right, wrong = images.clone(), images.clone()
        on = torch.arange(len(at), device=at.device)
        for step in range(steps + 1):
            goal = Goal(labels[on], "margin", targets[on])
            gradient, scores = input_gradient(self.twin, now[on], goal.labels, goal.loss)
            holds = CLASSIFICATION.right(scores, labels[on])
            wrong[on[~holds]] = now[on[~holds]]
            on, along = on[holds], gradient[holds]
            right[on] = now[on]
            if step == steps or not len(on):
                break
            stepped = to_grey_levels(now[on] + alpha * along.sign())
            now[on] = torch.minimum(torch.maximum(stepped, low[on]), high[on])
        reached = torch.ones(len(at), dtype=torch.bool, device=at.device)
        reached[on] = False
        wrong[on] = right[on]
        return right, wrong, reached

    def _moved(self, points: Tensor, at: Tensor, step: int) -> Tensor:
        """Move some pixels of each image by up to eps, inside its box."""
        low, high = box(self.images[at], self.threat)
        drawn = self.noise.select(at).uniform(step, (2, *points.shape[1:]))
        by = torch.where(drawn[:, 0] < _MOVED, 2 * drawn[:, 1] - 1, 0) * (self.threat.levels / 255)
        return torch.minimum(torch.maximum(to_grey_levels(points + by), low), high)

    def _tie(self, right: Tensor, wrong: Tensor, at: Tensor, step: int) -> Tensor:
        """Return an image between the two that the twin labels right, with as low a margin as is found."""
        return self._lowered(self._bisected(right, wrong, at, step), at)

    def _bisected(self, right: Tensor, wrong: Tensor, at: Tensor, step: int) -> Tensor:
        """Go from ``right`` to ``wrong``, pixel by pixel in a random order; return the last image before a tie."""
        labels, shape = self.labels[at], right.shape
        levels = ((wrong - right) * 255).round().flatten(1)
        order = self.noise.select(at).uniform(step, (levels.shape[1],)).argsort(1)
        gone = levels.abs().gather(1, order).cumsum(1)
        # Of each pixel: how many grey levels all those before it move.
        before = torch.zeros_like(levels).scatter_(1, order, gone) - levels.abs()

        def reached(moves: Tensor) -> Tensor:
            part = (moves[:, None] - before).clamp_min(0).minimum(levels.abs()) * levels.sign()
            return to_grey_levels(right + part.view(shape) / 255)

        low, high = torch.zeros_like(gone[:, -1]), gone[:, -1]
        while bool((high - low > 1).any()):
            middle = ((low + high) / 2).floor()
            holds = CLASSIFICATION.right(self._scored(reached(middle)), labels)
            low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
        return reached(low)

    def _lowered(self, points: Tensor, at: Tensor) -> Tensor:
        """Lower the twin's margin, by one grey level of each of two pixels at a time, while its label stays right.

        Of all pairs the one counts whose fall, by the slope, comes nearest to the margin from below.
        """
        labels, shape = self.labels[at], points.shape
        low, high = (side.flatten(1) for side in box(self.images[at], self.threat))
        points, share = points.flatten(1), torch.full_like(points[:, 0, 0, 0], _SHARE)
        slope, scores = input_gradient(self.twin, points.view(shape), labels, margin_loss)
        lead = -margin_loss(scores, labels)
        for _ in range(_LOWERED):
            rise, free = slope.flatten(1) / 255, torch.cat([points < high, points > low], 1)
            falls, moves = torch.cat([rise, -rise], 1).masked_fill(~free, -torch.inf).sort(1)
            # Of each move, the other one that fits best beside it; with more than two, the slope foretells too little.
            wanted = (share * lead)[:, None]
            beside = (torch.searchsorted(falls, wanted - falls) - 1).clamp_min(0)
            miss = wanted - falls - falls.gather(1, beside)
            miss, first = miss.masked_fill((miss < 0) | (miss >= wanted), torch.inf).min(1, keepdim=True)
            tried = points
            for place in (first, beside.gather(1, first)):
                move = moves.gather(1, place)
                way = torch.where(move < rise.shape[1], 1 / 255, -1 / 255)
                tried = tried.scatter_add(1, move % rise.shape[1], way.to(points.dtype))
            tried = torch.minimum(torch.maximum(to_grey_levels(tried), low), high)
            its_slope, scores = input_gradient(self.twin, tried.view(shape), labels, margin_loss)
            its_lead = -margin_loss(scores, labels)
            nearer = miss[:, 0].isfinite() & (its_lead > _ROUNDING * scores.abs().amax(1)) & (its_lead < lead)
            points = torch.where(nearer[:, None], tried, points)
            slope = torch.where(nearer[:, None, None, None], its_slope, slope)
            lead = torch.where(nearer, its_lead, lead)
            share = torch.where(nearer, _SHARE, share / 2)
        return points.view(shape)


plugin = Divergence
