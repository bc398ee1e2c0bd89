from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustdeploy.cost import flop_counter
from robustdeploy.cost.module import layer_macs, macs
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.operations import operation_model


@pytest.fixture(scope="session")
def counted(subject, coupling):
    net = subject.net()
    return net, operation_model(net, coupling.groups, layer_macs(net, subject.shape))


def test_the_dense_net_costs_what_it_costs(subject, coupling, counted):
    net, model = counted
    everything = np.array([group.size for group in coupling.groups], float)
    assert model.macs(everything) == pytest.approx(macs(net, subject.shape), rel=1e-12)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_model_counts_as_the_compact_net_does(subject, coupling, counted, data):
    net, model = counted
    kept = {
        g.name: torch.tensor(sorted(data.draw(st.sets(st.integers(0, g.size - 1), min_size=1, max_size=g.size))))
        for g in coupling.groups
    }
    counts = np.array([len(kept[group.name]) for group in coupling.groups], float)
    small = compact_net(net, coupling.groups, kept)
    counted_here = macs(small, subject.shape)
    assert model.macs(counts) == pytest.approx(counted_here, rel=1e-12)
    assert flop_counter.macs(small, subject.shape) == counted_here


def test_torch_and_numpy_agree_and_the_gradient_is_the_slope(coupling, counted):
    _, model = counted
    rng = np.random.default_rng(0)
    many = np.array([[rng.integers(1, g.size + 1) for g in coupling.groups] for _ in range(6)], float)
    together = model.macs(many)
    for counts, expected in zip(many, together, strict=True):
        kept = torch.tensor(counts, requires_grad=True)
        total = model.macs_of(kept)
        assert (
            float(total.detach())
            == pytest.approx(expected, rel=1e-12)
            == pytest.approx(float(model.macs(counts)), rel=1e-12)
        )
        total.backward()
        for group in range(len(counts)):
            step = np.zeros_like(counts)
            step[group] = 0.5  # exact for a polynomial of degree two
            slope = model.macs(counts + step) - model.macs(counts - step)
            assert float(kept.grad[group]) == pytest.approx(float(slope), rel=1e-9)
