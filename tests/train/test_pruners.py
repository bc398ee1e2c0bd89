"""Every pruner of single weights, in whole trainings: budget met, compact net as the masked one, resumed exactly."""

from __future__ import annotations

import pytest
import torch
from trainings import Stop, same, silent, state_of

from robustdeploy.core.recipe import Budget
from robustdeploy.core.registry import PRUNERS
from robustdeploy.cost.module import macs, params
from robustdeploy.cost.sparse import nonzero_macs, nonzero_params
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import PlannedPhase
from robustdeploy.train.tasks.standard import Standard

SHAPE = (1, 8, 8)
SYSTEMS = {
    "one-shot": {},
    "one-shot-uniform": {"spread": "uniform", "at": 0.0},
    "progressive": {"rounds": 4},
    "progressive-global": {"rounds": 3, "spread": "global", "keep_ends": True},
    "hard-threshold": {},
    "regrow": {"updates": 4},
    "regrow-uniform": {"updates": 30, "uniform": True},
    "twin": {},
    "twin-kaiming": {"factors": "kaiming"},
    "admm": {"updates": 3},
    "admm-columns": {"of": "columns", "updates": 3},
}
BUDGETS = [Budget(params=0.35), Budget(ops=0.2), Budget(params=0.5, ops=0.3)]


def built(name):
    plugin = next(known for known in sorted(PRUNERS.names(), key=len, reverse=True) if name.startswith(known))
    return PRUNERS.build(plugin, SYSTEMS[name])


def phase(epochs):
    return PlannedPhase("train", "both", epochs, Standard(), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.alike(6)
def test_a_training_meets_the_budget_and_goes_on_exactly_where_it_was_killed(name, make_net, make_plan, tmp_path):
    budget = BUDGETS[len(name) % 3]
    stops, plan = (2, 5), make_plan(steps=2, phases=(phase(4),), options={"checkpoint_every_s": 0})

    def train(folder, progress=silent):
        net = make_net()
        pruning = built(name).wrap(net, SHAPE, budget)
        return fit(net, pruning, plan, folder, progress), pruning

    whole, pruning = train(tmp_path / "whole")
    dense = make_net()
    found = {"ops": nonzero_macs(whole.net, SHAPE), "params": nonzero_params(whole.net)}
    limits = {n: a * {"ops": macs(dense, SHAPE), "params": params(dense)}[n] for n, a in budget.amounts.items()}
    assert pruning.costs() == found
    assert all(found[n] <= limit for n, limit in limits.items())
    assert max(found[n] / limit for n, limit in limits.items()) > 0.9
    assert max(whole.proof.clean, whole.proof.adversarial) < 1e-5
    assert all(index.numel() for index in pruning.kept().values())
    for last in stops:

        def progress(step, steps, numbers, last=last):
            if step == last:
                raise Stop

        with pytest.raises(Stop):
            train(tmp_path / "cut", progress)
        torch.manual_seed(last)
    again, _ = train(tmp_path / "cut")
    assert same(state_of(again.net), state_of(whole.net))
