"""Gates: what is multiplied, in which images, and for how long."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustdeploy.errors import TrainingError
from robustdeploy.prune.folding import Folding
from robustdeploy.prune.gates import Gates, draws, versions
from robustdeploy.prune.rehearsal import find_groups


@pytest.mark.alike(8)
def test_factors_alike_for_all_images_are_what_is_folded_into_the_parameters(subject):
    """On every net: a table of equal rows is one mask, and one mask can be folded."""
    net = subject.net()
    groups = find_groups(net, subject.shape).groups
    folding, generator = Folding(net, groups), torch.Generator().manual_seed(0)
    masks = [torch.rand(group.size, generator=generator) for group in groups]
    images = torch.rand(3, *subject.shape, generator=generator)
    with torch.no_grad():
        folded = torch.func.functional_call(net, folding.folded(masks), (images,), tie_weights=False)
        with Gates(net, folding.carriers).multiplying([mask.expand(3, -1) for mask in masks]):
            gated = net(images)
        plain = net(images)
    assert torch.allclose(gated, folded, atol=1e-4 * float(folded.abs().max()), rtol=1e-4)
    assert (plain - folded).abs().max() > 1e-3 * plain.abs().max()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


def test_each_image_has_its_own_and_its_versions_have_the_same(net):
    carriers = Folding(net, find_groups(net, (1, 8, 8)).groups).carriers
    factors = [torch.rand(3, size, generator=torch.Generator().manual_seed(size)) for size in (4, 6)]
    sizes = [group.size for group in find_groups(net, (1, 8, 8)).groups]
    factors = [next(f for f in factors if f.shape[1] == size) for size in sizes]
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad(), Gates(net, carriers).multiplying(factors):
        twice = net(torch.cat([images, images]))
    assert torch.equal(twice[:3], twice[3:])
    for i in range(3):
        with torch.no_grad(), Gates(net, carriers).multiplying([factor[i : i + 1] for factor in factors]):
            assert torch.allclose(net(images[i : i + 1]), twice[i : i + 1], atol=1e-6)
    with Gates(net, carriers).multiplying(factors), pytest.raises(TrainingError, match="3 images become 4"):
        net(torch.rand(4, 1, 8, 8))


def test_a_batch_of_versions_is_drawn_for_its_images():
    assert draws(8) == 8
    with versions(4):
        assert (draws(8), draws(4), draws(6)) == (4, 4, 6)
    assert draws(8) == 8


def test_nothing_is_multiplied_behind_the_block_not_even_after_an_error(net):
    carriers = Folding(net, find_groups(net, (1, 8, 8)).groups).carriers
    images = torch.rand(2, 1, 8, 8)
    before = net(images)
    with pytest.raises(ValueError, match="stop"), Gates(net, carriers).multiplying([torch.zeros(2, 6)] * 2):
        raise ValueError("stop")
    assert torch.equal(net(images), before)
