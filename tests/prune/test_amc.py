"""The search of counts: every episode meets the budget, a better net is worth more, and planted waste is found."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.core.recipe import Budget, Data
from robustdeploy.core.registry import PRUNERS
from robustdeploy.cost.module import evaluating
from robustdeploy.data.images import pixels
from robustdeploy.data.load import load_data
from robustdeploy.data.noise import Noise
from robustdeploy.errors import BudgetError, RecipeError
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.amc import Amc, Trial, Walk, divergences, psi, truncated
from robustdeploy.prune.masked_channels import prunable
from robustdeploy.prune.protocol import Preparing

SHAPE = (1, 8, 8)
BUDGETS = (
    Budget(ops=0.3),
    Budget(params=0.2),
    Budget(ops=0.6, params=0.3),
    Budget(ops=0.4, channel_multiple=4),
    Budget(ops=0.3, preferred_multiple=16),
)


class Digits:
    """Held-out digits to look at, and what was looked at."""

    def __init__(self, many=96, seed=0):
        self.images = load_data(Data()).validation.select(torch.arange(many))
        self.threat, self.seed = Threat(eps=8 / 255), seed
        self.settled = []

    def judged(self, net, judge):
        with evaluating(net), torch.no_grad():
            return judge(pixels(self.images.images), self.images.labels, Noise(0, torch.arange(len(self.images))))

    def settle(self, net, batches):
        self.settled.append(batches)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.alike(4)
def test_whatever_the_actions_an_episode_meets_the_budget(subject, budget):
    net = subject.net()
    try:
        channels = prunable(net, subject.shape, budget, floor=0.2)
    except BudgetError as error:  # of the smallest nets: no whole number of channels lands there
        pytest.skip(str(error))
    walk, generator = Walk(net, channels), np.random.default_rng(0)
    for draw in range(4):
        # At random, all that there is, as little as there is, and first all and then nothing.
        shares = [generator.random(len(walk.sizes)), *np.eye(1), *np.zeros((1, 1))][min(draw, 2)]
        shares = np.resize(shares, len(walk.sizes)) if draw < 3 else np.linspace(1, 0, len(walk.sizes))
        counts = walk.sizes.copy()
        for number, share in zip(walk.order.tolist(), shares.tolist(), strict=True):
            counts[number] = walk.clipped(counts, number, share)
            assert walk.states(counts).shape == (len(counts), walk.width)
        assert float(channels.model.utilisation(counts.astype(float))) <= 1
        filled = walk.filled(counts)
        assert 0.97 < float(channels.model.utilisation(filled.astype(float))) <= 1
        whole = filled == walk.sizes
        assert ((filled % channels.limits.quantum == 0) | whole).all()
        # What is cut in the end is what was found, and not the next count that the multiples allow.
        assert channels.allowed(filled.tolist()) == tuple(filled.tolist())
        assert np.isfinite(walk.states(filled)).all()


def test_what_the_agent_sees_is_what_has_gone_and_what_can_still_go(users):
    channels = prunable(users["flat"](10, 3), (3, 12, 12), Budget(ops=0.5), floor=0.2)
    walk = Walk(users["flat"](10, 3), channels)
    counts = channels.limits.fewest.copy()
    seen = walk.states(counts)
    assert seen[0, -3] == 0  # nothing has gone before the first group
    assert (np.diff(seen[:, -3]) > 0).all()
    assert (np.diff(seen[:, -2]) < 0).all()
    of = channels.model.costs["ops"].of
    least = float(of(channels.limits.fewest.astype(float))) / channels.model.dense["ops"]
    assert seen[0, -2] == pytest.approx(1 - least, abs=1e-6)
    first = walk.order[0]
    assert channels.groups[first].name == "conv"  # from the input on
    assert seen[1, -1] == pytest.approx(counts[first] / walk.sizes[first], abs=1e-6)
    assert seen[:, :-3].min() == 0
    assert seen[:, :-3].max() == 1


def test_the_divergence_is_that_of_the_probabilities_and_psi_has_its_floor():
    scores, moved = torch.tensor([[0.0, math.log(3)], [5.0, 1.0]]), torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert divergences(scores, moved).tolist() == pytest.approx([by_hand, 0.0])
    assert (psi(0.25), psi(1.0), psi(40.0)) == (4.0, 1.001, 1.001)
    assert math.isfinite(psi(0.0))


def test_noise_is_a_normal_distribution_between_0_and_1():
    from scipy.stats import truncnorm

    for mean, sigma in ((0.2, 0.5), (0.97, 0.1), (0.5, 0.01)):
        theirs = truncnorm(-mean / sigma, (1 - mean) / sigma, mean, sigma)
        for draw in (0.01, 0.1, 0.5, 0.999):
            assert truncated(mean, sigma, draw) == pytest.approx(float(theirs.ppf(draw)), abs=1e-5)
    assert truncated(0.4, 1e-9, 0.9) == 0.4


def plain(first, second, hidden):
    body = [nn.Conv2d(1, first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(second * 4, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def trained():
    """A net on digits that has learnt with 5, 20 and 24 channels, and got 19, 4 and 8 more that do next to nothing."""
    torch.manual_seed(0)
    narrow, wide, images = plain(5, 20, 24), plain(24, 24, 32), load_data(Data()).train
    adam = torch.optim.Adam(narrow.parameters(), 0.01)
    for _ in range(60):
        adam.zero_grad()
        F.cross_entropy(narrow(pixels(images.images)), images.labels).backward()
        adam.step()
    with torch.no_grad():
        for before, after in zip(narrow, wide, strict=True):
            if isinstance(before, (nn.Conv2d, nn.Linear)):
                after.weight.mul_(1e-4)
                after.bias.zero_()
                after.weight[tuple(map(slice, before.weight.shape))] = before.weight
                after.bias[: len(before.bias)] = before.bias
    return wide


@pytest.fixture(scope="module")
def planted():
    return trained()


def weighed(net, scorer):
    return scorer.values([net.get_parameter(name).detach() for name in scorer._filters.names], [])


def searched(net, look, **options):
    pruning = Amc(**{"episodes": 40, "warmup": 20, **options}).wrap(net, SHAPE, Budget(ops=0.3))
    return pruning, list(pruning.prepare(look))


@pytest.mark.parametrize("reward", ["accuracy", "kl"])
def test_channels_that_do_nothing_are_found_and_equal_shares_are_beaten(planted, reward):
    pruning, items = searched(copy.deepcopy(planted), look := Digits(), reward=reward)
    channels, scorer = pruning._channels, pruning.scorer
    trial = Trial(planted, channels, weighed(planted, scorer), look, reward)
    even, found = trial.reward(np.array(channels.even)), trial.reward(np.array(scorer.counts()))
    assert isinstance(pruning, Preparing)
    assert [item.done for item in items] == list(range(1, 41))
    assert found == pytest.approx(items[-1].numbers["best_reward"])
    assert found > 1.2 * even
    by_layer = dict(zip([group.name for group in pruning.groups], scorer.counts(), strict=True))
    assert by_layer["0"] < 0.7 * by_layer["2"]
    rewards = [item.numbers["reward"] for item in items]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:20])  # the agent acts better than chance
    pruning.finalize()
    assert [int(keep.sum()) for keep in pruning.keeps] == scorer.counts()
    assert 0.97 * 0.3 < pruning.status()["ops"] <= 0.3


def test_a_search_that_is_cut_anywhere_goes_on_as_if_nothing_had_been(planted):
    look, options = Digits(32), {"episodes": 14, "warmup": 6}
    whole, items = searched(planted, look, **options)
    state = None
    for cut in (3, 6, 10, 14):
        pruning = Amc(**options).wrap(planted, SHAPE, Budget(ops=0.3))
        if state is not None:
            pruning.scorer.load_state_dict(state)
        for item in pruning.prepare(look):
            if item.done == cut:
                break
        state = copy.deepcopy(pruning.scorer.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in whole.scorer.state_dict().items())
    assert list(pruning.prepare(look)) == []
    assert look.settled == [4] * 28
    other = searched(planted, Digits(32, seed=1), **options)[1]
    assert [item.numbers for item in other] != [item.numbers for item in items]  # another run draws others


def test_a_net_that_answers_all_images_alike_is_worth_less_than_one_that_answers_well(planted):
    """Nothing moves it, so 1/KL alone would make it the best there is."""
    pruning = Amc().wrap(planted, SHAPE, Budget(ops=0.3))
    channels, values = pruning._channels, weighed(planted, pruning.scorer)
    trial = Trial(planted, channels, values, Digits(), "kl")
    flat = copy.deepcopy(planted)
    nn.init.zeros_(flat[8].weight)
    whole = pruning.scorer._walk.sizes
    assert trial.reward(whole) > 0.2
    trial._net = flat
    assert 0 <= trial.reward(whole) < 0.5 * Trial(planted, channels, values, Digits(), "kl").reward(whole)
    nn.init.constant_(flat[8].weight, math.nan)
    assert trial.reward(whole) == 0


def test_where_all_channels_fit_nothing_is_searched(planted):
    pruning = Amc().wrap(planted, SHAPE, Budget(ops=1.0))
    assert list(pruning.prepare(Digits(8))) == []
    pruning.finalize()
    assert all(keep.all() for keep in pruning.keeps)


def test_more_random_episodes_than_episodes_are_refused():
    with pytest.raises(RecipeError, match="warmup must not be above episodes"):
        PRUNERS.build("amc", {"episodes": 10, "warmup": 11})
