"""The agent on problems whose answer is known, and whether its state is all there is of it."""

from __future__ import annotations

import torch

from robustdeploy.prune.ddpg import Ddpg, Transitions

BEST = 0.8


def worth(states, actions):
    """Highest where the action is 0.8 in one half of the states and 0.2 in the other."""
    return 1 - (actions - torch.where(states[:, 0] > 0, BEST, 1 - BEST)).square()


def batch_of(seed, many=64):
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(many, 3, generator=generator) * 2 - 1
    actions = torch.rand(many, generator=generator)
    return Transitions(states, actions, worth(states, actions), states, torch.ones(many, dtype=torch.bool))


def learnt(updates, seed=0):
    agent = Ddpg(3)
    agent.begin(torch.Generator().manual_seed(seed))
    for number in range(updates):
        agent.learn(batch_of(number))
    return agent


def test_it_learns_a_bandit_that_random_actions_do_not_solve():
    probe = batch_of(10**6, 512)
    fresh, agent = learnt(0), learnt(100)
    regret = {
        "random": float((1 - probe.rewards).mean()),
        "fresh": float((1 - worth(probe.states, fresh.act(probe.states))).mean()),
        "learnt": float((1 - worth(probe.states, agent.act(probe.states))).mean()),
    }
    assert regret["learnt"] < 0.4 * min(regret["random"], regret["fresh"])


def test_what_lies_behind_an_action_counts_too():
    """Two steps: the first has no reward of its own, and leads to the better state when it is high."""
    agent = Ddpg(2)
    agent.begin(torch.Generator().manual_seed(1))
    for number in range(80):
        draw = torch.rand(64, generator=torch.Generator().manual_seed(number))
        first, second = torch.tensor([1.0, 0.0]).repeat(64, 1), torch.stack([torch.zeros(64), draw], 1)
        none = torch.zeros(64)
        agent.learn(Transitions(first[:32], draw[:32], none[:32], second[:32], torch.zeros(32, dtype=torch.bool)))
        agent.learn(Transitions(second, draw.flip(0), second[:, 1], second, torch.ones(64, dtype=torch.bool)))
    assert float(agent.act(torch.tensor([[1.0, 0.0]]))) > 0.65


def test_its_buffers_are_all_that_it_is():
    whole, cut = learnt(6), learnt(3)
    again = Ddpg(3)
    again.load_state_dict(cut.state_dict())
    for number in range(3, 6):
        again.learn(batch_of(number))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert list(Ddpg(3).parameters()) == []  # or the training would take them for the net's
