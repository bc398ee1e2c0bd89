"""Paths: flat losses and wrong points inside FGSM's step, on nets of which both are known."""

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.data.noise import Noise
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.paths import paths
from robustdeploy.onboard.types import Threat

IMAGES = torch.full((6, 1, 2, 2), 128 / 255)
LABELS = torch.zeros(6, dtype=torch.int64)
THREAT = Threat("linf", 16 / 255)


class OfBrightness(nn.Module):
    """Scores by the mean grey level above 128 alone."""

    def __init__(self, lead, straight=True):
        super().__init__()
        self.lead, self.straight = lead, straight

    def forward(self, images):
        above = (images * 255 - 128).flatten(1).mean(1)
        lead = self.lead(above)
        if self.straight:  # the gradient of something that falls with brightness
            lead = -above / 5 + (lead + above / 5).detach()
        return torch.stack([lead, torch.zeros_like(lead)], 1)


def found(lead, straight=True):
    net = OfBrightness(lead, straight).eval()
    return paths(net, net, IMAGES, LABELS, THREAT, Noise(1, torch.arange(6)))


def test_on_an_honest_net_the_loss_rises_and_nothing_lies_inside():
    made = found(lambda above: (40 - above) / 5, straight=False)
    assert not made.flat.any()
    assert not made.inner.any()


def test_a_gradient_of_the_wrong_sign_makes_the_loss_rise_nowhere():
    assert found(lambda above: (40 + above) / 5).flat.all()
    assert found(lambda above: torch.round(above / 100) + 8, straight=False).flat.all()


def test_an_image_that_is_wrong_only_on_the_way_is_found():
    """Right at the ends of the step, wrong around its middle: what catastrophic overfitting leaves (Kim et al.)."""
    assert found(lambda above: (above - 8).abs() - 2).inner.all()
    # Beyond the end nobody looks, and an image that is wrong from the start is no sign.
    assert not found(lambda above: (above - 40).abs() - 2).inner.any()
    assert not found(lambda above: -1 - above).inner.any()


class Root(nn.Module):
    """A root of what is 0 at the image: its derivative there is infinite, and a product with 0 is NaN."""

    def forward(self, images):
        size = (images - images.detach()).abs().flatten(1).sum(1).sqrt()
        return torch.stack([1 - size, size], 1)


def test_gradients_that_are_not_finite_are_counted_and_images_stay_images():
    net = Root().eval()
    host = HostNet(net, torch.device("cpu"), net)
    images, labels = np.full((6, 1, 2, 2), 128, np.uint8), np.zeros(6, np.int64)
    assert host.lost_gradients(images, labels) == (0, 6)
    from robustdeploy.attacks.fgsm import Fgsm

    made = host.attack(Fgsm(), images, labels, THREAT, 1, np.arange(6))
    assert made.dtype == np.uint8


@pytest.mark.parametrize(("proposed", "lost"), [(130.4, True), (130.6, False), (129.0, False)])
def test_what_falls_between_grey_levels_alone_is_counted(proposed, lost):
    net = OfBrightness(lambda above: 2.2 - above).eval()  # wrong above 130.2
    host = HostNet(net, torch.device("cpu"), net)
    images = np.full((6, 1, 2, 2), proposed / 255, np.float32)
    assert (host.lost_to_rounding(images, host.rounded(images), np.zeros(6, np.int64)) == lost).all()
