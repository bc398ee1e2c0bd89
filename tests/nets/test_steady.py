"""Nets whose scores are not an image's own, each named by the layer at fault; and nets that only look like one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.errors import UsageError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.steady import check_steady, unsteadiness

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, features per image by ``head``, and a last layer whose weights may be all 0, as a fresh ViT's."""

    def __init__(self, head, norm=None, fresh=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), norm or nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.fc = head, nn.Linear(8, 5)
        if fresh:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        return self.fc(self.head(self.body(images)))


class Head(nn.Module):
    """Features per image, by any function of (this module, N×8 means)."""

    def __init__(self, made):
        super().__init__()
        self.made, self.calls = made, 0
        self.register_buffer("average", torch.zeros(8))

    def forward(self, maps):
        return self.made(self, maps.mean((2, 3)))


class Mixing(nn.Module):
    """A layer of sequences over the pixels of each image, with the batch where the layer expects time."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, maps):
        rows = maps.flatten(2).transpose(1, 2)
        found = self.layer(rows, rows, rows) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(rows)
        return (found[0] if isinstance(found, tuple) else found).mean(1)


def counted(head, x):
    head.calls += 1
    return x * (1 + 0.01 * head.calls)


def averaged(head, x):
    head.average.mul_(0.9).add_(0.1 * x.mean(0))
    return x - head.average


def awake(head, x):
    head.train()
    return F.dropout(x, 0.5, head.training)


def seeded(head, x):
    torch.manual_seed(0)
    return F.dropout(x)


def resized(head, x):
    return x * int(torch.randint(1, 4, (1,)))


def found(net):
    net.train()
    said = unsteadiness(Normalised(net, [0.3], [0.4]), IMAGES)
    assert all(module.training for module in net.modules())
    return said


BESIDE = "the scores of an image depend on the images beside it; the cause is "
TWICE = "two passes over the same image give different scores; the cause is "


@pytest.mark.parametrize(
    ("made", "operation"),
    [
        (lambda _, x: x - x.mean(0), "mean"),
        (lambda _, x: torch.softmax(x, 0), "softmax"),
        (lambda _, x: torch.softmax(x @ x.T, 1) @ x, "matmul"),
        (lambda _, x: x / x.max(), "max"),
        (lambda _, x: F.layer_norm(x, x.shape), "layer_norm"),
        (lambda _, x: x @ torch.linalg.inv(x.T @ x + torch.eye(8, dtype=x.dtype)), "matmul"),
        (lambda _, x: x * len(x), "mul"),
        (lambda _, x: x.roll(1, 0), "roll"),
        (seeded, "dropout"),
    ],
)
def test_what_is_taken_over_the_batch_is_found_by_its_operation(made, operation):
    assert found(Net(Head(made))).startswith(f"{BESIDE}{operation} in head, a Head. A camera delivers one image")


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.MultiheadAttention(8, 2), "head.layer, a MultiheadAttention with batch_first=False"),
        (nn.LSTM(8, 8), "head.layer, an LSTM with batch_first=False"),
        (nn.TransformerEncoderLayer(8, 2, 16), "head.layer.self_attn, a MultiheadAttention with batch_first=False"),
    ],
)
def test_sequence_layers_that_take_the_batch_for_time_are_named(layer, told):
    assert found(Net(Mixing(layer))).startswith(BESIDE + told)


@pytest.mark.parametrize("fresh", [False, True])
def test_batch_norm_without_running_statistics_is_named(fresh):
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    told = found(Net(Head(lambda _, x: x), norm, fresh))
    assert told.startswith(f"{BESIDE}body.1, a BatchNorm2d without running statistics. ")


@pytest.mark.parametrize(
    ("made", "cause"),
    [
        (lambda _, x: F.dropout(x, 0.3), "dropout in head, a Head"),
        (lambda _, x: x + torch.randn_like(x), "randn_like in head, a Head"),
        (lambda _, x: x * np.random.default_rng().uniform(), "mul in head, a Head"),
        (resized, "randint in head, a Head"),
        (counted, "mul in head, a Head"),
        (averaged, "head, a Head, which changes its buffer 'average' in each pass"),
        (awake, "head, a Head, which switches itself to training mode in its forward pass"),
    ],
)
def test_chance_and_memory_are_named(made, cause):
    assert found(Net(Head(made))).startswith(f"{TWICE}{cause}. In eval mode a net must answer the same each time")


def test_a_batch_norm_that_is_switched_to_training_is_named_by_what_switches_it():
    def switched(head, x):
        head.norm.train()
        return head.norm(x)

    head = Head(switched)
    head.norm = nn.BatchNorm1d(8)
    told = found(Net(head))
    assert "one by one" in told or "head.norm, a BatchNorm1d, which switches itself to training mode" in told


@pytest.mark.parametrize(
    "net",
    [
        Net(Head(lambda _, x: x)),
        Net(Head(lambda head, x: F.dropout(x, 0.3, head.training))),
        Net(Head(lambda _, x: x), nn.InstanceNorm2d(8)),
        Net(Head(lambda _, x: x), nn.InstanceNorm2d(8, track_running_stats=True)),
        Net(Head(lambda _, x: x), nn.BatchNorm2d(8, momentum=None)),
        Net(Head(lambda _, x: x.float().to(x.dtype))),
        Net(Mixing(nn.MultiheadAttention(8, 2, batch_first=True))),
        Net(Mixing(nn.LSTM(8, 8, batch_first=True))),
        Net(Head(lambda head, x: head.average.add_(1).mean() * 0 + x)),
    ],
)
def test_honest_nets_are_not_blamed(net):
    assert found(net) is None


def test_a_net_that_cannot_be_copied_is_looked_at_as_it_is():
    class Stubborn(Head):
        def __deepcopy__(self, memo):
            raise TypeError("this cannot be copied")

    net = Net(Stubborn(averaged))
    before = net.head.average.clone()
    assert "changes its buffer 'average'" in found(net)
    assert torch.equal(net.head.average, before)


def test_torchs_generator_is_left_alone():
    noisy = Net(Head(lambda _, x: x + torch.randn_like(x)))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert unsteadiness(Normalised(noisy, [0.3], [0.4]), IMAGES)
    assert torch.equal(torch.rand(3), expected)


def test_a_net_that_cannot_read_several_images_says_so():
    told = found(Net(Head(lambda _, x: x.reshape(1, -1)[:, :8])))
    assert told == "it cannot score 4 images together and one by one: 4 images gave (1, 5), not one row of scores each"


@pytest.mark.parametrize(
    ("made", "operation"),
    [
        (lambda _, x: x - x.mean(0) if len(x) > 64 else x, "mean"),
        (lambda _, x: x.roll(1, 0) if len(x) >= 128 else x, "roll"),
        (lambda _, x: torch.cat([x[:100], x[100:] * 2]), "cat"),
        (lambda _, x: x * (1 + max(0, len(x) - 32)), "mul"),
    ],
)
def test_what_shows_only_among_many_images_is_found(made, operation):
    many = torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    net = Normalised(Net(Head(made)), (0.5,), (0.25,))
    assert unsteadiness(net, many[:4]) is None
    assert f"{BESIDE}{operation} in head, a Head" in unsteadiness(net, many)


def test_many_images_cut_into_parts_are_no_fault():
    cut = Net(Head(lambda _, x: torch.cat([part * 2 for part in x.split(64)])))
    many = torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert unsteadiness(Normalised(cut, (0.5,), (0.25,)), many) is None


def test_a_net_that_cannot_read_many_images_says_how_many():
    few = Net(Head(lambda head, x: x + torch.zeros(64, 8, dtype=x.dtype)[: len(x)]))
    many = torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert unsteadiness(Normalised(few, (0.5,), (0.25,)), many).startswith("it cannot score 130 images together")


def test_the_check_raises_with_what_it_was_about():
    with pytest.raises(UsageError, match=r"net 'mine': the scores of an image depend on .* roll in head"):
        check_steady(Normalised(Net(Head(lambda _, x: x.roll(1, 0))), [0.3], [0.4]), IMAGES, "net 'mine'")


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_told_as_such(wild):
    told = unsteadiness(Normalised(Net(Head(lambda head, x: torch.mul(x, wild))), (0.5,), (0.25,)), IMAGES)
    assert "not finite" in told
    assert "mul in head" in told
