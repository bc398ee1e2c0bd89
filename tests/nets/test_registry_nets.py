from __future__ import annotations

import pytest
import torch
import torch_pruning as tp
from torch import nn

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import NETS
from robustdeploy.cost.module import macs, params
from robustdeploy.errors import RecipeError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.normalised import Normalised

COLOUR = (3, 32, 32)
SMALL: dict[str, dict[str, object]] = {
    "lenet": {},
    "lenet-300-100": {},
    "wang-cnn": {"width": 32},
    "wide-resnet": {"depth": 10, "width": 1},
}
"""Options that make a net small, where that is not a width of 4; a narrow net of ReLUs alone has dead channels."""


def built(name: str, classes: int = 10, shape: tuple[int, int, int] = COLOUR, **options: object) -> Normalised:
    choice = Choice(name=name, options=options)
    return build_net(choice, classes, shape, [0.5] * shape[0], [0.25] * shape[0])


@pytest.mark.parametrize(
    ("name", "expected_macs", "expected_params"),
    [
        ("resnet20", 40_551_040, 269_722),
        ("resnet32", 68_862_592, 464_154),
        ("resnet56", 125_485_696, 853_018),
        ("resnet18", 555_422_720, 11_173_962),
        ("preact-resnet18", 555_422_720, 11_172_170),
        ("wide-resnet", 845_597_184, 5_849_050),
        ("vgg16-bn", 313_201_664, 14_724_042),
    ],
)
def test_nets_cost_what_their_papers_say(name: str, expected_macs: int, expected_params: int) -> None:
    net = built(name)
    assert (macs(net, COLOUR), params(net)) == (expected_macs, expected_params)


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
def test_the_older_names_are_the_same_nets(depth: int) -> None:
    states = []
    for name, options in ((f"resnet{depth}", {}), ("cifar-resnet", {"depth": depth})):
        torch.manual_seed(0)
        states.append(built(name, width=4, **options).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_depths_between_are_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="depth must be 6n \\+ 2, such as 20, not 18"):
        built("cifar-resnet", depth=18)
    assert sum(isinstance(m, nn.Conv2d) for m in built("cifar-resnet", depth=110, width=2).modules()) == 109


def test_the_hydra_head_has_two_hidden_layers_on_2048_features() -> None:
    net = built("vgg16-bn", head="hydra")
    assert [m.in_features for m in net.modules() if isinstance(m, nn.Linear)] == [2048, 256, 256]
    assert macs(net, COLOUR) == 313_788_928


@pytest.mark.parametrize("name", NETS.names())
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 40)])
def test_every_net_trains_on_grey_and_colour(name: str, shape: tuple[int, int, int]) -> None:
    small = SMALL.get(name, {"width": 4})
    torch.manual_seed(0)
    net = built(name, 7, shape, **small)
    net(torch.rand(2, *shape)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", ["resnet8", "lenet"])
def test_the_callers_seed_decides_the_weights(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([p.detach().flatten() for p in built(name).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("name", "options", "expected_macs", "expected_params"),
    [
        ("lenet", {}, 2_293_000, 431_080),
        ("lenet-300-100", {}, 266_200, 266_610),
        ("wang-cnn", {}, 2_347_648, 178_986),
    ],
)
def test_nets_for_grey_images_cost_what_their_papers_say(
    name: str, options: dict[str, object], expected_macs: int, expected_params: int
) -> None:
    net = built(name, 10, (1, 28, 28), **options)
    assert (macs(net, (1, 28, 28)), params(net)) == (expected_macs, expected_params)


@pytest.mark.parametrize("name", ["lenet-300-100", "wang-cnn"])
def test_larger_images_are_averaged_and_smaller_ones_refused(name: str) -> None:
    assert built(name, 10, (1, 64, 51))(torch.zeros(1, 1, 64, 51)).shape == (1, 10)
    with pytest.raises(Exception, match="at least 28×28 pixels and got 27×40"):
        built(name, 10, (1, 27, 40))


def test_lenet_pools_larger_images_and_names_the_smallest() -> None:
    assert built("lenet", 10, (1, 64, 51))(torch.zeros(1, 1, 64, 51)).shape == (1, 10)
    with pytest.raises(Exception, match="at least 28×28 pixels and got 8×8"):
        built("lenet", 10, (1, 8, 8))


class _PadPruner(tp.BasePruningFunc):  # type: ignore[misc]
    def prune_out_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
        return layer

    def prune_in_channels(self, layer: ChannelPad, idxs: list[int]) -> ChannelPad:
        return layer  # a function of its own: the graph tells inputs from outputs by it

    def get_out_channels(self, layer: ChannelPad) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: ChannelPad) -> int:
        return layer.in_channels


def test_each_stage_of_a_residual_net_is_one_coupled_stream() -> None:
    net = built("resnet8")
    graph = tp.DependencyGraph().build_dependency(
        net, torch.rand(2, *COLOUR), customized_pruners={ChannelPad: _PadPruner()}
    )
    streams = []
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d]):
        outputs = {
            dep.target.name.split(" ")[0]
            for dep, _ in group
            if isinstance(dep.target.module, nn.Conv2d) and dep.handler.__name__ == "prune_out_channels"
        }
        streams.append(sorted(outputs))
    inner = [[f"net.stages.{s}.0.conv1"] for s in range(3)]
    outer = [["net.conv", "net.stages.0.0.conv2"], ["net.stages.1.0.conv2"], ["net.stages.2.0.conv2"]]
    assert sorted(streams) == sorted(inner + outer)
