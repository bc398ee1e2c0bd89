from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from robustdeploy.errors import TrainingError
from robustdeploy.prune.rehearsal import find_groups

IMAGE = (3, 12, 12)


def test_every_net_has_groups_and_keeps_its_output_whole(subject, coupling):
    assert coupling.groups
    assert "they are the net's output" in coupling.whole.values()
    names = dict(subject.net().named_modules())
    for group in coupling.groups:
        for member in group.members:
            module = names[member.layer]
            sides = {"out": ("out_channels", "out_features", "num_features"), "in": ("in_channels", "in_features")}
            size = next(getattr(module, a) for a in sides[member.side] if hasattr(module, a))
            assert member.positions.min() >= 0
            assert member.positions.max() < size
            assert len(member.positions.unique()) == len(member.positions) == len(member.channels)
            assert set(member.channels.tolist()) == set(range(group.size))


def test_no_place_belongs_to_two_groups(coupling):
    seen: dict[tuple[str, str], set[int]] = {}
    for group in coupling.groups:
        for member in group.members:
            places = seen.setdefault((member.layer, member.side), set())
            assert not places & set(member.positions.tolist())
            places |= set(member.positions.tolist())


def test_finding_groups_leaves_the_net_as_it_was(subject):
    net = subject.net().train()
    frozen = next(net.children())
    frozen.eval()
    first = next(net.parameters())
    first.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    find_groups(net, subject.shape)
    assert net.training
    assert not frozen.training
    assert not first.requires_grad
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())


def test_a_flattened_channel_is_many_inputs(users):
    groups = {group.name: group for group in find_groups(users["flat"](10, 3), IMAGE).groups}
    spread = next(m for m in groups["more"].members if m.layer == "hidden" and m.side == "in")
    assert torch.equal(spread.positions[spread.channels == 3].sort().values, torch.arange(48, 64))


def test_concatenated_maps_meet_in_one_normalisation(users):
    groups = find_groups(users["dense"](10, 3), IMAGE).groups
    assert {g.name: g.size for g in groups} == {"stem": 8, "layers.0": 6, "layers.1": 6, "layers.2": 6}
    places = {g.name: next(m for m in g.members if m.layer == "last").positions.tolist() for g in groups}
    starts = {"stem": (0, 8), "layers.0": (8, 14), "layers.1": (14, 20), "layers.2": (20, 26)}
    assert places == {name: list(range(*ends)) for name, ends in starts.items()}


def windowed():
    return torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=10)


def test_of_windowed_attention_the_layers_between_are_pruned():
    coupling = find_groups(windowed(), (3, 32, 32))
    assert sorted(group.name for group in coupling.groups) == [
        f"features.{i}.{j}.mlp.0" for i, j in ((1, 0), (1, 1), (3, 0), (3, 1))
    ]
    assert "takes all its channels together" in coupling.whole["features.0.0"]


def test_of_layers_in_a_row_the_last_carries_the_mask(users):
    """Normalisation that follows, a depthwise layer behind an activation, normalisation in front of the reader."""
    inverted = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35)
    masked = {m.layer for group in find_groups(inverted, (3, 32, 32)).groups for m in group.members if m.masked}
    assert "features.0.1" not in masked  # read by the depthwise layer of the first block alone
    blocks = [f"features.{number}.conv" for number in range(2, 18)]
    assert masked == {
        "features.1.conv.0.1",
        "features.1.conv.2",
        *(f"{block}.{place}" for block in blocks for place in ("1.1", "3")),
        "features.18.1",
    }
    dense = find_groups(users["dense"](10, 3), IMAGE).groups
    assert {m.layer for group in dense for m in group.members if m.masked} == {"norms.0", "norms.1", "norms.2", "last"}


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("bare", "scaled", "coupled to the bare parameter scale"),
    ],
)
def test_what_cannot_be_pruned_is_left_whole_with_the_reason(users, name, layer, reason):
    coupling = find_groups(users[name](10, 3), IMAGE)
    assert reason in coupling.whole[layer]
    assert layer not in {group.name for group in coupling.groups}


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("mobilenet_v3_small", "features.9.block.1.1"),
        ("efficientnet_b0", "features.7.0.block.1.1"),
    ],
)
def test_of_the_sides_of_a_product_one_carries_the_mask(name, masked):
    """The features do; the gate they are multiplied with, which is one half where nothing excites it, does not."""
    groups = find_groups(getattr(torchvision.models, name)(num_classes=10), (3, 32, 32)).groups
    carrying = [[m.layer for m in group.members if m.masked] for group in groups]
    assert [masked] in carrying
    assert not any("fc2" in layer for layers in carrying for layer in layers)


def tied():
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    second.weight = first.weight
    return first, second


class Sum(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second, self.out = first, second, nn.Linear(8, 10)

    def forward(self, images):
        return self.out(torch.relu(self.first(images) + self.second(images)).mean((2, 3)))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (tied, "coupled to first, which shares a parameter with second"),
        (
            lambda: (torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(3, 8, 3)),
            "coupled to first, whose weight is computed from other parameters",
        ),
        (
            lambda: (nn.Conv2d(3, 8, 3), torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))),
            "coupled to second, whose weight is computed from other parameters",
        ),
    ],
)
def test_weights_that_are_not_a_layers_own_stay_whole(layers, reason):
    coupling = find_groups(Sum(*layers()), IMAGE)
    assert reason in "; ".join(coupling.whole.values())
    assert not coupling.groups


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.out = nn.Linear(8, 10)

    def forward(self, images):
        maps = self.conv(images)
        if len(images) == 2:
            raise NotImplementedError("one image at a time, please")
        return self.out(maps.mean((2, 3)))


def test_a_net_that_cannot_be_traced_says_so_in_its_own_words():
    net = Branching().train()
    with pytest.raises(TrainingError, match=r"channels of this Branching cannot be followed.*one image at a time"):
        find_groups(net, IMAGE)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
