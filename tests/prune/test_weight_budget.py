from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import macs, params
from robustdeploy.cost.sparse import nonzero_macs, nonzero_params
from robustdeploy.errors import BudgetError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.prune.groups import COMPUTED
from robustdeploy.prune.weight_budget import (
    ELSEWHERE,
    layer_weights,
    maskable,
    priced,
    unmasked,
    weight_costs,
    weight_limits,
)

ZOO = ("resnet8", "preact-resnet18", "torchvision-mobilenet", "flat", "grouped", "twice", "bare")


@pytest.mark.parametrize("subject", ZOO, indirect=True)
def test_costs_are_what_counting_the_zeros_of_a_net_gives(subject):
    net = subject.net()
    weights = layer_weights(net, subject.shape)
    ops, numbers = weight_costs(net, subject.shape, Budget(), weights)
    whole = [weight.size for weight in weights]
    assert ops.of(whole) == ops.dense == macs(net, subject.shape)
    assert numbers.of(whole) == numbers.dense == params(net)
    generator, kept = torch.Generator().manual_seed(0), []
    for weight in weights:
        value = net.get_parameter(weight.name).data
        value.masked_fill_(value == 0, 1e-3)
        value[torch.rand(value.shape, generator=generator) < 0.7] = 0
        kept.append(int(torch.count_nonzero(value)))
    assert ops.of(kept) == nonzero_macs(net, subject.shape)
    assert numbers.of(kept) == nonzero_params(net)


class Cells(nn.Module):
    """What multiplies by weights and is neither a convolution nor a linear layer, beside what is."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(6, 2)
        self.cell, self.rows = nn.GRUCell(24, 6), nn.Parameter(torch.randn(6, 6))
        self.start = nn.Parameter(torch.randn(1, 6))
        self.fixed = parametrizations.weight_norm(nn.Linear(6, 6))

    def forward(self, images):
        maps = self.stem(images).transpose(1, 2).flatten(2)
        state = self.start.expand(len(maps), -1)
        for row in maps.unbind(1):
            state = self.cell(row, state)
        return self.fc(self.fixed(state @ self.rows))


def test_what_is_never_masked_is_named_where_a_budget_is_out_of_reach():
    assert unmasked(Cells(), (1, 8, 8)) == {"cell": ELSEWHERE, "rows": ELSEWHERE, "fixed": COMPUTED}
    told = r"out of reach.*what stays whole: fixed .*; rows, cell \(weights are masked in convolutions"
    with pytest.raises(BudgetError, match=told):
        maskable(Normalised(Cells(), (0.5,), (0.5,)), (1, 8, 8), Budget(ops=0.1), "masks on weights")


def test_shared_weights_are_one_tensor_and_computed_ones_none():
    one, two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    two.weight = one.weight
    net = nn.Sequential(one, two, parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.Flatten(), nn.Linear(64, 2))
    found = {weight.layer: (weight.size, weight.macs) for weight in layer_weights(net, (3, 4, 4))}
    assert found == {"0": (81, 2 * 81 * 16), "4": (128, 128)}
    ops, _ = weight_costs(net, (3, 4, 4), Budget(), layer_weights(net, (3, 4, 4)))
    assert ops.fixed == 12 * 16


def test_a_limit_falls_from_the_dense_net_and_is_met_in_whole_numbers():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 7))
    costs = weight_costs(net, (3, 2, 2), Budget(), layer_weights(net, (3, 2, 2)))
    ops, numbers = weight_limits(Budget(ops=0.333, params=100), costs)
    assert (ops.cost.dense, ops.most) == (190, 63)
    assert (numbers.cost.dense, numbers.cost.fixed, numbers.most) == (207, 17, 100)
    assert [ops.at(left) for left in (1, 0.5, 0)] == [190, 126, 63]
    assert weight_limits(Budget(), costs) == ()
    (more,) = weight_limits(Budget(params=1000), costs)
    assert more.most == 207


def test_a_memory_budget_that_binds_is_refused_with_the_way_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    weights, dense = layer_weights(net, (3, 4, 4)), peak_bytes(net, (3, 4, 4))
    costs = weight_costs(net, (3, 4, 4), Budget(memory=dense), weights)
    assert {cost.name: cost.of([0, 0]) for cost in costs} == {"ops": 0, "params": 6, "memory": dense}
    assert weight_limits(Budget(memory=dense), costs) == ()
    message = rf"of the activation memory .* the smallest without removing channels, .* is 1 \({dense:,} bytes\)"
    with pytest.raises(BudgetError, match=message):
        weight_limits(Budget(memory=0.5), costs)


def test_a_weight_is_priced_by_what_it_takes_of_the_costs_that_are_limited():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 2))
    net.spare = nn.Linear(5, 5)  # of no use to any image
    net.forward = lambda images: net[2](net[1](net[0](images)))
    weights = layer_weights(net, (3, 4, 4))
    costs = weight_costs(net, (3, 4, 4), Budget(), weights)

    def prices(**budget):
        return [w.price for w in priced(weights, weight_limits(Budget(**budget), costs))]

    macs_of, numbers = 108 * 16 + 128, params(net)
    assert prices() == [1, 1, 1]
    assert prices(ops=0.5) == pytest.approx([16 / macs_of, 1 / macs_of, 1 / macs_of])
    assert prices(params=0.5) == pytest.approx([1 / numbers] * 3)
    assert prices(ops=0.5, params=0.5) == pytest.approx(
        [16 / macs_of + 1 / numbers, 1 / macs_of + 1 / numbers, 1 / numbers]
    )
