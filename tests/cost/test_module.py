from __future__ import annotations

import pytest
import torch
from torch import nn

from robustdeploy.cost.flop_counter import macs as flop_macs
from robustdeploy.cost.module import layer_macs, macs, params

LAYERS = [
    (nn.Conv2d(6, 8, (3, 5), stride=2, padding=1, groups=2), 8 * 5 * 4 * (3 * 3 * 5)),
    (nn.Conv2d(6, 6, 3, groups=6, bias=False), 6 * 8 * 8 * 9),
    (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), 6 * 10 * 10 * 2 * 4),
    (nn.Sequential(nn.Flatten(), nn.Linear(600, 7)), 600 * 7),
]


@pytest.mark.parametrize(("layer", "expected"), LAYERS)
def test_a_layer_costs_its_multiplications(layer: nn.Module, expected: int) -> None:
    assert macs(layer, (6, 10, 10)) == expected == flop_macs(layer, (6, 10, 10))


def test_a_layer_that_runs_twice_counts_twice() -> None:
    conv = nn.Conv2d(3, 3, 1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    assert layer_macs(net, (3, 4, 4)) == {"0": 2 * 16 * 9}


def test_counting_leaves_the_net_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    macs(net, (3, 8, 8))
    assert [m.training for m in net] == [True, False, True]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not net[0]._forward_hooks


def test_the_hooks_go_even_if_the_net_fails() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(RuntimeError):
        macs(net, (2, 8, 8))
    assert not net[0]._forward_hooks
    assert net.training


def test_parameters_do_not_include_running_statistics() -> None:
    assert params(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))) == 3 * 2 + 2 + 2 * 2
