"""What each pruner of single weights does to them, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import params
from robustdeploy.errors import TrainingError
from robustdeploy.prune.courses import EveryStep
from robustdeploy.prune.hard_threshold import HardThreshold
from robustdeploy.prune.magnitude import Magnitude
from robustdeploy.prune.masked_weights import MaskedWeights
from robustdeploy.prune.progressive import Progressive
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.regrow import Regrow
from robustdeploy.prune.twin import Twin
from robustdeploy.prune.weight_budget import maskable

SHAPE = (1, 8, 8)


def small():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 10))


def begun(pruner, budget, net=None):
    pruning = pruner.wrap(net or small(), SHAPE, budget)
    pruning.on_phase(PhaseInfo(epochs=4, steps=40))
    return pruning


def shaken(pruning, generator, size=0.3):
    with torch.no_grad():
        for value in pruning.net.parameters():
            value.add_(size * torch.randn(value.shape, generator=generator))


def test_a_spread_that_empties_a_layer_is_refused():
    net = small()
    layers = maskable(net, SHAPE, Budget(params=0.5), "masks")
    empty = lambda values, left: [torch.zeros_like(value, dtype=torch.bool) for value in values]  # noqa: E731
    pruning = MaskedWeights(net, layers, Magnitude(), empty, EveryStep())
    with pytest.raises(TrainingError, match="would leave 0 without any weight"):
        pruning.after_step(0.5)


def test_what_is_pruned_round_by_round_never_comes_back_and_each_round_leaves_the_same_share():
    pruning, generator = begun(Progressive(rounds=4, warmup=0.2, freeze=0.8), Budget(params=0.3)), torch.Generator()
    shares, before = [], [keep.clone() for keep in pruning.keeps]
    for step in range(41):
        pruning.after_step(step / 40)
        shaken(pruning, generator)
        for keep, was in zip(pruning.keeps, before, strict=True):
            assert not (keep & ~was).any()
        before = [keep.clone() for keep in pruning.keeps]
        shares.append(float(sum(keep.sum() for keep in before)) / sum(keep.numel() for keep in before))
    assert pruning.is_frozen
    rounds = sorted(set(shares), reverse=True)
    dense = params(pruning.net)
    last = (0.3 * dense - 26) / (dense - 26)  # biases are not masked
    assert rounds == pytest.approx([1.0, *(last ** (k / 4) for k in range(1, 5))], abs=0.01)
    assert [shares.index(share) / 40 for share in rounds[1:]] == pytest.approx([0.2, 0.35, 0.5, 0.8], abs=0.03)


def test_a_net_that_was_pruned_before_goes_on_from_its_zeros():
    net = small()
    with torch.no_grad():
        net[2].weight[:, ::2] = 0
    pruning = begun(Progressive(rounds=2), Budget(params=0.9), net)
    with torch.no_grad():
        net[2].weight[:, ::2] = 5
    pruning.finalize()
    assert not pruning.keeps[1][:, ::2].any()


def test_hard_thresholding_sets_weights_to_zero_and_lets_a_single_step_bring_them_back():
    pruning = begun(HardThreshold(freeze=0.9), Budget(params=0.4))
    zero = ~pruning.keeps[1]
    assert zero.any()
    assert not pruning.net[2].weight[zero].any()
    pruning(torch.rand(4, *SHAPE)).square().sum().backward()
    gradient = pruning.net[2].weight.grad
    assert (gradient[zero] != 0).any()
    with torch.no_grad():
        place = tuple(torch.nonzero(zero)[0].tolist())
        pruning.net[2].weight[place] = 9.0
    pruning.after_step(0.5)
    assert pruning.keeps[1][place]
    assert float(pruning.costs()["params"]) <= 0.4 * params(pruning.net)
    pruning.after_step(0.95)
    pruning.net.zero_grad()
    pruning(torch.rand(4, *SHAPE)).square().sum().backward()
    assert not pruning.net[2].weight.grad[~pruning.keeps[1]].any()


def test_regrowth_keeps_each_layers_number_drops_the_smallest_and_begins_at_zero():
    pruning, generator = begun(Regrow(updates=4, drop=0.5, freeze=0.8), Budget(params=0.4)), torch.Generator()
    numbers = [int(keep.sum()) for keep in pruning.keeps]
    exchanged = []
    for step in range(1, 41):
        shaken(pruning, generator, 0.1)
        before = [keep.clone() for keep in pruning.keeps]
        sizes = [pruning.net.get_parameter(weight.name).detach().abs() for weight in pruning.weights]
        pruning.after_step(step / 40)
        assert [int(keep.sum()) for keep in pruning.keeps] == numbers
        grown = pruning.keeps[1] & ~before[1]
        dropped = before[1] & ~pruning.keeps[1]
        exchanged.append(int(grown.sum()))
        if grown.any():
            assert not pruning.net[2].weight[grown].any()
            assert sizes[1][dropped].max() <= sizes[1][before[1] & ~dropped].min()
    assert [step + 1 for step, count in enumerate(exchanged) if count] == [8, 16, 24]
    counts = [count for count in exchanged if count]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == pytest.approx(0.5 * (1 + 0.5**0.5) / 2 * numbers[1], abs=1)
    assert pruning.is_frozen
    masks = {seed: begun(Regrow(seed=seed), Budget(params=0.4)).keeps[1] for seed in (0, 0, 1)}
    assert not torch.equal(masks[0], masks[1])


def test_a_twin_begins_as_the_net_it_was_and_ends_as_one_weight():
    net, images = small(), torch.rand(4, *SHAPE)
    before = net(images)
    pruning = begun(Twin(cut=0.2, freeze=0.8), Budget(params=0.5), net)
    assert torch.allclose(pruning(images), before, atol=1e-6)
    assert not torch.allclose(net(images), before)
    pruning.on_phase(PhaseInfo(epochs=4, steps=40))  # a second phase goes on with the factors that are there
    assert torch.allclose(pruning(images), before, atol=1e-6)
    pruning.after_step(0.3)
    cut = [keep.clone() for keep in pruning.keeps]
    products = torch.cat(
        [(v * f).abs().flatten() for v, f in zip(pruning._values(), pruning.scorer.factors, strict=True)]
    )
    kept = torch.cat([keep.flatten() for keep in cut])
    assert products[kept].min() >= products[~kept].max()
    shaken(pruning, torch.Generator(), 0.01)
    masked = pruning(images)
    pruning.after_step(0.9)
    assert pruning.is_frozen
    assert all(torch.equal(keep, was) for keep, was in zip(pruning.keeps, cut, strict=True))
    assert torch.allclose(pruning.compact()(images), masked, atol=1e-6)
