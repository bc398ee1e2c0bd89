from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.apgd import Apgd, _checkpoints
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.attacks.protocol import to_grey_levels
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

MARGIN = 0.008
"""Robust accuracy may not be higher than the other implementation's by more than this: 2 of 256 images."""


def standing(net, images, labels):
    with torch.no_grad():
        return net(images).argmax(1) == labels


def found_by(attack, net, held_out, eps):
    images, labels = held_out
    return attack(net, images, labels, Threat(eps=eps), Noise(0, torch.arange(len(labels))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("loss", "theirs"), [("cross-entropy", "cross_entropy"), ("dlr", "difference_logits_ratio")])
def test_as_strong_as_the_adversarial_robustness_toolbox(trained, held_out, art_classifier, loss, theirs):
    from art.attacks.evasion import AutoProjectedGradientDescent

    images, labels = held_out
    eps = 28 / 255
    classifier = art_classifier(trained)
    np.random.seed(0)
    attack = AutoProjectedGradientDescent(
        classifier,
        eps=eps,
        eps_step=2 * eps,
        max_iter=30,
        nb_random_init=1,
        loss_type=theirs,
        batch_size=256,
        verbose=False,
    )
    reference = standing(trained.eval(), torch.from_numpy(attack.generate(images.numpy(), labels.numpy())), labels)
    trained.eval()
    mine = standing(trained, found_by(Apgd(steps=30, loss=loss), trained, held_out, eps), labels)
    assert 0.1 < float(reference.float().mean()) < 0.9
    assert float(mine.float().mean()) <= float(reference.float().mean()) + MARGIN


@pytest.mark.slow
def test_towards_each_class_it_breaks_what_other_attacks_break(trained, held_out):
    held_out = tuple(each[:96] for each in held_out)
    _, labels = held_out
    eps = 28 / 255
    pgd, untargeted, targeted = (
        standing(trained, found_by(attack, trained, held_out, eps), labels)
        for attack in (Pgd(20, restarts=2), Apgd(steps=30, loss="dlr"), Apgd(steps=30, loss="dlr", targets=9))
    )
    assert targeted.sum() <= untargeted.sum()
    # An image that plain steps break is broken by these as well.
    assert (targeted & ~pgd).sum() == 0


class Falling(nn.Module):
    """Wrong at almost all places, and right at whole grey levels alone."""

    def forward(self, images):
        levels = images.flatten(1) * 255
        away = (levels - levels.round()).abs().amax(1)
        return torch.stack([0.01 - away, away - 0.01 + 0 * levels.sum(1), -torch.ones_like(away)], 1)


def test_what_is_misclassified_between_grey_levels_alone_is_not_counted_as_fallen():
    images, labels = torch.full((3, 1, 4, 4), 100 / 255), torch.zeros(3, dtype=torch.int64)
    net = Falling()
    found = Apgd(steps=10)(net, images, labels, Threat(eps=4 / 255), Noise(0, torch.arange(3)))
    assert torch.equal(found, to_grey_levels(found))
    assert standing(net, found, labels).all()


def test_checkpoints_are_those_of_the_paper():
    assert _checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert _checkpoints(1) == {1: 1}


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "apgd-100"),
        ({"steps": 20, "restarts": 5}, "apgd-20-5"),
        ({"loss": "dlr", "targets": 9}, "apgd-100-dlr-t9"),
    ],
)
def test_its_label(options, label):
    assert Apgd(**options).label == label
