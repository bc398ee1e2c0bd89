from __future__ import annotations

import signal

import pytest
import torch
from torch import nn

from robustdeploy.core import interrupts
from robustdeploy.errors import Interrupted
from robustdeploy.nets.layout import lay_channels_last
from robustdeploy.train import bn_recalibration
from robustdeploy.train.batches import Batches
from robustdeploy.train.bn_recalibration import recalibrate
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.free import Free
from robustdeploy.train.tasks.standard import Standard
from robustdeploy.train.tasks.trades import Trades
from robustdeploy.train.training import Training


def layers_of(net):
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]


def running(net):
    return torch.cat([value for layer in layers_of(net) for value in (layer.running_mean, layer.running_var)])


def averages(net, plan, batches, task):
    """The plain average of each layer's batch statistics over the passes that ``task`` makes."""
    sums = {}

    def note(layer, given, out):
        flat = given[0].detach().transpose(0, 1).flatten(1)
        if not layer.training:
            return
        sums.setdefault(layer, []).append(torch.cat([flat.mean(1), flat.var(1)]))

    handles = [layer.register_forward_hook(note) for layer in layers_of(net)]
    net.train()
    for layer in layers_of(net):
        layer.momentum = 0.0  # what eval mode sees stays as it is
    for batch in batches:
        task(net, batch.images, batch.labels, plan.threat, batch.noise)
    for handle in handles:
        handle.remove()
    return torch.cat([torch.stack(sums[layer]).mean(0) for layer in layers_of(net)])


@pytest.mark.parametrize("task", [Standard(), FastAt(), Free(replays=2), Trades(steps=2)])
def test_statistics_are_plain_averages_over_the_tasks_own_passes(task, make_net, make_plan):
    """Attacked images where the task attacks, of the epoch after the last, whatever the statistics were before."""
    plan = make_plan(task=task)
    batches = [Batches(plan).of_epoch(plan.options.epochs, position) for position in range(plan.steps_per_epoch)]
    in_its_layout = make_net()
    lay_channels_last(in_its_layout)  # another layout rounds otherwise, and a sign may turn
    expected = averages(in_its_layout, plan, batches, task)
    net = make_net()
    if not isinstance(task, Trades):  # its attack sees the net in eval mode, all along with the statistics it had
        for layer in layers_of(net):
            layer.running_mean.fill_(100)
            layer.running_var.fill_(0.01)
    recalibrate(Training(net, None, plan))
    assert torch.allclose(running(net), expected, rtol=1e-4, atol=1e-5)


def test_nothing_else_changes(make_net, make_plan):
    net, other = make_net(), make_net()
    layers_of(net)[0].momentum = 0.3
    training = Training(net, None, make_plan())
    recalibrate(training)
    assert [layer.momentum for layer in layers_of(net)] == [0.3, *[0.1] * (len(layers_of(net)) - 1)]
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), other.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert training.step == 0


def test_settling_twice_gives_the_same(make_net, make_plan):
    """Dropout draws the same numbers then, whatever was drawn before."""
    net = make_net("dropout")
    training = Training(net, None, make_plan(seed=5))
    with torch.random.fork_rng(devices=[]):
        recalibrate(training)
        once = running(net)
        torch.manual_seed(9)
        recalibrate(training)
        assert torch.equal(running(net), once)


def test_large_sets_are_not_gone_through_whole(make_net, make_plan, monkeypatch):
    monkeypatch.setattr(bn_recalibration, "BATCHES", 2)
    plan = make_plan(task=Standard())
    batches = [Batches(plan).of_epoch(plan.options.epochs, position) for position in range(2)]
    expected = averages(make_net(), plan, batches, Standard())
    net = make_net()
    recalibrate(Training(net, None, plan))
    assert torch.allclose(running(net), expected, rtol=1e-4, atol=1e-5)
    assert {int(layer.num_batches_tracked) for layer in layers_of(net)} == {2}


def test_under_masks_the_masked_net_is_measured(make_pruning, make_plan):
    """A channel that is masked has nothing to normalise behind it; the dense net's statistics would be others."""
    net, pruning = make_pruning()
    pruning.after_step(1.0)
    plan = make_plan(task=Standard())
    batches = [Batches(plan).of_epoch(plan.options.epochs, position) for position in range(plan.steps_per_epoch)]
    recalibrate(Training(net, pruning, plan))
    settled, compact = running(net), pruning.compact()
    kept = running(compact)
    assert len(kept) < len(settled)
    assert torch.allclose(kept, averages(compact, plan, batches, Standard()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(settled, averages(net, plan, batches, Standard()), rtol=1e-2, atol=1e-2)


def test_a_signal_stops_the_settling_between_two_batches(make_net, make_plan, monkeypatch):
    monkeypatch.setattr(interrupts, "_received", [signal.SIGTERM])
    net = make_net()
    before = running(net)
    with pytest.raises(Interrupted):
        recalibrate(Training(net, None, make_plan()))
    assert torch.equal(running(net), before)


def test_a_net_without_statistics_is_left_alone(make_plan):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    recalibrate(Training(net, None, make_plan()))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.training
