from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import layer_macs, macs, params
from robustdeploy.cost.sparse import nonzero_macs, nonzero_params, patterned_layers
from robustdeploy.errors import BudgetError
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.courses import EVERY
from robustdeploy.prune.n_m import NM
from robustdeploy.prune.weight_budget import ELSEWHERE

SUBJECTS = ("resnet8", "preact-resnet18", "torchvision-mobilenet", "dense", "doubled", "grouped", "bare", "twice")


def learnt(pruning, seed=0):
    """Give the masks values that a training could."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in pruning.scorer.logits:
            m.normal_(0, 0.8, generator=generator)
    return pruning


def most_in_a_group(keep, m):
    """The most kept of m consecutive inputs at one output and filter position, looked at one by one."""
    outputs, inputs = keep.shape[:2]
    places = list(itertools.product(*(range(size) for size in keep.shape[2:])))
    return max(
        sum(bool(keep[(output, start + k, *place)]) for k in range(m))
        for output in range(outputs)
        for start in range(0, inputs, m)
        for place in places
    )


@pytest.mark.parametrize("subject", SUBJECTS, indirect=True)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2)])
def test_every_layer_that_can_gets_the_pattern(subject, n, m):
    net = subject.net()
    pruning = learnt(NM(n, m).wrap(net, subject.shape, Budget()))
    modules = dict(net.named_modules())
    whole = {layer: reason for layer, reason in pruning.whole.items() if reason != ELSEWHERE}
    for layer, reason in whole.items():
        assert modules[layer].weight.shape[1] % m, layer
        assert reason == f"the inputs that one of its outputs reads are not a multiple of {m}"
    pruning.after_step(0.3)
    pruning.after_step(1.0)
    compact = pruning.compact().eval()
    patterned = patterned_layers(compact, n, m)
    assert set(pruning.kept()) == set(patterned)
    assert {*patterned, *whole} == set(layer_macs(net, subject.shape))
    for layer, index in pruning.kept().items():
        assert len(index) == modules[layer].weight.numel() * n // m
    assert pruning.costs() == {"ops": nonzero_macs(compact, subject.shape), "params": nonzero_params(compact)}
    assert macs(compact, subject.shape) == macs(net, subject.shape)
    images = torch.rand(3, *subject.shape, generator=torch.Generator().manual_seed(5))
    prove_equal(pruning.eval(), compact, images, 1 - images)


def small():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def test_the_pattern_is_exact_in_every_step_and_layers_take_it_in_their_order():
    """Convolution 2 has most operations, then 4, then the linear layer; 0 reads three inputs."""
    pruning = NM(warmup=0.1, freeze=0.5).wrap(small(), (3, 10, 10), Budget())
    assert [weight.layer for weight in pruning.weights] == ["2", "4", "8"]
    assert list(pruning.whole) == ["0"]
    generator, taken = torch.Generator().manual_seed(0), []
    for step in range(10 * EVERY):
        with torch.no_grad():
            for m in pruning.scorer.logits:
                m.normal_(generator=generator)
        pruning.after_step(0.1 + 0.4 * step / (10 * EVERY - 1))
        counts = [most_in_a_group(keep, 4) for keep in pruning.keeps]
        assert set(counts) <= {2, 4}
        taken.append(counts.count(2))
        assert counts == [2] * taken[-1] + [4] * (3 - taken[-1])
        assert all(keep.all() for keep, count in zip(pruning.keeps, counts, strict=True) if count == 4)
    assert taken == sorted(taken)
    assert set(taken) == {0, 1, 2, 3}
    assert pruning.is_frozen


def test_a_masked_weight_comes_back_before_the_freeze():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[4.0, 3.9, -3.8, 0.1]]))
    pruning = NM(warmup=0, freeze=0.9).wrap(net, (1, 2, 2), Budget())
    own = torch.optim.SGD(pruning.own_parameters(), lr=0.1)
    found = []
    for _ in range(4 * EVERY):  # a score that should fall is served by the weight below 0
        pruning.after_step(0.8)
        own.zero_grad()
        pruning(torch.ones(1, 1, 2, 2)).sum().backward()
        own.step()
        found.append(pruning.kept()["1"].tolist())
    assert found[0] == [0, 1]
    assert 2 in found[-1]


def test_the_first_masks_are_those_of_torchs_own_sparsifier():
    """Before any M has learnt, magnitude decides, as in torch's N:M masks for linear layers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    pruning = NM().wrap(net, (3, 4, 4), Budget())
    pruning.after_step(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.pruning import WeightNormSparsifier

        theirs = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
        theirs.prepare(net, [{"tensor_fqn": "1.weight"}])
        theirs.step()
        mask = net[1].parametrizations.weight[0].mask.bool()
    assert torch.equal(pruning.keeps[0], mask)


def test_as_few_layers_as_the_budget_needs_take_the_pattern():
    net = small()
    dense = layer_macs(net, (3, 10, 10))
    saved = {name: dense[name] // 2 for name in ("2", "4", "8")}
    total = sum(dense.values())
    for count, most in (
        (0, total),
        (1, total - saved["2"]),
        (2, total - saved["2"] - 1),
        (3, total - sum(saved.values())),
    ):
        pruning = NM().wrap(net, (3, 10, 10), Budget(ops=most))
        assert [weight.layer for weight in pruning.weights] == ["2", "4", "8"][:count]
        assert {layer for layer, why in pruning.whole.items() if "without it" in why} == {"2", "4", "8"} - set(
            ["2", "4", "8"][:count]
        )
        pruning.after_step(1.0)
        assert nonzero_macs(pruning.compact(), (3, 10, 10)) <= most
    assert [w.layer for w in NM().wrap(net, (3, 10, 10), Budget(params=0.59, ops=0.99)).weights][:2] == ["2", "4"]


def test_parameters_decide_where_they_are_what_is_missed():
    """The first convolution has most operations, the linear layer most weights."""
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 12))
    shape = (4, 8, 8)
    assert [w.layer for w in NM().wrap(net, shape, Budget(params=0.6)).weights] == ["3"]
    assert [w.layer for w in NM().wrap(net, shape, Budget(ops=0.6)).weights] == ["0"]
    both = NM().wrap(net, shape, Budget(ops=0.6, params=0.6))
    both.after_step(1.0)
    assert {w.layer for w in both.weights} == {"0", "3"}
    assert nonzero_params(both.compact()) <= 0.6 * params(net)


def test_a_budget_below_the_pattern_is_refused_with_what_it_reaches():
    net = small()
    dense = layer_macs(net, (3, 10, 10))
    least = sum(dense.values()) - sum(dense[name] // 2 for name in ("2", "4", "8"))
    message = (
        rf"budget of 0.3 of the operations .* out of reach: the smallest that 2:4 on the 3 layers .* \({least:,} MACs\)"
    )
    with pytest.raises(BudgetError, match=message):
        NM().wrap(net, (3, 10, 10), Budget(ops=0.3))
    with pytest.raises(BudgetError, match=r"of the parameters .* out of reach"):
        NM().wrap(net, (3, 10, 10), Budget(params=0.1))


def test_a_net_that_no_pattern_fits_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 10))
    with pytest.raises(BudgetError, match="no layer of this Sequential reads a multiple of 4 inputs"):
        NM().wrap(net, (3, 3, 3), Budget())


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 4}, {"n": 2, "m": 2}, {"freeze": 0.05}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match="needed"):
        NM(**wrong)
