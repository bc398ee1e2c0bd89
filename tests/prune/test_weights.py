from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import macs, params
from robustdeploy.cost.sparse import nonzero_macs, nonzero_params
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.spreads import Threshold
from robustdeploy.prune.weight_budget import Limit, WeightCost
from robustdeploy.prune.weights import Weights

SUBJECTS = (
    "resnet8",
    "preact-resnet18",
    "torchvision-mobilenet",
    "flat",
    "dense",
    "doubled",
    "grouped",
    "bare",
    "twice",
)
BUDGETS = (
    Budget(ops=0.3),
    Budget(ops=0.05),
    Budget(params=0.1),
    Budget(ops=0.2, params=0.1),
    Budget(ops=0.1, params=0.9),
)


def learnt(pruning, seed=0):
    """Give the masks values that a training could."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in pruning.scorer.logits:
            m.normal_(0, 0.8, generator=generator)
    return pruning


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("subject", SUBJECTS, indirect=True)
@pytest.mark.alike(20)
def test_the_budget_is_met_to_the_weight(subject, budget):
    net = subject.net()
    try:
        pruning = learnt(Weights().wrap(net, subject.shape, budget))
    except BudgetError:
        assert budget.params == 0.1  # what is not a weight is more than that already
        assert sum(w.size for w in pruning_weights(net, subject.shape)) < 0.9 * params(net)
        return
    for progress in (0.1, 0.3, 0.45, 1.0):
        pruning.steps.zero_()
        pruning.after_step(progress)
        left = pruning.course.left(progress, 0.65, 0, 0)
        rooms = []
        for limit in pruning.spread.limits:
            room = limit.at(left) - pruning.costs()[limit.cost.name]
            assert room >= 0
            rooms.append(room / max(limit.cost.each))
        assert min(rooms) < 1
    compact = pruning.compact().eval()
    dense = {"ops": macs(net, subject.shape), "params": params(net)}
    found = {"ops": nonzero_macs(compact, subject.shape), "params": nonzero_params(compact)}
    assert found == pruning.costs()
    assert all(found[name] <= amount * dense[name] for name, amount in budget.amounts.items())
    assert {f"nonzero_{name}": found[name] / dense[name] for name in dense}.items() <= pruning.status().items()
    assert macs(compact, subject.shape) == dense["ops"]
    images = torch.rand(3, *subject.shape, generator=torch.Generator().manual_seed(5))
    prove_equal(pruning.eval(), compact, images, 1 - images)


def pruning_weights(net, shape):
    return Weights().wrap(net, shape, Budget()).weights


def kept_one_by_one(values, fewest, limit, most):
    """The definition, written plainly: the highest of each layer first, then all by value, while the next one fits."""
    flat = [(float(v), layer, i) for layer, value in enumerate(values) for i, v in enumerate(value.flatten())]
    kept = set()
    for layer, count in enumerate(fewest):
        own = sorted((x for x in flat if x[1] == layer), key=lambda x: -x[0])
        kept |= {x[1:] for x in own[:count]}
    spent = limit.cost.fixed + sum(limit.cost.each[layer] for layer, _ in kept)
    for _, layer, i in sorted((x for x in flat if x[1:] not in kept), key=lambda x: -x[0]):
        if spent + limit.cost.each[layer] > most:
            break
        spent += limit.cost.each[layer]
        kept.add((layer, i))
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_keeps_what_sorting_all_weights_would(seed):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.rand(shape, generator=generator) for shape in ((6, 3, 3, 3), (40, 7), (5,))]
    if seed % 2:  # many equal values, and a layer far below the others
        values = [(value * 6).round() / 6 for value in values]
        values[1] -= 3
    cost = WeightCost("ops", (9, 4, 1), 17, 17 + 162 * 9 + 280 * 4 + 5)
    limit, fewest = Limit(cost, 300 + 150 * seed), (1, 20, 2)
    for left in (1.0, 0.5, 0.1, 0.0):
        masks = Threshold((limit,), fewest)(values, left)
        found = {
            (layer, i) for layer, mask in enumerate(masks) for i in torch.nonzero(mask.flatten()).view(-1).tolist()
        }
        expected = kept_one_by_one(values, fewest, limit, limit.at(left))
        assert len(found) == len(expected)
        # Among equal values it does not matter which.
        told = [sorted(float(values[layer].flatten()[i]) for layer, i in chosen) for chosen in (found, expected)]
        assert told[0] == told[1]
        assert seed % 2 or found == expected


def test_of_two_limits_the_tighter_one_binds():
    values = [torch.linspace(0, 1, 100), torch.linspace(0, 1, 50)]
    ops, numbers = WeightCost("ops", (10, 1), 0, 1050), WeightCost("params", (1, 1), 0, 150)
    one, other = Limit(ops, 300), Limit(numbers, 20)
    kept = [int(mask.sum()) for mask in Threshold((one, other), (1, 1))(values, 0.0)]
    assert sum(kept) == 20
    kept = [int(mask.sum()) for mask in Threshold((one, Limit(numbers, 149)), (1, 1))(values, 0.0)]
    assert 290 < 10 * kept[0] + kept[1] <= 300


def test_equal_values_are_kept_in_the_order_of_the_layers():
    values = [torch.ones(30), torch.ones(2, 10)]
    first, second = Threshold((Limit(WeightCost("params", (1, 1), 0, 50), 35),), (1, 1))(values, 0.0)
    assert first.all()
    assert int(second.sum()) == 5


def test_without_a_limit_everything_stays():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
    pruning = Weights().wrap(net, (3, 2, 2), Budget())
    pruning.after_step(1.0)
    assert pruning.status() == {"nonzero_ops": 1.0, "nonzero_params": 1.0, "mask_flips": 0.0}
    assert torch.equal(pruning.compact()[1].weight, net[1].weight)


def test_no_layer_loses_almost_all_its_weights():
    """The second layer's weights are a hundredth of the others', which alone would leave it none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(100, 50), nn.Linear(50, 50), nn.Linear(50, 10))
    with torch.no_grad():
        net[2].weight.mul_(0.01)
    shares = {}
    for floor in (0.0, 0.1, 0.5):
        pruning = Weights(floor=floor).wrap(net, (1, 10, 10), Budget(params=0.3))
        pruning.after_step(1.0)
        shares[floor] = len(pruning.kept()["2"]) / 2500
    numbers = params(net)
    left = (int(0.3 * numbers) - 110) / (numbers - 110)
    assert shares[0.0] == 1 / 2500
    assert shares[0.1] == np.ceil(0.1 * left * 2500) / 2500
    assert shares[0.5] == np.ceil(0.5 * left * 2500) / 2500


def test_one_weight_per_layer_is_the_least(users):
    net = users["flat"](10, 3)
    pruning = Weights().wrap(net, (3, 12, 12), Budget(ops=290))
    pruning.after_step(1.0)
    assert {layer: len(index) for layer, index in pruning.kept().items()} == dict.fromkeys(
        ("conv", "more", "hidden", "out"), 1
    )
    message = r"of the operations \(289 MACs\) is out of reach: .*one weight in each layer, is .* \(290 MACs\)"
    with pytest.raises(BudgetError, match=message):
        Weights().wrap(net, (3, 12, 12), Budget(ops=289))
    fixed = 6 + 10 + 12 + 10
    with pytest.raises(BudgetError, match=rf"of the parameters .* is out of reach: .*\({fixed + 4} parameters\)"):
        Weights().wrap(net, (3, 12, 12), Budget(params=20))


def test_a_net_without_layers_is_refused():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    with pytest.raises(BudgetError, match="no convolution or linear layer whose weights can be masked"):
        Weights().wrap(net, (3, 2, 2), Budget(ops=0.5))


@pytest.mark.parametrize("wrong", [{"floor": 1.0}, {"floor": -0.1}, {"warmup": 0.7}, {"lr": 0}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=r"must be|needed"):
        Weights(**wrong)


def test_values_that_are_not_finite_are_told(users):
    pruning = Weights().wrap(users["flat"](10, 3), (3, 12, 12), Budget(ops=0.5))
    with torch.no_grad():
        pruning.scorer.logits[0].view(-1)[0] = float("nan")
    with pytest.raises(TrainingError, match=r"no longer finite: give a lower train.lr"):
        pruning.after_step(0.3)


def test_depthwise_layers_are_masked_like_any_other(subject_mobilenet):
    net, shape = subject_mobilenet
    pruning = Weights().wrap(net, shape, Budget(ops=0.1))
    pruning.after_step(1.0)
    depthwise = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    kept = pruning.kept()
    sizes = {weight.layer: weight.size for weight in pruning.weights}
    assert len(depthwise) == 17
    assert all(1 <= len(kept[name]) < sizes[name] for name in depthwise)


@pytest.fixture
def subject_mobilenet():
    from robustdeploy.core.recipe import Choice
    from robustdeploy.nets.build import build_net

    torch.manual_seed(0)
    options = {"width_mult": 0.35}
    return build_net(Choice(name="mobilenet_v2", options=options), 10, (3, 32, 32), [0.5] * 3, [0.25] * 3), (3, 32, 32)
