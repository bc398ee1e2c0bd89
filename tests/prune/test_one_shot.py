"""One-shot pruning against what others do: torch's own global pruning, and torch-pruning's importance of filters."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torchs

from robustdeploy.core.load import load_recipe, prospect_of
from robustdeploy.core.recipe import Budget
from robustdeploy.core.registry import PRUNERS
from robustdeploy.cost.module import macs, params
from robustdeploy.errors import BudgetError, RecipeError
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.one_shot import OneShot

SHAPE = (1, 12, 12)


def small():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.mark.parametrize("budget", [0.5, 0.3])
def test_single_weights_are_those_of_torchs_global_pruning(budget):
    pruning, theirs = OneShot().wrap(small(), SHAPE, Budget(params=budget)), small()
    pruning.after_step(0.4)
    assert all(keep.all() for keep in pruning.keeps)
    pruning.after_step(0.5)
    layers = [(module, "weight") for module in theirs if isinstance(module, (nn.Conv2d, nn.Linear))]
    gone = sum(int((~keep).sum()) for keep in pruning.keeps)
    torchs.global_unstructured(layers, pruning_method=torchs.L1Unstructured, amount=gone)
    assert all(
        torch.equal(keep, module.weight_mask.bool()) for keep, (module, _) in zip(pruning.keeps, layers, strict=True)
    )
    dense = params(pruning.net)
    assert budget * dense - 1 < pruning.costs()["params"] <= budget * dense


@pytest.mark.filterwarnings("ignore")
def test_filters_are_ranked_as_torch_pruning_ranks_them():
    import torch_pruning

    pruning, theirs = OneShot(of="channels").wrap(small(), SHAPE, Budget(ops=0.5)), small()
    ours = pruning.scorer.values([pruning.net.get_parameter(n) for n in pruning._weights.names], pruning.keeps)
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, torch.zeros(2, *SHAPE), verbose=False)
    rank = torch_pruning.importance.MagnitudeImportance(p=1, group_reduction="first", normalizer=None)
    for group, value in zip(pruning.groups, ours, strict=True):
        layer = theirs.get_submodule(group.name)
        how = torch_pruning.prune_conv_out_channels
        how = how if isinstance(layer, nn.Conv2d) else torch_pruning.prune_linear_out_channels
        with warnings.catch_warnings():
            found = rank(graph.get_pruning_group(layer, how, idxs=list(range(group.size))))
        assert torch.allclose(found / layer.weight[0].numel(), value.float(), rtol=1e-5)
    assert sorted(group.size for group in pruning.groups) == [8, 12, 16, 24]


@pytest.mark.parametrize("spread", ["global", "uniform"])
def test_the_cut_net_is_smaller_and_uses_its_budget_up(spread):
    net = small()
    pruning = OneShot(of="channels", spread=spread).wrap(net, SHAPE, Budget(ops=0.4))
    values = pruning.scorer.values([net.get_parameter(n).detach() for n in pruning._weights.names], pruning.keeps)
    pruning.after_step(1.0)
    plain, images = pruning.compact().eval(), torch.rand(4, *SHAPE)
    assert 0.97 * 0.4 < macs(plain, SHAPE) / macs(net, SHAPE) <= 0.4
    prove_equal(pruning.eval(), plain, images, 1 - images)
    lowest = [value[keep].min() for value, keep in zip(values, pruning.keeps, strict=True)]
    highest = [value[~keep].max() for value, keep in zip(values, pruning.keeps, strict=True) if not keep.all()]
    for value, keep in zip(values, pruning.keeps, strict=True):
        assert keep.all() or value[keep].min() >= value[~keep].max()
    shares = [float(keep.float().mean()) for keep in pruning.keeps]
    if spread == "uniform":
        assert max(shares) - min(shares) < 0.2
    else:  # as near to one threshold as whole channels inside 3 % of the budget allow
        assert max(highest) < 1.5 * min(lowest)


def test_channels_stay_in_the_multiples_that_are_given_or_preferred():
    given = OneShot(of="channels").wrap(small(), SHAPE, Budget(ops=0.4, channel_multiple=2))
    preferred = OneShot(of="channels").wrap(small(), SHAPE, Budget(ops=0.4, preferred_multiple=2))
    for pruning in (given, preferred):
        pruning.finalize()
        assert all(len(index) % 2 == 0 for index in pruning.kept().values())
        assert 0.97 * 0.4 < pruning.status()["ops"] <= 0.4


def test_where_a_ranking_leads_to_no_fitting_counts_all_groups_keep_the_same_share(monkeypatch):
    pruning = OneShot(of="channels").wrap(small(), SHAPE, Budget(ops=0.4))

    def lost(*_):
        raise BudgetError("no choice of channels lands there")

    monkeypatch.setattr("robustdeploy.prune.masked_channels.exact_counts", lost)
    pruning.finalize()
    assert 0.97 * 0.4 < pruning.status()["ops"] <= 0.4
    shares = [float(keep.float().mean()) for keep in pruning.keeps]
    assert max(shares) - min(shares) < 0.2


def test_what_is_removed_hangs_on_the_options_and_so_do_the_rules_of_a_gate():
    for of in ("weights", "channels"):
        recipe = load_recipe("digits-resnet8", (f"prune={{name: one-shot, of: {of}}}", "gate=[]"))
        assert prospect_of(recipe).removes_channels == (of == "channels")
    with pytest.raises(RecipeError, match="spread: erk is of single weights"):
        PRUNERS.build("one-shot", {"of": "channels", "spread": "erk"})
    with pytest.raises(BudgetError, match=r"out of reach: the smallest .* one weight in each layer"):
        OneShot().wrap(small(), SHAPE, Budget(params=20))
    with pytest.raises(BudgetError, match="out of reach: the smallest"):
        OneShot(of="channels").wrap(small(), SHAPE, Budget(ops=0.0001))


def test_erk_leaves_small_layers_denser_and_meets_the_budget():
    net = small()
    pruning = OneShot(spread="erk").wrap(copy.deepcopy(net), SHAPE, Budget(params=0.3))
    pruning.finalize()
    shares = [float(keep.float().mean()) for keep in pruning.keeps]
    ratios = [sum(keep.shape) / keep.numel() for keep in pruning.keeps]
    assert shares[0] == 1.0  # 9 weights per filter
    below = [(share, ratio) for share, ratio in zip(shares, ratios, strict=True) if share < 1]
    assert all(share / ratio == pytest.approx(below[0][0] / below[0][1], rel=0.02) for share, ratio in below)
    assert 0.3 * params(net) - 1 < pruning.costs()["params"] <= 0.3 * params(net)
