"""RFGS: a random corner, and what is left of eps along the sign of the gradient there."""

import pytest
import torch
from torch import nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.rfgs import Rfgs
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


@pytest.fixture
def linear():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(300, 2))
    images = torch.randint(30, 226, (8, 3, 10, 10)) / 255  # far from black and white, so both steps are whole
    return net, images, net(images).argmax(1)


@pytest.mark.parametrize(("alpha", "random"), [(None, 5), (3 / 255, 3), (0.4 / 255, 0), (1.0, 10)])
def test_both_steps_are_whole_levels_and_together_eps(linear, alpha, random):
    net, images, labels = linear
    found = Rfgs(alpha=alpha)(net, images, labels, Threat(eps=10 / 255), Noise(0, labels))
    moved = (255 * (found - images)).round()
    leaf = images.clone().requires_grad_()
    nn.functional.cross_entropy(net(leaf), labels).backward()
    # A linear net of two classes has one direction, wherever its gradient is taken.
    drawn = moved - (10 - random) * leaf.grad.sign()
    assert set(drawn.unique().tolist()) <= {-float(random), float(random)}
    if random:
        assert 0.4 < (drawn > 0).float().mean() < 0.6
    else:
        assert torch.equal(found, Fgsm()(net, images, labels, Threat(eps=10 / 255), Noise(0, labels)))


def test_an_image_does_not_depend_on_those_beside_it(linear):
    net, images, labels = linear
    together = Rfgs()(net, images, labels, Threat(eps=0.1), Noise(3, torch.arange(8)))
    alone = Rfgs()(net, images[5:6], labels[5:6], Threat(eps=0.1), Noise(3, torch.tensor([5])))
    assert torch.equal(together[5:6], alone)


def test_it_leads_the_label_astray(linear):
    net, images, labels = linear
    found = Rfgs()(net, images, labels, Threat(eps=0.2), Noise(3, torch.arange(8)))
    assert (net(found).argmax(1) == labels).float().mean() < 0.5
    assert Rfgs().label == "rfgs"
