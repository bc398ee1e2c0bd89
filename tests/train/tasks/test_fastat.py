from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robustdeploy.onboard.types import Threat
from robustdeploy.train.tasks.fastat import FastAt


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
def test_it_is_the_papers_step(eps, alpha, seen, plain_net, batch):
    images, labels, noise = batch()
    ours, theirs = seen(plain_net()), seen(plain_net())
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


def test_it_starts_everywhere_in_the_ball(seen, plain_net, batch):
    images, labels, noise = batch(200)
    model = seen(plain_net())
    FastAt()(model, images, labels, Threat(eps=0.1), noise)
    inner = (images > 0.1) & (images < 0.9)
    start = (model.images[0] - images)[inner] / 0.1
    assert float(start.mean().abs()) < 0.02
    assert float(start.var()) == pytest.approx(1 / 3, rel=0.05)
