"""BIM, MIM and DIM against their papers' loops, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.attacks.bim import Bim
from robustdeploy.attacks.dim import Dim, _Diverse
from robustdeploy.attacks.mim import Mim
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 5


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 64, 5)).double().eval()


@pytest.fixture(scope="module")
def batch(net):
    images = torch.randint(20, 236, (40, 1, 8, 8), generator=torch.Generator().manual_seed(1)).double() / 255
    return images, net(images).argmax(1)


def loop(net, images, labels, decay):
    """Dong et al., algorithm 1, on whole grey levels; without a decay the sum is the gradient, as in BIM."""
    attacked, total, fell = images.clone(), torch.zeros_like(images), torch.zeros(len(images), dtype=torch.bool)
    for _ in range(STEPS):
        leaf = attacked.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), labels, reduction="sum"), leaf)
        total = decay * total + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        stepped = (((attacked + ALPHA * total.sign()) * 255).round() / 255).clamp(images - EPS, images + EPS)
        attacked = torch.where(fell[:, None, None, None], attacked, stepped)
        fell |= net(attacked).argmax(1) != labels
    return fell


def fallen(attack, net, images, labels):
    found = attack(net, images, labels, Threat(eps=EPS), Noise(0, torch.arange(len(labels))))
    return net(found).argmax(1) != labels


@pytest.mark.parametrize(("attack", "decay"), [(Bim(STEPS, ALPHA), 0.0), (Mim(STEPS, ALPHA), 1.0)])
def test_the_same_images_fall_as_in_the_papers_loop(net, batch, attack, decay):
    images, labels = batch
    theirs = loop(net, images, labels, decay)
    assert 3 < theirs.sum() < 37
    assert torch.equal(fallen(attack, net, images, labels), theirs)


def test_with_nothing_shrunk_dim_is_mim(net, batch):
    images, labels = batch
    whole = Dim(STEPS, ALPHA, chance=1e-9)
    noise, threat = Noise(0, torch.arange(len(labels))), Threat(eps=EPS)
    assert torch.equal(whole(net, images, labels, threat, noise), Mim(STEPS, ALPHA)(net, images, labels, threat, noise))
    shrunk = Dim(STEPS, ALPHA, chance=1.0)(net, images, labels, threat, noise)
    assert not torch.equal(shrunk, whole(net, images, labels, threat, noise))


def test_an_image_is_shrunk_and_moved_as_asked():
    diverse = _Diverse(Noise(0, torch.arange(3)), chance=0.5, smallest=0.5)
    images = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    # The first stays; the second becomes half as large, at the lower right; the third too, at the upper left.
    drawn = torch.tensor([[0.6, 0.0, 0.0, 0.0], [0.4, 0.0, 1.0, 1.0], [0.4, 0.0, 0.0, 0.0]]).double()
    found = diverse.shrunk(images, drawn)
    assert torch.allclose(found[0], images[0])
    small = F.interpolate(images, size=(4, 4), mode="bilinear", align_corners=False)
    assert torch.allclose(found[1], F.pad(small[1], (4, 0, 4, 0)))
    assert torch.allclose(found[2], F.pad(small[2], (0, 4, 0, 4)))


def test_labels():
    assert [attack.label for attack in (Bim(), Mim(steps=20), Dim())] == ["bim-10", "mim-20", "dim-10"]
