import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.core.profile import Device, LayerKind, Profile, ProfiledLayer, ProfiledNet
from robustdeploy.core.recipe import Budget, Choice, LatencyLimit
from robustdeploy.errors import BudgetError
from robustdeploy.prune.budget import limits_for
from robustdeploy.prune.costs import CostModel, cost_model
from robustdeploy.prune.groups import traced_groups
from robustdeploy.prune.latency import LatencyGoal, latency_cost
from robustdeploy.prune.layers import net_layers
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.multiples import times_by_multiple
from robustdeploy.prune.protocol import TimedPruner
from robustdeploy.prune.staircase import evenly, first_steps, mixed, most_valuable, summed

SHAPE = (1, 8, 8)
STEP = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (1, 16, 16, 16)
        pairs = itertools.pairwise(widths)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU()) for i, o in pairs))
        self.out = nn.Linear(16, 3)

    def forward(self, images):
        return self.out(self.layers(images).mean((2, 3)))


def time_of(inputs, outputs):
    """A toolchain that works on four channels at once."""
    return -(-inputs // STEP) * -(-outputs // STEP) * 2.0


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def profile(net):
    layers = net_layers(net, traced_groups(net, SHAPE).groups, SHAPE)
    inputs, outputs = layers.channels(layers.sizes)
    most = {k: (int(inputs[i]), int(outputs[i])) for i, k in reversed([*enumerate(layers.kinds)])}
    for i, k in enumerate(layers.kinds):
        most[k] = max(most[k][0], int(inputs[i])), max(most[k][1], int(outputs[i]))
    kinds = tuple(
        LayerKind(
            name=name, inputs=tuple(range(1, i + 1)), outputs=tuple(range(1, o + 1)),
            us=tuple(tuple(time_of(a, b) for b in range(1, o + 1)) for a in range(1, i + 1)),
        )
        for name, (i, o) in most.items()
    )  # fmt: skip
    told = [
        ProfiledLayer(name=n, kind=k, inputs=int(i), outputs=int(o))
        for n, k, i, o in zip(layers.names, layers.kinds, inputs, outputs, strict=True)
    ]
    return Profile(
        target="here", precision="fp32", device=Device(backend="null", version="1", identity={}),
        net=ProfiledNet(net=Choice(name="x"), classes=3, image_shape=SHAPE), kinds=kinds, layers=tuple(told),
        overhead_us=3, dense_us=3 + sum(time_of(x.inputs, x.outputs) for x in told), measured=9, turns=1,
        error_median=0, error_worst=0, seconds=1,
    )  # fmt: skip


def budget(at_most, **other):
    return Budget(latency=LatencyLimit(at_most=at_most), **other)


def pruned(net, profile, at_most, measure=None, **other):
    asked = budget(at_most, **other)
    goal = LatencyGoal(profile, asked.latency.limit_us(profile.dense_us), measure)
    assert isinstance(Masks(), TimedPruner)
    masked = Masks().wrap_timed(copy.deepcopy(net), SHAPE, asked, goal)
    masked.finalize()
    return masked


def slower(profile, factor):
    """A device on which everything takes longer than the profile says, dense net apart."""
    asked = []

    def measure(compact):
        sizes = [(m.in_channels, m.out_channels) for m in compact.modules() if isinstance(m, nn.Conv2d)]
        sizes += [(m.in_features, m.out_features) for m in compact.modules() if isinstance(m, nn.Linear)]
        asked.append(factor * (3 + sum(time_of(i, o) for i, o in sizes)) / profile.dense_us)
        return asked[-1]

    return measure, asked


@pytest.mark.parametrize("at_most", [0.9, 0.5, 0.3])
def test_the_steps_of_the_table_are_what_channels_are_kept_in(net, profile, at_most):
    goal = LatencyGoal(profile, at_most * profile.dense_us)
    model = cost_model(net, traced_groups(net, SHAPE).groups, SHAPE, budget(at_most), goal)
    assert float(model.costs["latency"].of(np.array([16.0] * 3))) == profile.dense_us
    assert all(multiple % STEP == 0 for multiple in first_steps(model, [16] * 3, 1, 0.1).tolist())


def test_the_multiple_is_found_that_the_device_works_in(net, profile):
    """Nets of equal operations are quickest in multiples of the device's own, and larger ones take choices away."""
    times = times_by_multiple(net, traced_groups(net, SHAPE).groups, SHAPE, profile)
    told = {each.multiple: each.time for each in times}
    assert list(told) == [1, 2, 4, 8]
    assert told[1] > told[2] > told[4]
    assert profile.best_multiple is None  # as of older versions
    assert profile.model_copy(update={"multiples": times}).best_multiple == STEP


@pytest.mark.parametrize("at_most", [0.9, 0.5, 0.3, "40us"])
def test_the_limit_is_met_with_whole_steps(net, profile, at_most):
    masked = pruned(net, profile, at_most)
    limit = budget(at_most).latency.limit_us(profile.dense_us)
    kept = [len(each) for each in masked.kept().values()]
    assert 0.6 * limit < masked.costs()["latency"] <= limit
    assert all(count % STEP == 0 for count in kept)
    assert masked.latency_trials() == []
    assert masked.compact()(torch.zeros(1, *SHAPE)).shape == (1, 3)


def test_all_limits_are_met_together(net, profile):
    masked = pruned(net, profile, 0.8, ops=0.3, params=0.5)
    dense = masked.model.dense
    told = {name: masked.costs()[name] / dense[name] for name in ("ops", "params", "latency")}
    assert told["ops"] <= 0.3
    assert told["params"] <= 0.5
    assert told["latency"] <= 0.8


def test_where_the_device_is_slower_than_foretold_the_table_is_corrected(net, profile):
    measure, found = slower(profile, 1.3)
    masked = pruned(net, profile, 0.5, measure)
    assert len(found) == 2
    assert found[0] > 0.5 >= found[1]
    trials = masked.latency_trials()
    assert [measured for _, measured in trials] == found
    assert trials[0][0] <= 0.5  # what was foretold, before anybody knew better


def test_a_choice_that_is_far_quicker_than_it_need_be_is_made_anew(net, profile):
    measure, found = slower(profile, 0.7)
    pruned(net, profile, 0.5, measure)
    assert found[0] < 0.95 * 0.5
    assert 0.5 >= max(found) > found[0]


def test_a_device_that_never_meets_the_limit_is_asked_three_times_at_most(net, profile):
    measure, found = slower(profile, 4.0)
    masked = pruned(net, profile, 0.5, measure)
    assert 1 <= len(found) <= 3
    assert min(found) > 0.5
    assert len(masked.latency_trials()) == len(found)


def test_a_limit_out_of_reach_names_the_smallest(net, profile):
    with pytest.raises(BudgetError, match=r"of the latency \(\d+ us\)"):
        pruned(net, profile, 0.01)


def test_a_profile_of_another_net_is_refused(profile):
    other = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    with pytest.raises(BudgetError, match="other layers"):
        latency_cost(other, traced_groups(other, SHAPE).groups, SHAPE, profile)


def test_what_follows_the_device_is_in_the_state_and_is_not_copied(net, profile):
    measure, _ = slower(profile, 1.0)
    masked = pruned(net, profile, 0.5, measure)
    assert "trials" in masked.state_dict()
    assert copy.deepcopy(masked).timing is masked.timing


class Stairs:
    """A time that goes up and down again, as where a kernel for few channels is slower than that for all."""

    def __init__(self, rng):
        steps = rng.uniform(-0.5, 1.5, (3, 13)).cumsum(1)
        self.table = steps - steps.min() + 1

    def of(self, kept):
        counts = np.asarray(kept, dtype=int)
        return sum(self.table[group][counts[..., group]] for group in range(3)) + 0.0


class Operations:
    def of(self, kept):
        return np.asarray(kept, dtype=float).prod(-1)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_counts_on_a_staircase_are_those_of_trying_all(seed):
    rng = np.random.default_rng(seed)
    stairs, whole = Stairs(rng), np.array([12, 12, 12])
    costs = {"ops": Operations(), "latency": stairs}
    dense = {name: float(cost.of(whole)) for name, cost in costs.items()}
    model = CostModel(costs, dense, {"latency": 0.6 * dense["latency"], "ops": 0.7 * dense["ops"]})
    worth = mixed(summed([np.sort(rng.exponential(size=12))[::-1] for _ in range(3)]), evenly(model, whole))
    every = np.array([*itertools.product(range(1, 13), repeat=3)])
    possible = model.utilisation(every.astype(float)) <= 1
    best = worth(every)[possible].max()
    found = most_valuable(model, worth, limits_for([12] * 3, 1, 0.0), [whole])
    assert float(model.utilisation(found.astype(float))) <= 1
    assert float(worth(found[None])[0]) >= best - 0.01


def test_a_layer_that_is_slower_with_fewer_channels_stays_whole(net, profile):
    """ONNX Runtime takes longer for 12 of 16 channels than for all of them."""

    def slower_with_less(kind):
        us = np.array(kind.us)
        us[:, 4:-1] = us[:, -1:] * 3
        return kind.model_copy(update={"us": tuple(map(tuple, us.tolist()))})

    steep = profile.model_copy(update={"kinds": tuple(map(slower_with_less, profile.kinds))})
    counts = [len(each) for each in pruned(net, steep, 0.6).kept().values()]
    assert all(count == 16 or count <= 4 for count in counts)
    assert 16 in counts


@pytest.mark.parametrize(("at_most", "multiple"), [(0.9, 8), (0.5, 8), (0.3, 1), (0.2, 1), (0.14, 1)])
def test_what_other_targets_prefer_never_ends_a_training_at_the_freeze(net, profile, at_most, multiple):
    """A limit that is too tight for multiples of 8 is met without them, as the start has promised."""
    masked = pruned(net, profile, at_most, preferred_multiple=8)
    assert masked.costs()["latency"] <= budget(at_most).latency.limit_us(profile.dense_us)
    kept = [len(each) for each in masked.kept().values()]
    assert all(count % masked.multiple == 0 for count in kept)
    assert masked.multiple == multiple
