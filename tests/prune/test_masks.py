from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from trainings import step_of

from robustdeploy.core.recipe import Budget, Choice
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import macs, params
from robustdeploy.errors import BudgetError
from robustdeploy.nets.build import build_net
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.probing import operation_model

SHAPE = (3, 16, 16)


def fresh(name="resnet8", **options):
    torch.manual_seed(0)
    return build_net(Choice(name=name, options=options), 10, SHAPE, [0.4] * 3, [0.3] * 3)


def moved(pruning, seed, size=0.8):
    """Give the masks the values and the gradient that some step of a training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for group in pruning.own_parameters():
            for parameter in group["params"]:
                parameter.normal_(0, size, generator=generator)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
    pruning.before_step(step_of(8))


def kept_counts(pruning):
    return np.array([len(index) for index in pruning.kept().values()], float)


def measured(pruning):
    compact = pruning.compact()
    return {"ops": macs(compact, SHAPE), "params": params(compact), "memory": peak_bytes(compact, SHAPE)}


def dense_costs(net):
    return {"ops": macs(net, SHAPE), "params": params(net), "memory": peak_bytes(net, SHAPE)}


@pytest.mark.parametrize("ops", [0.6, 0.4])
def test_with_operations_alone_they_fall_along_the_cubic(ops):
    """In MACs: from the dense net's to the budget with (1 − t)³, as close below as one channel more or less is."""
    options, net = Masks(), fresh()
    dense = macs(net, SHAPE)
    pruning = options.wrap(net, SHAPE, Budget(ops=ops))
    sizes = np.array([group.size for group in pruning.groups], float)
    model = operation_model(net, pruning.groups, SHAPE)
    channel = max(dense - float(model.of(fewer)) for fewer in sizes - np.eye(len(sizes)))
    for step, progress in enumerate(np.linspace(0.11, 0.34, 8)):
        moved(pruning, step)
        pruning.after_step(progress)
        part = (progress - options.warmup) / (options.freeze - options.warmup)
        bound = ops * dense + (dense - ops * dense) * (1 - part) ** 3
        assert bound - channel < pruning.costs()["ops"] <= bound
        assert pruning.costs()["ops"] == pytest.approx(float(model.of(kept_counts(pruning))), rel=1e-12)


@pytest.mark.parametrize("multiple", [8, 16, 32])
@pytest.mark.parametrize("budget", [{"ops": 0.5}, {"params": 0.5}, {"ops": 0.6, "params": 0.6, "memory": 0.9}])
def test_multiples_are_kept_at_every_step_and_not_rounded_in_the_end(multiple, budget):
    net = fresh(width=64)
    pruning = Masks().wrap(net, SHAPE, Budget(**budget, channel_multiple=multiple))
    sizes = np.array([group.size for group in pruning.groups])
    seen = set()
    for step, progress in enumerate(np.linspace(0, 0.36, 25)):
        moved(pruning, step)
        pruning.after_step(progress)
        counts = kept_counts(pruning)
        assert ((counts % multiple == 0) | (counts == sizes)).all()
        assert (counts >= np.minimum(multiple, sizes)).all()
        seen.add(tuple(counts))
    assert pruning.is_frozen
    assert len(seen) > 2  # it did come down by steps
    found, dense = measured(pruning), dense_costs(net)
    assert 0.97 < max(found[name] / dense[name] / limit for name, limit in budget.items()) <= 1


@pytest.mark.parametrize(
    "budget",
    [
        {"params": 0.3},
        {"memory": 0.5},
        {"ops": 0.5, "params": 0.3},
        {"ops": 0.6, "memory": 0.6},
        {"params": 12_000},
        {"ops": 500_000, "memory": 20_480},
        {"ops": 0.9, "params": 0.9, "memory": 0.3},
    ],
)
def test_every_limit_is_met_and_one_is_used_up(budget):
    net = fresh(width=8)
    dense = dense_costs(net)
    limits = {name: amount * dense[name] if amount <= 1 else amount for name, amount in budget.items()}
    pruning = Masks().wrap(net, SHAPE, Budget(**budget))
    for step, progress in enumerate((0.0, 0.15, 0.25, 0.4)):
        moved(pruning, step)
        pruning.after_step(progress)
    found = measured(pruning)
    assert {name: round(cost) for name, cost in pruning.costs().items()} == {
        name: found[name] for name in pruning.costs()
    }
    assert 0.97 < max(found[name] / limit for name, limit in limits.items()) <= 1
    for name in budget:
        assert pruning.status()[name] == pytest.approx(found[name] / dense[name], rel=1e-12)
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    prove_equal(pruning.eval(), pruning.compact(), images, images)


def test_a_memory_budget_takes_channels_only_where_the_maps_are_large():
    net = fresh(width=8)
    pruning = Masks().wrap(net, SHAPE, Budget(memory=0.75))
    for step, progress in enumerate((0.0, 0.15, 0.25, 0.4)):
        moved(pruning, step)
        pruning.after_step(progress)
    kept = {name: len(index) for name, index in pruning.kept().items()}
    whole = {group.name: group.size for group in pruning.groups}
    lost = {name for name in kept if kept[name] < whole[name]}
    assert lost
    assert all("stages.1" not in name and "stages.2" not in name for name in lost)


def test_limits_that_the_dense_net_keeps_prune_nothing():
    net = fresh(width=8)
    pruning = Masks().wrap(net, SHAPE, Budget(ops=10**12, params=10**9, memory=1.0))
    for step, progress in enumerate((0.05, 0.2, 0.3, 0.5)):
        moved(pruning, step)
        pruning.after_step(progress)
        assert pruning.status()["ops"] == 1
    assert measured(pruning) == dense_costs(net)


def test_what_cannot_be_reached_is_refused_with_every_smallest_value():
    with pytest.raises(BudgetError) as caught:
        Masks().wrap(fresh(width=8), SHAPE, Budget(ops=0.5, params=100, memory=2048))
    said = str(caught.value)
    assert "of the parameters (100 parameters) is out of reach: the smallest this net and target allow is" in said
    assert "of the activation memory (2,048 bytes) is out of reach" in said
    assert "operations" not in said
    assert "ask for that or more" in said


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

    def forward(self, images):
        maps = torch.relu(self.first(images))
        return self.out(maps.mean((2, 3)) if images.sum() < 1e9 else maps.amax((2, 3)))


def test_a_net_that_cannot_be_traced_can_keep_other_budgets():
    pruning = Masks().wrap(Decides(), SHAPE, Budget(ops=0.5))
    pruning.after_step(1.0)
    assert "memory" not in pruning.costs()
    with pytest.raises(BudgetError, match=r"activation memory of this net .* cannot be traced"):
        Masks().wrap(Decides(), SHAPE, Budget(memory=0.5))
