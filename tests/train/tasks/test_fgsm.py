from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.tasks.fgsm import FgsmAt


def test_it_is_the_plain_fast_gradient_sign(seen, plain_net, batch):
    images, labels, noise = batch()
    net = seen(plain_net())
    FgsmAt()(net, images, labels, Threat(eps=0.05), noise)
    leaf = images.clone().requires_grad_()
    F.cross_entropy(plain_net()(leaf), labels).backward()
    assert torch.equal(net.images[0], images)
    assert torch.allclose(net.images[1], (images + 0.05 * leaf.grad.sign()).clamp(0, 1), atol=1e-6)


def test_drawn_lengths_are_a_normal_cut_at_two_deviations():
    """Kurakin et al. 2017 train with eps from a normal of half the largest, cut there; Wang et al. 2018 do as well."""
    noise = Noise(3, torch.arange(20_000))
    lengths = 0.3 * FgsmAt("truncated-normal")._lengths(torch.zeros(20_000, 1, 1, 1), noise).flatten()
    whole = stats.truncnorm(-2, 2, scale=0.15)
    found = stats.kstest(lengths.numpy(), lambda x: 2 * whole.cdf(x) - 1)
    assert found.pvalue > 0.01
    assert 0 <= lengths.min() < 1e-4
    assert 0.299 < lengths.max() <= 0.3
    # A normal that is clipped there instead would have 4.6 % of its images at the largest eps.
    assert float((lengths > 0.2999).float().mean()) < 1e-3


def test_each_image_has_a_length_of_its_own(seen, plain_net, batch):
    images, labels, noise = batch(40)
    images = images * 0.4 + 0.3  # no pixel meets the edge of the box
    net = seen(plain_net())
    FgsmAt("truncated-normal")(net, images, labels, Threat(eps=0.1), noise)
    way = (net.images[1] - images).abs().flatten(1)
    lengths = 0.1 * FgsmAt("truncated-normal")._lengths(images, noise).flatten()
    assert torch.allclose(way.amax(1), lengths, atol=1e-6)
    assert lengths.unique().numel() == 40


@pytest.mark.parametrize("clean", [0.0, 1 / 3])
def test_clean_images_are_mixed_in(clean, seen, plain_net, batch):
    images, labels, noise = batch()
    net = seen(plain_net())
    parts = FgsmAt(clean=clean)(net, images, labels, Threat(eps=0.05), noise)
    assert len(net.images[-1]) == (2 if clean else 1) * len(images)
    assert ("clean_accuracy" in parts) == bool(clean)
