import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.evaluate.host import HostNet
from robustdeploy.onboard.types import Threat

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4)).astype(np.uint8)
LABELS = np.arange(30) % 3
IDS = np.arange(30)


class Plain(nn.Module):
    """A linear net; its weights are no parameters, so that a change of precision does not reach them."""

    def __init__(self, change=lambda images: images, factor=1.0):
        super().__init__()
        self.weights = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        self.change, self.factor = change, factor

    def forward(self, images):
        return self.change(images).flatten(1) @ self.weights * self.factor


def host(net):
    net = net.eval()
    return HostNet(net, torch.device("cpu"), net)


def test_an_honest_net_has_gradients_everywhere():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    for net in (linear, Plain()):
        assert host(net).zero_gradients(IMAGES, LABELS) == 0
        assert host(net).lost_gradients(IMAGES, LABELS) == 0


@pytest.mark.parametrize("change", [torch.round, torch.Tensor.detach, lambda x: (x > 0.5).float()])
def test_gradients_that_were_cut_are_counted_and_attacks_still_answer(change):
    there = host(Plain(change))
    assert there.zero_gradients(IMAGES, LABELS) == len(IMAGES)
    assert there.lost_gradients(IMAGES, LABELS) == len(IMAGES)
    for attack in (Fgsm(), Pgd(steps=2)):
        found = there.attack(attack, IMAGES, LABELS, Threat("linf", 0.1), 1, IDS)
        assert found.shape == IMAGES.shape


def test_saturated_scores_keep_the_margins_gradient_and_lose_the_losss():
    right = host(Plain()).score(IMAGES).argmax(1)
    there = host(Plain(factor=1e6))
    assert there.zero_gradients(IMAGES, right) == 0
    assert there.lost_gradients(IMAGES, right) > 0.8 * len(IMAGES)


def test_scores_do_not_depend_on_the_batch():
    there = host(Plain())
    np.testing.assert_allclose(there.score(IMAGES, batch=7), there.score(IMAGES), atol=1e-5)
    np.testing.assert_allclose(there(IMAGES.astype(np.float32) / 255), there.score(IMAGES), atol=1e-5)
