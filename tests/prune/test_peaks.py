from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from robustdeploy.cost.memory import peak_bytes, without_values
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.peaks import Peaks, peak_model
from robustdeploy.prune.rehearsal import find_groups


@pytest.fixture(scope="session")
def modelled(subject, coupling):
    net = subject.net()
    return without_values(net), peak_model(net, coupling.groups, subject.shape)


def test_the_dense_net_takes_what_it_takes(subject, coupling, modelled):
    net, model = modelled
    assert float(model.of(np.array([group.size for group in coupling.groups], float))) == peak_bytes(net, subject.shape)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_model_counts_as_a_trace_of_the_compact_net_does(subject, coupling, modelled, data):
    net, model = modelled
    counts = np.array([data.draw(st.integers(1, group.size)) for group in coupling.groups])
    kept = {group.name: torch.arange(count) for group, count in zip(coupling.groups, counts, strict=True)}
    small = compact_net(net, coupling.groups, kept)
    assert float(model.of(counts.astype(float))) == peak_bytes(small, subject.shape)


def test_many_choices_at_once_cost_what_they_cost_alone():
    rng = np.random.default_rng(0)
    model = Peaks(rng.integers(0, 9, 5).astype(float), rng.integers(0, 7, (5, 4)).astype(float))
    many = rng.integers(1, 9, (20, 4)).astype(float)
    moments = list(zip(model.constant, model.slope, strict=True))
    expected = [max(constant + slope @ kept for constant, slope in moments) for kept in many]
    np.testing.assert_array_equal(model.of(many), expected)
    np.testing.assert_array_equal(model.of(many), [float(model.of(kept)) for kept in many])


def test_only_the_groups_of_a_full_moment_are_blamed():
    """Early maps are large and late ones small; nothing is gained by fewer channels late in the net."""
    layers = [nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise((3, 8, 8, 8))]
    net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())), nn.Flatten(), nn.Linear(128, 10))
    groups = find_groups(net, (3, 32, 32)).groups
    model = peak_model(net, groups, (3, 32, 32))
    dense = np.array([8.0, 8.0, 8.0])
    first = (3 * 1024 + 8 * 256) * 4  # the image and the first map
    second = (8 * 256 + 8 * 64) * 4
    assert float(model.of(dense)) == first

    def blamed(limit):
        return {group.name for group, is_it in zip(groups, model.blamed(dense, limit, 1.0), strict=True) if is_it}

    assert blamed(first - 1) == {"0"}
    assert blamed(second - 1) == {"0", "2"}
    assert blamed(first) == set()


def test_moments_that_never_tell_are_left_out(subject, coupling, modelled):
    _, model = modelled
    rows = np.column_stack([model.constant, model.slope])
    for number, row in enumerate(rows):
        others = np.delete(rows, number, axis=0)
        assert not (others >= row).all(1).any()
