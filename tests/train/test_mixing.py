from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.train.mixing import accuracy, both, check_share, mixed


def make(norm=nn.BatchNorm1d):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), norm(8), nn.ReLU(), nn.Linear(8, 10)).train()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images, other = (torch.rand(24, 3, 2, 2, generator=generator) for _ in range(2))
    return other, images, torch.arange(24) % 10


@pytest.mark.parametrize("clean", [0.0, 0.25, 0.9])
def test_the_loss_is_the_weighted_sum_of_both(clean, data):
    """Without batch normalisation one pass over both is two passes."""
    attacked, images, labels = data
    ours, theirs = make(nn.Identity), make(nn.Identity)
    mixed(ours, attacked, images, labels, clean)["loss"].backward()
    parts = mixed(ours, attacked, images, labels, clean)
    expected = (1 - clean) * F.cross_entropy(theirs(attacked), labels) + clean * F.cross_entropy(theirs(images), labels)
    expected.backward()
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
    assert parts["accuracy"].item() == (theirs(attacked).argmax(1) == labels).float().mean().item()
    if clean:
        assert parts["clean_accuracy"].item() == (theirs(images).argmax(1) == labels).float().mean().item()


def test_batch_normalisation_sees_one_batch_of_both(data):
    attacked, images, labels = data
    net = make()
    hidden = net[1](torch.cat([attacked, images]).flatten(1))
    mixed(net, attacked, images, labels, 0.5)
    assert int(net[2].num_batches_tracked) == 1
    assert torch.allclose(net[2].running_mean, 0.1 * hidden.mean(0), atol=1e-6)


def test_without_a_share_no_clean_image_touches_the_net(data):
    attacked, images, labels = data
    one, other = make(), make()
    parts = mixed(one, attacked, images, labels, 0.0)
    assert torch.equal(parts["loss"], F.cross_entropy(other(attacked), labels))
    assert torch.equal(one[2].running_mean, other[2].running_mean)


def test_both_gives_each_its_own_scores(data):
    attacked, images, _labels = data
    net = make().eval()
    scores, on_clean = both(net, attacked, images)
    assert torch.allclose(scores, net(attacked), atol=1e-6)
    assert torch.allclose(on_clean, net(images), atol=1e-6)


def test_accuracy_counts_the_best_scores():
    scores = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0], [1.0, 0.0]], requires_grad=True)
    found = accuracy(scores, torch.tensor([0, 1, 0, 1]))
    assert found.item() == 0.5
    assert not found.requires_grad


@pytest.mark.parametrize("clean", [0.0, 0.5, 0.999])
def test_a_share_below_one_is_accepted(clean):
    check_share(clean)


@pytest.mark.parametrize("clean", [1.0, -0.01, 2, float("nan")])
def test_a_share_that_leaves_nothing_to_the_attack_is_refused(clean):
    with pytest.raises(ValueError, match=r"clean must be in \[0, 1\), not"):
        check_share(clean)
