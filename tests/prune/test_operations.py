from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustdeploy.cost import flop_counter
from robustdeploy.cost.module import macs, params
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.operations import parameter_model
from robustdeploy.prune.probing import operation_model


@pytest.fixture(scope="session")
def modelled(subject, coupling):
    net = subject.net()
    operations = operation_model(net, coupling.groups, subject.shape)
    return net, {"operations": operations, "parameters": parameter_model(net, coupling.groups)}


@pytest.mark.alike(9)
def test_the_dense_net_costs_what_it_costs(subject, coupling, modelled):
    net, models = modelled
    everything = np.array([group.size for group in coupling.groups], float)
    assert models["operations"].of(everything) == pytest.approx(macs(net, subject.shape), rel=1e-12)
    assert models["parameters"].of(everything) == pytest.approx(params(net), rel=1e-12)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.alike(9)
def test_the_models_count_as_the_compact_net_does(subject, coupling, modelled, data):
    net, models = modelled
    kept = {
        g.name: torch.tensor(sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=1, max_size=g.size))))
        for g in coupling.groups
    }
    counts = np.array([len(kept[group.name]) for group in coupling.groups], float)
    small = compact_net(net, coupling.groups, kept)
    counted_here = macs(small, subject.shape)
    assert models["operations"].of(counts) == pytest.approx(counted_here, rel=1e-12)
    assert flop_counter.macs(small, subject.shape) == counted_here
    assert models["parameters"].of(counts) == pytest.approx(params(small), rel=1e-12)


def test_many_choices_at_once_cost_what_they_cost_alone(coupling, modelled):
    rng = np.random.default_rng(0)
    many = np.array([[rng.integers(1, g.size + 1) for g in coupling.groups] for _ in range(6)], float)
    for model in modelled[1].values():
        np.testing.assert_array_equal(model.of(many), [float(model.of(counts)) for counts in many])


def test_every_group_has_a_part_in_what_is_too_much_and_none_in_what_is_not(coupling, modelled):
    everything = np.array([group.size for group in coupling.groups], float)
    for model in modelled[1].values():
        cost = float(model.of(everything))
        assert model.blamed(everything, cost, 0.99).all()
        assert not model.blamed(everything, cost, 1.0).any()
