from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from robustdeploy.onboard.types import Threat
from robustdeploy.train.tasks.pgd import PgdAt

RANDOM_STARTS = "art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch.random_sphere"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("eps", "steps", "alpha"), [(8 / 255, 7, None), (0.1, 3, 0.08)])
def test_it_goes_where_the_adversarial_robustness_toolbox_goes(eps, steps, alpha, seen, plain_net, batch, monkeypatch):
    """From the same start; on a net without batch normalisation, since the toolbox attacks in eval mode."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    images, labels, noise = batch(40)
    start = eps * (2 * noise.uniform(0, (3, 8, 8)) - 1)
    monkeypatch.setattr(RANDOM_STARTS, lambda *_: start.flatten(1).numpy())
    classifier = PyTorchClassifier(
        model=plain_net(nn.Identity),
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    theirs = ProjectedGradientDescent(
        classifier,
        eps=eps,
        eps_step=eps / 4 if alpha is None else alpha,
        max_iter=steps,
        num_random_init=1,
        batch_size=40,
        verbose=False,
    ).generate(images.numpy(), labels.numpy())
    net = seen(plain_net(nn.Identity))
    PgdAt(steps, alpha)(net, images, labels, Threat(eps=eps), noise)
    assert len(net.images) == steps + 1
    assert np.abs(net.images[-1].numpy() - theirs).max() <= 1e-6


def test_more_steps_find_more_loss(plain_net, batch):
    images, labels, noise = batch(64)
    losses = [
        PgdAt(steps)(plain_net(nn.Identity), images, labels, Threat(eps=0.1), noise)["loss"].item()
        for steps in (1, 3, 7, 20)
    ]
    assert losses == sorted(losses)


def test_all_passes_are_in_training_mode(seen, plain_net, batch):
    net = seen(plain_net())
    PgdAt(5)(net, *batch()[:2], Threat(eps=0.1), batch()[2])
    assert net.modes == [True] * 6
    assert int(net.inner[1].num_batches_tracked) == 6
