from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.prune.compact import PROOF_TOLERANCE, compact_net, prove_equal
from robustdeploy.prune.rehearsal import find_groups


def some_channels(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in groups:
        count = int(torch.randint(1, group.size + 1, (1,), generator=generator))
        kept[group.name] = torch.randperm(group.size, generator=generator)[:count].sort().values
    return kept


def randomised(net, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return net


def test_the_net_itself_is_left_alone_and_all_channels_make_a_copy(subject, coupling):
    net = subject.net()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    images = torch.rand(2, *subject.shape)
    same = compact_net(net, coupling.groups, {g.name: torch.arange(g.size) for g in coupling.groups})
    compact_net(net, coupling.groups, some_channels(coupling.groups))
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    with torch.no_grad():
        assert torch.equal(same(images), net(images))


def test_what_remains_is_what_torch_pruning_would_leave(subject, coupling):
    """The oracle removes the same channels with its own code, one group after the other."""
    import torch_pruning

    net = randomised(subject.net())
    if subject.name == "grouped":
        pytest.skip("the oracle prunes no convolution in groups; test_rehearsal holds that one")
    if any(isinstance(module, ChannelPad) for module in net.modules()):
        with pytest.raises(AttributeError):  # the oracle knows no channel pad; tests/nets holds that one
            torch_pruning.prune_conv_out_channels(next(m for m in net.modules() if isinstance(m, ChannelPad)), [0])
        return
    kept = some_channels(coupling.groups)
    ours = compact_net(net, coupling.groups, kept)
    theirs = copy.deepcopy(net)
    remove = {
        nn.Conv2d: torch_pruning.prune_conv_out_channels,
        nn.Linear: torch_pruning.prune_linear_out_channels,
    }
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, torch.zeros(2, *subject.shape), verbose=False)
    for group in coupling.groups:
        gone = sorted(set(range(group.size)) - set(kept[group.name].tolist()))
        root = theirs.get_submodule(group.name)
        if gone:
            prune = torch_pruning.prune_depthwise_conv_out_channels if _depthwise(root) else remove[type(root)]
            graph.get_pruning_group(root, prune, idxs=gone).prune()
    expected, found = theirs.state_dict(), ours.state_dict()
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in expected.items()}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def _depthwise(module):
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


class Renamed(nn.Module):
    """One layer under two names; the second is the one that runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = self.first
        self.out = nn.Linear(8, 10)

    def forward(self, images):
        return self.out(torch.relu(self.second(images)).mean((2, 3)))


def test_a_layer_of_two_names_stays_one_layer():
    net = Renamed()
    (group,) = find_groups(net, (3, 8, 8)).groups
    small = compact_net(net, [group], {group.name: torch.tensor([1, 4, 5])})
    assert small.first is small.second
    assert small(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_a_smaller_net_shares_no_number_with_the_dense_one(subject, coupling):
    net = subject.net()
    small = compact_net(net, coupling.groups, some_channels(coupling.groups))
    dense = {tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers()) if tensor.numel()}
    assert not dense & {tensor.data_ptr() for tensor in (*small.parameters(), *small.buffers()) if tensor.numel()}
    assert not set(net.modules()) & set(small.modules())


class Held(nn.Module):
    """A layer that another part holds too, not as one of its modules."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.calls = [self.first]
        self.out = nn.Linear(8, 10)

    def forward(self, images):
        return self.out(torch.relu(self.calls[0](images)).mean((2, 3)))


def test_a_layer_that_a_list_holds_becomes_smaller_there_too():
    net = Held()
    (group,) = find_groups(net, (3, 8, 8)).groups
    small = compact_net(net, [group], {group.name: torch.tensor([1, 4, 5])})
    assert small.calls[0] is small.first
    assert small(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_the_proof_refuses_any_larger_gap():
    def constant(value):
        layer = nn.Linear(1, 1)
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)
        return layer

    images = torch.rand(5, 1)
    proof = prove_equal(constant(0.0), constant(0.5 * PROOF_TOLERANCE), images, images)
    assert (proof.n, proof.tolerance) == (5, 1e-5)
    assert 0 < proof.clean == proof.adversarial < PROOF_TOLERANCE
    with pytest.raises(TrainingError, match="changed the scores by 2e-05, more than 1e-05"):
        prove_equal(constant(0.0), constant(2 * PROOF_TOLERANCE), images, images)
    with pytest.raises(TrainingError, match="nan"):
        prove_equal(constant(0.0), constant(float("nan")), images, images)


def test_a_gap_on_adversarial_images_alone_is_refused():
    net = nn.Linear(1, 1, bias=False)
    other = copy.deepcopy(net)
    nn.init.constant_(other.weight, net.weight.item() + 1)
    zeros = torch.zeros(3, 1)
    assert prove_equal(net, other, zeros, zeros).clean == 0
    with pytest.raises(TrainingError):
        prove_equal(net, other, zeros, torch.ones(3, 1))
    with pytest.raises(TrainingError, match="nan"):
        prove_equal(net, copy.deepcopy(net), zeros, torch.full((3, 1), float("nan")))
