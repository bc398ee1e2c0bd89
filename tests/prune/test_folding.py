"""Folding: what carries masks is multiplied by its own, wherever it is one channel's."""

import torch

from robustdeploy.prune.folding import Folding
from robustdeploy.prune.rehearsal import find_groups


def random_masks(groups):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(group.size, generator=generator, requires_grad=True) for group in groups]


def one_by_one(net, groups, masks):
    """The same products, a member of a group at a time."""
    tensors, found = {**dict(net.named_parameters()), **dict(net.named_buffers())}, {}
    for group, mask in zip(groups, masks, strict=True):
        for member in group.members:
            for name in (f"{member.layer}.{kind}" for kind in ("weight", "bias", "gain")):
                if member.masked and name in tensors and (member.side == "out" or tensors[name].dim() > 1):
                    scaled = found.setdefault(name, tensors[name].detach().clone())
                    scaled = scaled if member.side == "out" else scaled.transpose(0, 1)
                    factor = mask.detach()[member.channels].view(-1, *[1] * (scaled.dim() - 1))
                    scaled[member.positions] *= factor
    return found


def test_every_channel_is_multiplied_by_its_own_mask(subject, coupling):
    net, masks = subject.net(), random_masks(coupling.groups)
    folded, expected = Folding(net, coupling.groups).folded(masks), one_by_one(net, coupling.groups, masks)
    assert folded.keys() == expected.keys()
    for name, value in folded.items():
        assert torch.equal(value, expected[name]), name
    sum(value.square().sum() for value in folded.values()).backward()
    assert all(mask.grad is not None and bool(mask.grad.any()) for mask in masks)


def test_the_values_are_those_that_the_net_has_now(users):
    """Optimisers and load_state_dict change them in place; ``to`` may put others in their place."""
    net = users["dense"](10, 3)
    groups = find_groups(net, (3, 12, 12)).groups
    folding, masks = Folding(net, groups), random_masks(groups)
    net.to(torch.float64).load_state_dict(users["dense"](10, 3).state_dict())
    folded, expected = folding.folded([mask.double() for mask in masks]), one_by_one(net, groups, masks)
    assert all(torch.equal(value, expected[name]) for name, value in folded.items())
