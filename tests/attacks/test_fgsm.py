from __future__ import annotations

import torch
from torch import nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


def test_it_is_one_full_step_along_the_sign():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    images = torch.randint(30, 226, (4, 3, 2, 2)) / 255  # far from black and white, so the step is whole
    labels = torch.arange(4)
    leaf = images.clone().requires_grad_()
    nn.functional.cross_entropy(net(leaf), labels).backward()
    found = Fgsm()(net, images, labels, Threat(eps=10 / 255), Noise(0, labels))
    assert torch.equal((255 * (found - images)).round(), 10 * leaf.grad.sign())


def test_a_pixel_without_a_gradient_stays():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    nn.init.zeros_(net[1].weight)
    images = torch.full((2, 3, 2, 2), 100 / 255)
    assert torch.equal(Fgsm()(net, images, torch.tensor([0, 1]), Threat(eps=0.1), Noise(0, torch.arange(2))), images)


def test_its_label():
    assert Fgsm().label == "fgsm"
