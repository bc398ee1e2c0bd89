"""What only the training mode of a net shows is said before the training, in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from robustdeploy.errors import UsageError
from robustdeploy.nets.normalised import Normalised
from robustdeploy.train.first_step import check_first_step
from robustdeploy.train.tasks.free import Free
from robustdeploy.train.tasks.standard import Standard


class Net(nn.Module):
    """A small net with something of a test's own between its features and its scores."""

    def __init__(self, between=lambda net, maps: net.score(maps)) -> None:
        super().__init__()
        self.conv, self.more = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.between = between

    def score(self, maps):
        return self.fc(maps.mean((2, 3)))

    def forward(self, images):
        return self.between(self, F.relu(self.more(self.norm(self.conv(images)))))


def while_training(unlike):
    """In eval mode the scores, in training mode something else."""
    return lambda net, maps: unlike(net, maps) if net.training else net.score(maps)


def pixels_cut(net, maps):
    return net.score(maps.detach())


def grey_only(net, maps):
    assert not net.training, "grey images only"
    return net.score(maps)


def missing_entry(net, maps):
    return {}["features"]


def overwritten(net, maps):
    scores = net.score(maps)
    maps.mul_(0.5)
    return scores


FINE = {
    "plain": None,
    "two outputs": while_training(lambda net, maps: (net.score(maps), maps)),
    "a mapping": while_training(lambda net, maps: {"aux": maps, "out": net.score(maps)}),
    "checkpointing": lambda net, maps: net.score(checkpoint(net.more, F.pad(maps, (1, 1, 1, 1)), use_reentrant=False)),
}
REFUSED = {
    "an error": (while_training(lambda net, maps: net.score(maps) + None), "on a batch of 2, fails (TypeError: "),
    "a key": (while_training(missing_entry), "on a batch of 2, fails (KeyError: 'features')"),
    "an assertion": (grey_only, "on a batch of 2, fails (AssertionError: grey images only)"),
    "an empty mapping": (while_training(lambda net, maps: {}), "gives dict for a batch of 2 in training mode"),
    "nothing": (while_training(lambda net, maps: None), "gives NoneType for a batch of 2 in training mode"),
    "maps": (
        while_training(lambda net, maps: maps),
        "gives a tensor of (2, 8, 4, 4) for a batch of 2 in",
    ),
    "features first": (while_training(lambda net, maps: (maps, net.score(maps))), "the one called 'logits' or 'out'"),
    "a decision": (lambda net, maps: F.one_hot(net.score(maps).argmax(1), 10), "its scores have no gradient"),
    "a detached part": (pixels_cut, "the net cuts the graph between pixels and scores, so FastAT has no gradient"),
    "overwritten": (overwritten, "; it overwrites what the pass back needs: write y = y * 2, not y *= 2"),
    "old checkpointing": (
        lambda net, maps: net.score(checkpoint(net.more, F.pad(maps, (1, 1, 1, 1)), use_reentrant=True)),
        "use_reentrant=True",
    ),
}


def test_dropout_that_lets_nothing_through_is_named(make_plan):
    net = Net()
    net.norm = nn.Sequential(net.norm, nn.Dropout2d(1.0))
    with pytest.raises(UsageError, match=r"dropout in norm\.1 has p = 1, so nothing passes it while training"):
        check_first_step(Normalised(net, [0.3], [0.4]), make_plan(), "net 'mine'")


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("task", [None, Free(replays=2)])
def test_a_net_that_can_be_trained_is_let_through_and_left_alone(name, task, make_plan):
    net = Normalised(Net() if FINE[name] is None else Net(FINE[name]), [0.3], [0.4]).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    check_first_step(net, make_plan(**({"task": task} if task else {})), "net 'mine'")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("name", REFUSED)
def test_one_that_cannot_is_told_why_in_one_line(name, make_plan):
    between, reason = REFUSED[name]
    with pytest.raises(UsageError) as told:
        check_first_step(Normalised(Net(between), [0.3], [0.4]), make_plan(), "net 'mine'")
    assert reason in str(told.value)
    assert "\n" not in str(told.value)


def test_without_an_attack_no_gradient_of_pixels_is_needed(make_plan):
    check_first_step(Normalised(Net(pixels_cut), [0.3], [0.4]), make_plan(task=Standard()), "net 'mine'")


def test_a_net_without_anything_to_train_is_refused(make_plan):
    with pytest.raises(UsageError, match="net 'mine' has no parameter that can be trained"):
        check_first_step(Normalised(Net().requires_grad_(False), [0.3], [0.4]), make_plan(), "net 'mine'")
