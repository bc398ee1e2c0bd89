"""DDPG: a policy of one continuous action, learnt from what earlier actions were worth (Lillicrap et al., ICLR 2016).

Two small nets, actor and critic, each beside a copy that follows it slowly. All of it lies in two buffers, so that
whatever saves a module saves the agent, and goes on with it exactly. Sizes and rates are those of He et al., "AMC"
(ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = (300, 300)
ACTOR_LR, CRITIC_LR = 1e-4, 1e-3
TAU = 0.01
"""Share of the way that a copy follows in an update."""
MOMENTA = (0.9, 0.999)
"""Of Adam (Kingma and Ba, ICLR 2015)."""
BASELINE = 0.5
"""Share of the way that the mean reward, which all rewards are taken less of, moves in an update."""


@dataclass(frozen=True)
class Transitions:
    """What was done in ``n`` states and came of it: states n×d, the others n."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    """The states afterwards, n×d."""
    ends: Tensor
    """Whether nothing followed, bool."""


class Ddpg(nn.Module):
    """An agent whose states are ``states`` numbers and whose action is one, from 0 to 1."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self._shapes: Mapping[str, Sequence[int]] = {
            "actor": (states, *HIDDEN, 1),
            "critic": (states + 1, *HIDDEN, 1),
        }
        for name, sizes in self._shapes.items():
            count = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
            # The parameters, the copy that follows them, and Adam's two averages.
            self.register_buffer(name, torch.zeros(4, count))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("baseline", torch.zeros(()))

    def begin(self, generator: torch.Generator) -> None:
        """Draw the parameters anew, and forget all else."""
        for name, sizes in self._shapes.items():
            # As torch begins its linear layers.
            drawn = [
                (2 * torch.rand((inputs + 1) * outputs, generator=generator) - 1) / inputs**0.5
                for inputs, outputs in pairwise(sizes)
            ]
            rows = self._rows(name)
            rows.zero_()
            rows[0] = rows[1] = torch.cat(drawn)
        cast(Tensor, self.updates).zero_()
        cast(Tensor, self.baseline).zero_()

    def _rows(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, name))

    def act(self, states: Tensor) -> Tensor:
        """Return the policy's actions in ``states``, n×d."""
        return self._actions(self._rows("actor")[0], states)

    def _actions(self, parameters: Tensor, states: Tensor) -> Tensor:
        return torch.sigmoid(_layers(parameters, self._shapes["actor"], states))

    def _worth(self, parameters: Tensor, states: Tensor, actions: Tensor) -> Tensor:
        return _layers(parameters, self._shapes["critic"], torch.cat([states, actions[:, None]], 1))

    @torch.no_grad()
    def learn(self, batch: Transitions) -> None:
        """Move both nets a step, on ``batch``."""
        updates, baseline = cast(Tensor, self.updates).add_(1), cast(Tensor, self.baseline)
        mean = batch.rewards.mean()
        # A baseline, since rewards that are all of one sign would raise what every action is worth.
        baseline.copy_(mean if int(updates) == 1 else baseline + BASELINE * (mean - baseline))
        actor, critic = self._rows("actor"), self._rows("critic")
        then = self._worth(critic[1], batch.following, self._actions(actor[1], batch.following))
        target = batch.rewards - baseline + then.masked_fill(batch.ends, 0)

        def error(parameters: Tensor) -> Tensor:
            return F.mse_loss(self._worth(parameters, batch.states, batch.actions), target)

        def loss(parameters: Tensor) -> Tensor:
            return -self._worth(critic[0], batch.states, self._actions(parameters, batch.states)).mean()

        _adam(critic, _gradient(error, critic[0]), CRITIC_LR, int(updates))
        _adam(actor, _gradient(loss, actor[0]), ACTOR_LR, int(updates))
        for rows in (actor, critic):
            rows[1].lerp_(rows[0], TAU)


def _layers(parameters: Tensor, sizes: Sequence[int], values: Tensor) -> Tensor:
    """Run linear layers with ReLU between them, whose weights and biases lie end to end; return n numbers."""
    at = 0
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight, bias = torch.split(parameters[at : at + (inputs + 1) * outputs], [inputs * outputs, outputs])
        at += (inputs + 1) * outputs
        values = F.linear(values.relu() if number else values, weight.view(outputs, inputs), bias)
    return values.squeeze(1)


def _gradient(of: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(of(leaf), leaf)
    return found


def _adam(rows: Tensor, gradient: Tensor, lr: float, updates: int) -> None:
    parameters, _, mean, square = rows
    first, second = MOMENTA
    mean.lerp_(gradient, 1 - first)
    square.lerp_(gradient.square(), 1 - second)
    parameters.sub_(lr * (mean / (1 - first**updates)) / ((square / (1 - second**updates)).sqrt() + 1e-8))
