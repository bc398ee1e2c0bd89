from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import macs, params
from robustdeploy.errors import BudgetError
from robustdeploy.prune.costs import cost_model
from robustdeploy.prune.rehearsal import find_groups

SHAPE = (3, 12, 12)


@pytest.fixture
def made(users):
    def make(name="flat", **limits):
        torch.manual_seed(0)
        net = users[name](10, 3)
        groups = find_groups(net, SHAPE).groups
        return net, cost_model(net, groups, SHAPE, Budget(**limits)), np.array([group.size for group in groups], float)

    return make


@pytest.mark.parametrize("name", ["flat", "dense", "doubled", "grouped"])
def test_the_dense_costs_are_those_of_the_net(made, name):
    net, model, dense = made(name, ops=0.5, params=0.5, memory=0.5)
    expected = {"ops": macs(net, SHAPE), "params": params(net), "memory": peak_bytes(net, SHAPE)}
    assert model.of(dense) == pytest.approx(expected, rel=1e-12)
    assert dict(model.dense) == pytest.approx(expected, rel=1e-12)
    assert model.limits == pytest.approx({name: cost / 2 for name, cost in expected.items()})


def test_memory_is_modelled_only_where_it_is_limited(made):
    assert set(made(ops=0.5)[1].costs) == {"ops", "params"}
    assert set(made(memory=0.5)[1].costs) == {"ops", "params", "memory"}


def test_utilisation_is_the_largest_of_cost_over_limit(made):
    _, model, dense = made(ops=0.5, params=4000, memory=0.8)
    rng = np.random.default_rng(0)
    many = np.array([[rng.integers(1, size + 1) for size in dense] for _ in range(50)], float)
    together = model.utilisation(many)
    fullest = set()
    for kept, utilisation in zip(many, together, strict=True):
        shares = {name: cost / model.limits[name] for name, cost in model.of(kept).items()}
        assert (
            utilisation
            == pytest.approx(max(shares.values()), rel=1e-12)
            == pytest.approx(float(model.utilisation(kept)))
        )
        fullest.add(max(shares, key=shares.__getitem__))
    assert len(fullest) >= 2
    _, free, dense = made()
    assert float(free.utilisation(dense)) == 0


def test_utilisation_never_falls_when_a_group_keeps_more(made):
    _, model, dense = made("doubled", ops=0.5, params=0.4, memory=0.6)
    rng = np.random.default_rng(1)
    for _ in range(100):
        fewer = np.array([rng.integers(1, size + 1) for size in dense], float)
        more = np.minimum(dense, fewer + rng.integers(0, 3, len(dense)))
        assert model.utilisation(more) >= model.utilisation(fewer)


def test_a_limit_that_the_dense_net_keeps_does_not_bind(made):
    assert made(ops=0.5, params=0.4, memory=10**9)[1].binding == ["ops", "params"]
    assert made(ops=10**9)[1].binding == []


def test_groups_are_blamed_for_the_limits_that_are_broken(made):
    _, model, dense = made("flat", ops=1.0, memory=0.5)
    by_memory = model.costs["memory"].blamed(dense, model.limits["memory"], 1.0)
    assert model.blamed(dense, 1.0).tolist() == by_memory.tolist()
    assert 0 < by_memory.sum() < len(dense)
    _, both, dense = made("flat", ops=0.5, memory=0.5)
    assert both.blamed(dense, 1.0).all()
    assert not both.blamed(dense, 2.0).any()


class Tied(nn.Module):
    """Two layers that may come to share one weight, of which compaction makes two."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.third = nn.Conv2d(6, 6, 3)
        self.out = nn.Linear(6, 10)

    def forward(self, images):
        return self.out(self.third(torch.relu(self.second(torch.relu(self.first(images))))).mean((2, 3)))


def test_a_cost_that_does_not_follow_from_the_channels_is_refused():
    net = Tied()
    groups = find_groups(net, SHAPE).groups
    net.third.weight = net.second.weight  # before, the groups would have been left whole
    cost_model(net, groups, SHAPE, Budget(ops=0.5))
    with pytest.raises(
        BudgetError, match=r"parameters of this Tied do not follow .* budget.params cannot be kept; limit"
    ):
        cost_model(net, groups, SHAPE, Budget(params=0.5))


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, 10)

    def forward(self, images):
        maps = torch.relu(self.first(images))
        return self.out(maps.mean((2, 3)) if images.sum() < 1e9 else maps.amax((2, 3)))


def test_a_memory_budget_needs_a_net_that_can_be_traced():
    net = Decides()
    groups = find_groups(net, SHAPE).groups
    assert set(cost_model(net, groups, SHAPE, Budget(ops=0.5, params=0.5)).costs) == {"ops", "params"}
    with pytest.raises(BudgetError, match="cannot be traced"):
        cost_model(net, groups, SHAPE, Budget(memory=0.5))
