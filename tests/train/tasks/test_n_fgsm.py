from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robustdeploy.onboard.types import Threat
from robustdeploy.train.tasks.n_fgsm import NFgsm


def papers_step(model, images, labels, eps, k, alpha, uniform):
    """Algorithm 1 of de Jorge et al. (2022): augment with noise, step from there, clip nothing but to valid pixels."""
    eta = -k * eps + 2 * k * eps * uniform
    augmented = torch.clamp(images + eta, 0, 1).requires_grad_()
    F.cross_entropy(model(augmented), labels).backward()
    model.zero_grad()
    attacked = torch.clamp(augmented.detach() + alpha * augmented.grad.sign(), 0, 1)
    return F.cross_entropy(model(attacked), labels), attacked


@pytest.mark.parametrize(("options", "k", "alpha"), [({}, 2, 0.05), ({"noise": 0.5, "alpha": 0.02}, 0.5, 0.02)])
def test_it_is_the_papers_step(options, k, alpha, seen, plain_net, batch):
    images, labels, noise = batch()
    ours, theirs = seen(plain_net()), seen(plain_net())
    parts = NFgsm(**options)(ours, images, labels, Threat(eps=0.05), noise)
    parts["loss"].backward()
    expected, attacked = papers_step(theirs, images, labels, 0.05, k, alpha, noise.uniform(0, (3, 8, 8)))
    expected.backward()
    assert torch.allclose(ours.images[1], attacked, atol=1e-6)
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5), name
    assert torch.allclose(ours.inner[1].running_mean, theirs.inner[1].running_mean, atol=1e-6)


def test_it_leaves_the_ball(seen, plain_net, batch):
    images, labels, noise = batch(100)
    model = seen(plain_net())
    NFgsm()(model, images, labels, Threat(eps=0.05), noise)
    inner = (images > 0.15) & (images < 0.85)
    start, end = ((fed - images)[inner] / 0.05 for fed in model.images)
    assert float(start.abs().max()) == pytest.approx(2, abs=0.01)
    assert float(start.var()) == pytest.approx(4 / 3, rel=0.05)
    assert float(end.abs().max()) > 2.9
    assert float((end.abs() > 1).float().mean()) > 0.4


def test_without_noise_it_is_the_plain_fast_gradient_sign(seen, plain_net, batch):
    images, labels, noise = batch()
    model = seen(plain_net())
    NFgsm(noise=0)(model, images, labels, Threat(eps=0.05), noise)
    leaf = images.clone().requires_grad_()
    F.cross_entropy(plain_net()(leaf), labels).backward()
    assert torch.equal(model.images[0], images)
    assert torch.allclose(model.images[1], (images + 0.05 * leaf.grad.sign()).clamp(0, 1), atol=1e-6)
