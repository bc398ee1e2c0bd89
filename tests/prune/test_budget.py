from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from robustdeploy.core.amount import absolute
from robustdeploy.core.recipe import Budget
from robustdeploy.cost.memory import peak_bytes, without_values
from robustdeploy.cost.module import macs, params
from robustdeploy.errors import BudgetError
from robustdeploy.prune.budget import TOLERANCE, counts_below, exact_counts, limits_for, limits_meeting
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.costs import NAMES, CostModel, cost_model
from robustdeploy.prune.operations import Multilinear
from robustdeploy.prune.peaks import Peaks
from robustdeploy.prune.rehearsal import find_groups


def chain(sizes, scales):
    """A plain net: each layer reads the group before it, the first reads 3 channels and the last gives 10."""
    layers, groups = len(sizes) + 1, len(sizes)
    out0, in0 = np.zeros(layers), np.zeros(layers)
    out, in_ = np.zeros((layers, groups)), np.zeros((layers, groups))
    in0[0], out0[-1] = 3, 10
    for group in range(groups):
        out[group, group] = in_[group + 1, group] = 1
    return Multilinear(np.array(scales, float), np.stack([out0, in0]), np.stack([out, in_]))


def maps(sizes, areas):
    """The same net's feature maps: while a layer runs, the group before it and its own exist."""
    slope = np.zeros((len(sizes), len(sizes)))
    for group, area in enumerate(areas):
        slope[group, group] = area
        if group + 1 < len(sizes):
            slope[group + 1, group] = area
    return Peaks(np.array([3.0 * areas[0], *[0.0] * (len(sizes) - 1)]), slope)


def budgeted(sizes, costs, **fractions):
    """A model of ``costs`` whose limits are these fractions of the dense net's."""
    dense = {name: float(cost.of(np.array(sizes, float))) for name, cost in costs.items()}
    return CostModel(costs, dense, {name: fraction * dense[name] for name, fraction in fractions.items()})


def operations(sizes, scales, fraction):
    return budgeted(sizes, {"ops": chain(sizes, scales)}, ops=fraction)


@st.composite
def models(draw, most_groups=8, lowest=0.02, among=("ops", "params", "memory")):
    """A chain under one, two or three limits."""
    sizes = draw(st.lists(st.integers(2, 48), min_size=1, max_size=most_groups))
    scales = draw(st.lists(st.sampled_from([1, 4, 9, 36, 144, 576]), min_size=len(sizes) + 1, max_size=len(sizes) + 1))
    areas = sorted(draw(st.lists(st.sampled_from([1, 4, 16, 64]), min_size=len(sizes), max_size=len(sizes))))[::-1]
    costs = {
        "ops": chain(sizes, scales),
        "params": chain(sizes, [9] * (len(sizes) + 1)),
        "memory": maps(sizes, areas),
    }
    limited = draw(st.lists(st.sampled_from(among), min_size=1, max_size=3, unique=True))
    return budgeted(sizes, costs, **{name: draw(st.floats(lowest, 1.0)) for name in limited}), sizes


def worth(sizes, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size).round(2) for size in sizes]  # rounded, so that some are equal


def used(model, counts):
    return float(model.utilisation(counts.astype(float)))


def allowed(counts, limits):
    for count, least, most, quantum in zip(counts, limits.fewest, limits.most, limits.quantum, strict=True):
        if not (least <= count <= most and (count % quantum == 0 or count == most)):
            return False
    return True


def as_told(model, error):
    """The model with the limits that the error says can be reached."""
    told = re.findall(r"(?:target allow is|found below it is) ([0-9.e+-]+) of the ([a-z ]+) \(", str(error))
    named = {words: name for name, words in NAMES.items()}
    changed = {named[words]: absolute(float(fraction), model.dense[named[words]]) for fraction, words in told}
    assert changed
    return CostModel(model.costs, model.dense, {**model.limits, **changed})


@settings(max_examples=200, deadline=None)
@given(models(), st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([0.0, 0.1, 0.25]), st.integers(0, 9))
def test_counts_land_in_the_band_or_the_error_names_what_can_be_reached(made, multiple, floor, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, floor)
    try:
        counts = exact_counts(model, worth(sizes, seed), limits)
    except BudgetError as error:
        easier = as_told(model, error)
        smallest = used(model, limits.fewest)
        for name, limit in easier.limits.items():
            assert limit >= model.limits[name] if smallest > 1 else limit <= model.limits[name]
        counts, model = exact_counts(easier, worth(sizes, seed), limits), easier  # what it told us to ask for
    assert allowed(counts, limits)
    assert TOLERANCE < used(model, counts) <= 1 or (counts == limits.most).all()


@settings(max_examples=60, deadline=None)
@given(models(most_groups=12, lowest=0.05), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_an_error_is_never_raised_where_chance_finds_an_answer(made, multiple, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, 0.0)
    rng = np.random.default_rng(seed)
    drawn = np.array([limits.snap(rng.integers(limits.fewest, limits.most + 1)) for _ in range(3000)])
    found = model.utilisation(drawn.astype(float))
    assume(((found > TOLERANCE) & (found <= 1)).any())
    counts = exact_counts(model, worth(sizes, seed), limits)
    assert TOLERANCE < used(model, counts) <= 1


@settings(max_examples=100, deadline=None)
@given(models(among=("ops",)), st.floats(0.0, 1.2), st.sampled_from([1, 3, 8]), st.integers(0, 9))
def test_the_ranking_cut_fits_and_no_further_channel_would(made, bound, multiple, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, 0.1)
    values = worth(sizes, seed)
    bound *= used(model, limits.most)
    counts = counts_below(model, values, limits, bound)
    assert allowed(counts, limits)
    assert used(model, counts) <= bound or (counts == limits.fewest).all()
    order = np.argsort(-np.concatenate(values), kind="stable")
    groups = np.repeat(np.arange(len(sizes)), sizes)[order]
    cuts = [limits.snap(np.bincount(groups[:many], minlength=len(sizes))) for many in range(len(groups) + 1)]
    best = max((used(model, c) for c in cuts if used(model, c) <= bound), default=None)
    assert best is None or used(model, counts) == pytest.approx(best)


@settings(max_examples=100, deadline=None)
@given(models(), st.floats(0.0, 1.2), st.sampled_from([1, 3, 8]), st.integers(0, 9))
def test_a_cut_of_any_costs_fits_or_is_the_least(made, bound, multiple, seed):
    model, sizes = made
    limits = limits_for(sizes, multiple, 0.1)
    bound *= used(model, limits.most)
    counts = counts_below(model, worth(sizes, seed), limits, bound)
    assert allowed(counts, limits)
    assert used(model, counts) <= bound or used(model, counts) == used(model, limits.fewest)


def test_no_channel_is_given_up_for_nothing():
    """Two moments share no map: each is cut to the limit by itself, and what fits stays whole, whatever it is worth."""
    sizes, slope = [40, 40, 40], np.diag([4.0, 2.0, 1.0])
    model = budgeted(sizes, {"memory": Peaks(np.zeros(3), slope)}, memory=0.25)  # 40 of 160
    for seed in range(5):
        counts = exact_counts(model, worth(sizes, seed), limits_for(sizes, 1, 0.0))
        assert counts.tolist() == [10, 20, 40]


def test_better_channels_are_kept_first():
    model = operations([10, 10], [1, 0.0001, 1], 0.8)
    values = [np.arange(10.0), np.arange(10.0) + 100]
    counts = exact_counts(model, values, limits_for([10, 10], 1, 0.0))
    assert counts[1] == 10
    assert counts[0] < 10


@pytest.mark.parametrize("fraction", [1.0, 1.5, 1e6])
def test_a_limit_that_the_dense_net_keeps_takes_nothing(fraction):
    model = operations([7, 11, 5], [3, 7, 11, 13], fraction)
    limits = limits_for([7, 11, 5], 4, 0.25)
    assert exact_counts(model, worth([7, 11, 5], 0), limits).tolist() == [7, 11, 5]


def test_of_two_limits_the_tighter_one_decides():
    sizes, values = [16, 24, 32], worth([16, 24, 32], 0)
    costs = {"ops": chain(sizes, [1, 4, 9, 16]), "params": chain(sizes, [9, 9, 9, 1])}
    limits = limits_for(sizes, 1, 0.0)
    alone = exact_counts(budgeted(sizes, costs, params=0.3), values, limits)
    both = budgeted(sizes, costs, ops=0.95, params=0.3)
    assert (exact_counts(both, values, limits) == alone).all()
    tight = budgeted(sizes, costs, ops=0.1, params=0.3)
    counts = exact_counts(tight, values, limits)
    costs_now = tight.of(counts.astype(float))
    assert 0.97 * 0.1 < costs_now["ops"] / tight.dense["ops"] <= 0.1
    assert costs_now["params"] / tight.dense["params"] <= 0.3


def test_each_limit_out_of_reach_is_told_with_its_smallest_value():
    model = operations([8, 8], [1, 1, 1], 0.5)
    costs = {**model.costs, "params": chain([8, 8], [9, 9, 9]), "memory": maps([8, 8], [64, 16])}
    model = budgeted([8, 8], costs, ops=0.001, params=0.002, memory=0.9)
    with pytest.raises(BudgetError) as caught:
        exact_counts(model, worth([8, 8], 0), limits_for([8, 8], 4, 0.0))
    said = str(caught.value)
    assert re.search(
        r"budget of 0.001 of the operations \(1 MACs\) is out of reach: the smallest .* is 0.4048 of", said
    )
    assert re.search(r"budget of 0.002 of the parameters .* is out of reach: the smallest .* is 0.4048 of", said)
    assert "memory" not in said
    assert said.endswith("ask for that or more, or for a smaller channel multiple")


class Small(nn.Module):
    """A stem, a block beside which the stream stays, a pooled layer and a linear one; its widths are random."""

    def __init__(self, stem, inner, last):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(stem, inner, 3, padding=1), nn.ReLU())
        self.two = nn.Conv2d(inner, stem, 1)
        self.last = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(stem, last, 3), nn.ReLU())
        self.out = nn.Linear(last, 10)

    def forward(self, images):
        stream = self.stem(images)
        return self.out(self.last(torch.relu(stream + self.two(self.one(stream)))).mean((2, 3)))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_every_choice_of_a_small_net_counted_on_the_compact_net_itself(data):
    """What is possible is found, what is not is refused with the nearest value: by trying all."""
    shape, widths = (3, 8, 8), [data.draw(st.integers(2, 5)) for _ in range(3)]
    net = Small(*widths)
    names = data.draw(st.lists(st.sampled_from(["ops", "params", "memory"]), min_size=1, max_size=2, unique=True))
    budget = Budget(**{name: data.draw(st.floats(0.05, 1.0)) for name in names})
    groups = find_groups(net, shape).groups
    model, blank = cost_model(net, groups, shape, budget), without_values(net)
    sizes = [group.size for group in groups]
    count = {"ops": macs, "params": lambda small, _: params(small), "memory": peak_bytes}
    limit = {name: absolute(amount, count[name](blank, shape)) for name, amount in budget.amounts.items()}

    def measured(counts):
        kept = {group.name: torch.arange(int(n)) for group, n in zip(groups, counts, strict=True)}
        small = compact_net(blank, groups, kept)
        return max(count[name](small, shape) / limit[name] for name in names)

    table = {counts: measured(counts) for counts in product(*(range(1, size + 1) for size in sizes))}
    below = [found for found in table.values() if found <= 1]
    try:
        counts = exact_counts(model, worth(sizes, 0), limits_for(sizes, 1, 0.0))
    except BudgetError as error:
        assert not any(found > TOLERANCE for found in below)
        easier = as_told(model, error)
        if below:
            assert min(easier.limits[name] / limit[name] for name in names) == pytest.approx(max(below), rel=2e-3)
        return
    assert TOLERANCE < table[tuple(counts.tolist())] <= 1


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
    wanted = [data.draw(st.integers(0, size)) for size in sizes]
    least = [min(n for n in ladder if n >= count) for ladder, count in zip(ladders, wanted, strict=True)]
    assert limits.raised(np.array(wanted)).tolist() == least


def test_small_moves_do_not_hide_the_two_groups_that_matter():
    """A beam of nearest states fills up with moves of the first three groups, which weigh next to nothing."""
    sizes = [2, 8, 34, 15, 40]
    model = operations(sizes, [1, 1, 1, 1, 144, 144], 0.25)
    counts = exact_counts(model, worth(sizes, 0), limits_for(sizes, 1, 0.0))
    assert TOLERANCE < used(model, counts) <= 1


@pytest.mark.parametrize(
    ("costs", "fraction", "other"),
    [
        ([1.6, 2.89, 1.75], 0.555, [16, 24, 8]),
        ([2.39, 1.74, 1.82], 0.771, [32, 32, 8]),
        ([1.83, 2.6, 1.72], 0.586, [32, 16, 8]),
    ],
)
def test_a_group_whose_channels_are_worth_the_same_does_not_count_for_nothing(costs, fraction, other):
    """Where the cut of the ranking misses the band, what is found is worth as much as another choice as near to it."""
    sizes = [32, 32, 32]
    model = budgeted(sizes, {"ops": Multilinear(np.array(costs), np.zeros((1, 3)), np.eye(3)[None])}, ops=fraction)
    worths = [np.full(32, 5.0), np.linspace(1, 0.5, 32), np.linspace(1, 0.5, 32)]
    values = [channels / cost for channels, cost in zip(worths, costs, strict=True)]
    limits = limits_for(sizes, 8, 0.1)
    start, counts = counts_below(model, values, limits, 1.0), exact_counts(model, values, limits)
    assert used(model, start) < TOLERANCE < used(model, counts) <= 1
    found, known = (sum(w[:c].sum() for w, c in zip(worths, chosen, strict=True)) for chosen in (counts, other))
    assert found >= known


def test_a_preferred_multiple_leaves_every_group_a_choice():
    """A group of 8 that is kept in eights is kept whole, whatever the budget."""
    sizes = [6, 8, 12, 16, 24, 64]
    model = operations(sizes, [1] * 7, 0.5)
    limits = limits_meeting(Budget(preferred_multiple=8), model, sizes, 0.1)
    assert limits.quantum.tolist() == [2, 4, 4, 8, 8, 8]
    assert limits_meeting(Budget(preferred_multiple=16), model, sizes, 0.1).quantum.tolist() == [2, 4, 4, 8, 8, 16]
    assert limits_meeting(Budget(channel_multiple=8), model, sizes, 0.1).quantum.tolist() == [6, 8, 8, 8, 8, 8]


def test_a_preferred_multiple_keeps_no_budget_from_being_met():
    sizes = [16, 16]
    model = operations(sizes, [100, 30, 1], 0.1)
    with pytest.raises(BudgetError, match="or for a smaller channel multiple"):
        limits_meeting(Budget(channel_multiple=8), model, sizes, 0.1)
    limits = limits_meeting(Budget(preferred_multiple=8), model, sizes, 0.1)
    assert limits.quantum.tolist() != [8, 8]
    counts = exact_counts(model, worth(sizes, 0), limits)
    assert TOLERANCE < float(model.utilisation(counts.astype(float))) <= 1


@pytest.mark.parametrize(("least", "best"), [(2, 8), (8, 24), (3, 8), (4, 4), (1, 24)])
def test_a_preferred_multiple_stays_within_the_one_that_is_demanded(least, best):
    sizes = [48, 48, 48]
    model = operations(sizes, [1] * 4, 0.07)
    limits = limits_meeting(Budget(channel_multiple=least, preferred_multiple=best), model, sizes, 0.1)
    assert (limits.quantum % least == 0).all()
    assert limits_meeting(Budget(channel_multiple=least), model, sizes, 0.1).quantum.tolist() == [least] * 3
