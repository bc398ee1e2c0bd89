from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.core.registry import TASKS
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat
from robustdeploy.train.tasks.fastat import FastAt


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10)).train()


def batch(n=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, 8, 8, generator=generator)
    images[:, :, :2] = images[:, :, :2].round()  # black and white, where the box is cut
    return images, torch.arange(n) % 10, Noise(7, torch.arange(n))


class Seen(nn.Module):
    """Remembers what it is asked to score."""

    def __init__(self):
        super().__init__()
        self.inner = net()
        self.images = []

    def forward(self, images):
        self.images.append(images.detach().clone())
        return self.inner(images)


def papers_step(model, images, labels, eps, alpha, uniform):
    """Lines 4 to 10 of algorithm 3 and of the authors' train_fgsm.py (Wong, Rice and Kolter 2020), with their names."""
    lower_limit, upper_limit = 0.0, 1.0
    delta = uniform * 2 * eps - eps
    delta = torch.max(torch.min(delta, upper_limit - images), lower_limit - images)
    delta.requires_grad = True
    loss = F.cross_entropy(model(images + delta), labels)
    loss.backward()
    grad = delta.grad.detach()
    delta.data = torch.clamp(delta + alpha * torch.sign(grad), -eps, eps).detach()
    delta.data = torch.max(torch.min(delta, upper_limit - images), lower_limit - images)
    delta = delta.detach()
    model.zero_grad()
    return F.cross_entropy(model(images + delta), labels), images + delta


@pytest.mark.parametrize(("eps", "alpha"), [(8 / 255, None), (0.1, None), (8 / 255, 4 / 255)])
def test_it_is_the_papers_step(eps, alpha):
    images, labels, noise = batch()
    ours, theirs = Seen(), Seen()
    parts = FastAt(alpha)(ours, images, labels, Threat(eps=eps), noise)
    parts["loss"].backward()
    expected, attacked = papers_step(
        theirs, images, labels, eps, 1.25 * eps if alpha is None else alpha, noise.uniform(0, (3, 8, 8))
    )
    expected.backward()
    assert torch.allclose(ours.images[0], theirs.images[0], atol=1e-6)
    assert torch.allclose(ours.images[1], attacked, atol=1e-6)
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5), name
    assert torch.allclose(ours.inner[1].running_mean, theirs.inner[1].running_mean, atol=1e-6)


def test_it_stays_in_the_box_and_starts_everywhere_in_it():
    images, labels, noise = batch(200)
    model = Seen()
    FastAt()(model, images, labels, Threat(eps=0.1), noise)
    for scored in model.images:
        assert float((scored - images).abs().max()) <= 0.1 + 1e-6
        assert scored.min() >= 0
        assert scored.max() <= 1
    inner = (images > 0.1) & (images < 0.9)
    start = (model.images[0] - images)[inner] / 0.1
    assert float(start.mean().abs()) < 0.02
    assert float(start.var()) == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_gives_a_loss_and_leaves_the_rest_alone(name):
    images, labels, noise = batch()
    task, model, before = TASKS.build(name, {}), net(), images.clone()
    generator = torch.get_rng_state()
    parts = task(model, images, labels, Threat(eps=0.1), noise)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert all(part.dim() == 0 and torch.isfinite(part) for part in parts.values())
    parts["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    again = task(net(), images, labels, Threat(eps=0.1), Noise(7, torch.arange(16)))
    assert torch.equal(again["loss"], parts["loss"])


@pytest.mark.parametrize("alpha", [0, -0.1, 1.5])
def test_a_step_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be in"):
        FastAt(alpha)
