from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from robustdeploy.errors import BudgetError
from robustdeploy.prune.budget import TOLERANCE, counts_below, exact_counts, limits_for
from robustdeploy.prune.operations import OperationModel


def chain(sizes, scales):
    """A plain net: each layer reads the group before it, the first reads 3 channels and the last gives 10."""
    layers, groups = len(sizes) + 1, len(sizes)
    out0, in0 = np.zeros(layers), np.zeros(layers)
    out, in_ = np.zeros((layers, groups)), np.zeros((layers, groups))
    in0[0], out0[-1] = 3, 10
    for group in range(groups):
        out[group, group] = in_[group + 1, group] = 1
    return OperationModel(tuple(map(str, range(layers))), np.array(scales, float), out0, out, in0, in_)


@st.composite
def models(draw, most_groups=8):
    sizes = draw(st.lists(st.integers(2, 48), min_size=1, max_size=most_groups))
    scales = draw(st.lists(st.sampled_from([1, 4, 9, 36, 144, 576]), min_size=len(sizes) + 1, max_size=len(sizes) + 1))
    return chain(sizes, scales), sizes


def worth(sizes, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).round(2) for size in sizes]  # rounded, so that some are equal


def allowed(counts, limits):
    for count, least, most, quantum in zip(counts, limits.fewest, limits.most, limits.quantum, strict=True):
        if not (least <= count <= most and (count % quantum == 0 or count == most)):
            return False
    return True


@settings(max_examples=150, deadline=None)
@given(
    models(),
    st.floats(0.02, 1.0),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([0.0, 0.1, 0.25]),
    st.integers(0, 9),
)
def test_counts_land_in_the_band_or_the_error_names_what_can_be_reached(made, ops, multiple, floor, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, floor)
    dense = float(model.macs(limits.most.astype(float)))
    try:
        counts = exact_counts(model, worth(sizes, seed), limits, ops * dense)
    except BudgetError as error:
        fraction = float(re.search(r"(?:target allow is|found below it is) ([0-9.e+-]+)", str(error))[1])
        smallest = float(model.macs(limits.fewest.astype(float))) / dense
        assert fraction == pytest.approx(smallest, rel=1e-3) if smallest > ops else fraction <= ops
        reached = exact_counts(
            model, worth(sizes, seed), limits, fraction * 1.001 * dense
        )  # what it told us to ask for
        assert allowed(reached, limits)
        return
    assert TOLERANCE * ops * dense < float(model.macs(counts.astype(float))) <= ops * dense
    assert allowed(counts, limits)


@settings(max_examples=60, deadline=None)
@given(models(most_groups=12), st.floats(0.05, 0.95), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_an_error_is_never_raised_where_chance_finds_an_answer(made, ops, multiple, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, 0.0)
    target = ops * float(model.macs(limits.most.astype(float)))
    rng = np.random.default_rng(seed)
    drawn = np.array([limits.snap(rng.integers(limits.fewest, limits.most + 1)) for _ in range(3000)])
    macs = model.macs(drawn.astype(float))
    assume(((macs > TOLERANCE * target) & (macs <= target)).any())
    counts = exact_counts(model, worth(sizes, seed), limits, target)
    assert TOLERANCE * target < float(model.macs(counts.astype(float))) <= target


@settings(max_examples=100, deadline=None)
@given(models(), st.floats(0.0, 1.2), st.sampled_from([1, 3, 8]), st.integers(0, 9))
def test_the_ranking_cut_fits_and_no_further_channel_would(made, ops, multiple, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, 0.1)
    values = worth(sizes, seed)
    budget = ops * float(model.macs(limits.most.astype(float)))
    counts = counts_below(model, values, limits, budget)
    assert allowed(counts, limits)
    used = float(model.macs(counts.astype(float)))
    assert used <= budget or (counts == limits.fewest).all()
    everything = np.unique(np.concatenate(values))
    cuts = [limits.snap(np.array([(v >= t).sum() for v in values])) for t in everything]
    best = max(
        (float(model.macs(c.astype(float))) for c in cuts if model.macs(c.astype(float)) <= budget), default=None
    )
    assert best is None or used == pytest.approx(best)


def test_better_channels_are_kept_first():
    model = chain([10, 10], [1, 0.0001, 1])
    values = [np.arange(10.0), np.arange(10.0) + 100]
    counts = exact_counts(model, values, limits_for([10, 10], 1, 0.0), 0.8 * float(model.macs(np.array([10.0, 10]))))
    assert counts[1] == 10
    assert counts[0] < 10


def test_the_whole_net_meets_a_budget_of_one():
    model = chain([7, 11, 5], [3, 7, 11, 13])
    limits = limits_for([7, 11, 5], 4, 0.25)
    full = np.array([7, 11, 5])
    assert (exact_counts(model, worth([7, 11, 5], 0), limits, float(model.macs(full.astype(float)))) == full).all()


def test_limits_keep_quanta_floors_and_at_least_one_quantum():
    limits = limits_for([3, 16, 20, 64], 8, 0.3)
    assert limits.quantum.tolist() == [3, 8, 8, 8]
    assert limits.fewest.tolist() == [3, 8, 8, 24]
    assert limits.most.tolist() == [3, 16, 20, 64]
    assert limits.snap(np.array([1, 15, 20, 63])).tolist() == [3, 8, 20, 56]
    assert limits_for([5], 1, 0.0).fewest.tolist() == [1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 9), st.data())
def test_moves_are_all_the_neighbours_and_nothing_else(sizes, multiple, data):
    limits = limits_for(sizes, multiple, 0.2)
    counts = limits.snap(np.array([data.draw(st.integers(0, size)) for size in sizes]))
    ladders = [
        [n for n in range(lo, hi + 1) if n % q == 0 or n == hi]
        for lo, hi, q in zip(*(a.tolist() for a in (limits.fewest, limits.most, limits.quantum)), strict=True)
    ]
    expected = set()
    for group, ladder in enumerate(ladders):
        place = ladder.index(counts[group])
        for near in (place - 1, place + 1):
            if 0 <= near < len(ladder):
                expected.add((*counts[:group].tolist(), ladder[near], *counts[group + 1 :].tolist()))
    assert {tuple(move.tolist()) for move in limits.moves(counts)} == expected


def test_small_moves_do_not_hide_the_two_groups_that_matter():
    """A beam of nearest states fills up with moves of the first three groups, which weigh next to nothing."""
    sizes = [2, 8, 34, 15, 40]
    model, limits = chain(sizes, [1, 1, 1, 1, 144, 144]), limits_for(sizes, 1, 0.0)
    target = 0.25 * float(model.macs(limits.most.astype(float)))
    counts = exact_counts(model, worth(sizes, 0), limits, target)
    assert TOLERANCE * target < float(model.macs(counts.astype(float))) <= target
