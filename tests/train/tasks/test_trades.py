from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.onboard.types import Threat
from robustdeploy.train.tasks.trades import START, Trades, divergence

RANDOM_STARTS = "art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch.random_sphere"


def warmed(net, images):
    """Give batch normalisation the statistics of some images, so that eval mode is not training mode."""
    net(images)
    return net


class FromOpinion(nn.Module):
    """KL(targets ‖ softmax of the scores), for a toolbox that takes a loss of scores and targets."""

    def forward(self, scores, targets):
        return F.kl_div(F.log_softmax(scores, 1), targets, reduction="batchmean")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("eps", "steps", "alpha"), [(8 / 255, 10, None), (0.1, 3, 0.08)])
def test_its_attack_goes_where_the_adversarial_robustness_toolbox_goes(
    eps, steps, alpha, seen, plain_net, batch, monkeypatch
):
    """The toolbox's PGD, given the KL for a loss and the clean opinion for a target, from the same start."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    images, labels, noise = batch(40)
    start = START * 3**0.5 * (2 * noise.uniform(0, (3, 8, 8)) - 1)
    monkeypatch.setattr(RANDOM_STARTS, lambda *_: start.flatten(1).numpy())
    net = warmed(plain_net(), images)
    opinion = F.softmax(net.eval()(images), 1).detach().numpy()
    classifier = PyTorchClassifier(
        model=net, loss=FromOpinion(), input_shape=(3, 8, 8), nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    theirs = ProjectedGradientDescent(
        classifier,
        eps=eps,
        eps_step=eps / 4 if alpha is None else alpha,
        max_iter=steps,
        num_random_init=1,
        batch_size=40,
        verbose=False,
    ).generate(images.numpy(), opinion)
    ours = seen(warmed(plain_net(), images))
    Trades(steps=steps, alpha=alpha)(ours, images, labels, Threat(eps=eps), noise)
    attacked = ours.images[-1][:40].numpy()
    assert np.abs(attacked - images.numpy()).mean() > eps / 3
    assert (
        np.mean(np.abs(attacked - theirs) > 1e-6) < 0.01
    )  # near the start slopes are differences of almost equal numbers


def papers_loss(scores, on_clean, labels, beta):
    """Equation 5 of Zhang et al. (2019) as their code has it, the KL written out."""
    p, q = F.softmax(on_clean, 1), F.softmax(scores, 1)
    kl = (p * (p.log() - q.log())).sum() / len(labels)
    return F.cross_entropy(on_clean, labels) + beta * kl


@pytest.mark.parametrize("beta", [6.0, 1.0])
def test_its_loss_is_the_papers(beta, seen, plain_net, batch):
    """Without batch normalisation clean and attacked images may as well be scored one after the other, as there."""
    images, labels, noise = batch()
    ours, theirs = seen(plain_net(nn.Identity)), plain_net(nn.Identity)
    parts = Trades(beta=beta)(ours, images, labels, Threat(eps=0.1), noise)
    parts["loss"].backward()
    scores, on_clean = theirs(ours.images[-1][:16]), theirs(images)
    expected = papers_loss(scores, on_clean, labels, beta)
    expected.backward()
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["accuracy"].item() == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    assert parts["clean_accuracy"].item() == pytest.approx((on_clean.argmax(1) == labels).float().mean().item())
    for (name, one), (_, other) in zip(ours.inner.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name


def test_the_attack_sees_eval_mode_and_the_loss_training_mode(seen, plain_net, batch):
    net, (images, labels, noise) = seen(plain_net()), batch()
    net.inner[2].eval()
    Trades(steps=4)(net, images, labels, Threat(eps=0.1), noise)
    assert net.modes == [False] * 5 + [True]
    assert not net.inner[2].training
    assert int(net.inner[1].num_batches_tracked) == 1
    assert torch.equal(net.images[0], images)
    assert len(net.images[-1]) == 2 * len(images)


def test_it_starts_close_to_the_image(seen, plain_net, batch):
    net, (images, labels, noise) = seen(plain_net()), batch(100)
    Trades(steps=1)(net, images, labels, Threat(eps=0.1), noise)
    inner = (images > 0.1) & (images < 0.9)
    start = (net.images[1] - images)[inner]
    assert float(start.std()) == pytest.approx(START, rel=0.02)
    assert abs(float(start.mean())) < 0.05 * START


def test_the_divergence_is_that_of_the_distributions():
    generator = torch.Generator().manual_seed(0)
    scores, others = (torch.randn(5, 10, generator=generator) for _ in range(2))
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(logits=others), categorical(logits=scores)).sum()
    assert divergence(scores, others).item() == pytest.approx(expected.item(), rel=1e-5)
    assert divergence(scores, scores).item() == 0


def test_a_net_that_is_very_sure_has_finite_slopes():
    scores = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    others = torch.tensor([[-300.0, 0.0, 300.0]], requires_grad=True)
    value = divergence(scores, others)
    value.backward()
    assert value.item() == pytest.approx(600)
    assert torch.isfinite(scores.grad).all()
    assert torch.isfinite(others.grad).all()
