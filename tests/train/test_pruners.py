"""Every pruner of single weights, in whole trainings: budget met, compact net as the masked one, resumed exactly."""

from __future__ import annotations

import pytest
import torch
from trainings import Stop, same, silent, state_of

from robustdeploy.core.recipe import Budget
from robustdeploy.core.registry import PRUNERS
from robustdeploy.cost.codes import coded
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
    "hard-threshold-bits": {"bits": 3},
    "regrow": {"updates": 4},
    "regrow-uniform": {"updates": 30, "uniform": True},
    "twin": {},
    "twin-kaiming": {"factors": "kaiming"},
    "admm": {"updates": 3},
    "admm-columns": {"of": "columns", "updates": 3},
    "beta-bernoulli": {},
    "scores": {"rates": "learned"},
    "one-shot-channels": {"of": "channels"},
    "one-shot-channels-uniform": {"of": "channels", "spread": "uniform", "at": 0.0},
    "admm-filters": {"of": "filters", "updates": 3},
    "admm-bn-filters": {"of": "bn-filters", "updates": 3, "as_released": True},
    "scores-channels": {"of": "channels"},
    "scores-channels-learned": {"of": "channels", "rates": "learned"},
    "amc": {"episodes": 5, "warmup": 3},
}
BUDGETS = [Budget(params=0.35), Budget(ops=0.2), Budget(params=0.5, ops=0.3)]


def built(name):
    plugin = next(known for known in sorted(PRUNERS.names(), key=len, reverse=True) if name.startswith(known))
    return PRUNERS.build(plugin, SYSTEMS[name])


ONE = (PlannedPhase("train", "both", 4, Standard(), 0.1),)
THREE = (
    PlannedPhase("pretrain", "weights", 1, Standard(), 0.1),
    PlannedPhase("scores", "scores", 2, Standard(), 0.1, first_epoch=1),
    PlannedPhase("fine-tune", "weights", 1, Standard(), 0.1, first_epoch=3),
)


def named(pruning):
    return [weight.name for weight in pruning.weights]


def seen_in(net):
    return torch.cat([value.detach().flatten() for value in net.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.alike(6)
def test_a_training_meets_the_budget_and_goes_on_exactly_where_it_was_killed(name, make_net, make_plan, tmp_path):
    budget = BUDGETS[len(name) % 3]
    phases = THREE if name.startswith("scores") else ONE
    stops, plan = (2, 5), make_plan(steps=2, phases=phases, options={"checkpoint_every_s": 0})

    pruned = []

    def train(folder, progress=silent):
        net = make_net()
        pruning = built(name).wrap(net, SHAPE, budget)
        pruned.append(pruning)
        return fit(net, pruning, plan, folder, progress), pruning

    seen = []
    whole, pruning = train(tmp_path / "whole", lambda *_: seen.append(seen_in(pruned[-1].net)))
    if name.startswith("scores"):  # weight decay too must not reach weights that rest
        assert all(torch.equal(seen[1], rested) for rested in seen[2:6])
        assert not torch.equal(seen[0], seen[1])
    dense = make_net()
    found = {"ops": nonzero_macs(whole.net, SHAPE), "params": nonzero_params(whole.net)}
    if pruning.removes_channels:
        assert (macs(whole.net, SHAPE), params(whole.net)) == (round(pruning.costs()["ops"]), pruning.costs()["params"])
        found = {"ops": macs(whole.net, SHAPE), "params": params(whole.net)}
    limits = {n: a * {"ops": macs(dense, SHAPE), "params": params(dense)}[n] for n, a in budget.amounts.items()}
    assert pruning.costs() == found
    assert all(found[n] <= limit for n, limit in limits.items())
    assert max(found[n] / limit for n, limit in limits.items()) > 0.9
    assert max(whole.proof.clean, whole.proof.adversarial) < 1e-5
    assert all(index.numel() for index in pruning.kept().values())
    if getattr(pruning, "bits", None):
        # A layer with fewer weights left than centres keeps them as they are.
        few = [len(torch.unique(value[value != 0])) for value in map(whole.net.get_parameter, named(pruning))]
        assert max(few) < 8
        assert coded(whole.net, 3).layers == len(few)
    for last in stops:

        def progress(step, steps, numbers, last=last):
            if step == last:
                raise Stop

        with pytest.raises(Stop):
            train(tmp_path / "cut", progress)
        torch.manual_seed(last)
    again, _ = train(tmp_path / "cut")
    assert same(state_of(again.net), state_of(whole.net))
