from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

MARGIN = 0.015
"""Robust accuracy may not be higher than the other implementation's by more than this."""


def accuracy(net, images, labels):
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def found_by(attack, net, held_out, eps):
    images, labels = held_out
    return attack(net, images, labels, Threat(eps=eps), Noise(0, torch.arange(len(labels))))


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.04, 0.08, 0.12])
def test_more_steps_and_restarts_are_never_weaker(trained, held_out, eps):
    images, labels = held_out
    clean = accuracy(trained, images, labels)
    ladder = [Fgsm(), Pgd(1), Pgd(10), Pgd(10, restarts=3), Pgd(50, restarts=3)]
    fgsm, one, ten, thrice, fifty = (accuracy(trained, found_by(a, trained, held_out, eps), labels) for a in ladder)
    assert clean > 0.8
    assert fgsm <= clean
    assert one <= clean
    assert thrice <= fgsm  # one random start may miss what a step from the image itself finds
    assert thrice <= ten
    assert fifty <= thrice


@pytest.mark.slow
def test_restarts_keep_what_fell_and_never_lose_it(trained, held_out):
    _images, labels = held_out
    with torch.no_grad():
        fell_first = trained(found_by(Pgd(5), trained, held_out, 0.06)).argmax(1) != labels
        fell_later = trained(found_by(Pgd(5, restarts=4), trained, held_out, 0.06)).argmax(1) != labels
    assert (fell_later >= fell_first).all()
    assert 0 < fell_first.sum() < len(labels)


@pytest.mark.slow
def test_the_loss_never_falls_below_where_it_started(trained, held_out):
    """The best iterate is kept, not the last one."""
    _images, labels = held_out
    losses = []
    for steps in (1, 2, 5, 20):
        with torch.no_grad():
            scores = trained(found_by(Pgd(steps), trained, held_out, 0.03))
        standing = scores.argmax(1) == labels
        loss = nn.functional.cross_entropy(scores, labels, reduction="none")
        losses.append(torch.where(standing, loss, torch.inf))
    for fewer, more in itertools.pairwise(losses):
        assert (more >= fewer - 1e-5).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("levels", [8, 16, 26])
def test_as_strong_as_the_adversarial_robustness_toolbox(trained, held_out, art_classifier, levels):
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

    images, labels = held_out
    eps = levels / 255
    classifier = art_classifier(trained)
    np.random.seed(0)
    theirs = {
        "fgsm": FastGradientMethod(classifier, eps=eps, batch_size=256),
        "pgd": ProjectedGradientDescent(
            classifier, eps=eps, eps_step=eps / 4, max_iter=20, num_random_init=1, batch_size=256, verbose=False
        ),
    }
    ours = {"fgsm": Fgsm(), "pgd": Pgd(steps=20)}
    for name in ours:
        attacked = torch.from_numpy(theirs[name].generate(images.numpy(), labels.numpy()))
        assert float((attacked - images).abs().max()) <= eps + 1e-6
        trained.eval()
        reference = accuracy(trained, attacked, labels)
        mine = accuracy(trained, found_by(ours[name], trained, held_out, eps), labels)
        assert reference < accuracy(trained, images, labels)
        assert mine <= reference + MARGIN, name


def test_images_that_are_wrong_already_are_left_where_they_are_wrong(trained, held_out):
    images, labels = held_out
    attacked = found_by(Pgd(10), trained, (images, (labels + 1) % 10), 0.03)
    with torch.no_grad():
        was_wrong = trained(images).argmax(1) != (labels + 1) % 10
        is_wrong = trained(attacked).argmax(1) != (labels + 1) % 10
    assert was_wrong.sum() > 200
    assert is_wrong[was_wrong].float().mean() > 0.99  # judged at the random start, which may cure a few


def test_a_step_smaller_than_a_grey_level_is_one_grey_level(trained, held_out):
    images, labels = held_out
    found = found_by(Pgd(3, alpha=1e-4), trained, held_out, 2 / 255)
    assert accuracy(trained, found, labels) <= accuracy(trained, images, labels)
    assert not torch.equal(found, images)


@pytest.mark.parametrize(
    ("options", "label"), [({}, "pgd-10"), ({"steps": 50, "restarts": 10}, "pgd-50-10"), ({"steps": 1}, "pgd-1")]
)
def test_it_is_called_by_its_effort(options, label):
    assert Pgd(**options).label == label


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"alpha": 0.0}, {"alpha": -1.0}, {"alpha": 1.5}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"at least 1|alpha must be in"):
        Pgd(**options)


class Chance(nn.Module):
    """A linear net of two classes whose slope is drowned in chance; its mean is what counts."""

    def __init__(self, spread):
        super().__init__()
        self.spread, self.slope = spread, torch.ones(64)

    def forward(self, images):
        flat = images.flatten(1) - 0.5
        lead = flat @ self.slope + self.spread * (flat * torch.randn_like(flat)).sum(1)
        return torch.stack([lead, -lead], 1)


def test_the_mean_of_many_passes_finds_what_chance_hides():
    torch.manual_seed(0)
    images, labels = torch.full((40, 1, 8, 8), 0.55), torch.zeros(40, dtype=torch.int64)
    mean = Chance(0.0)

    def standing(eot):
        found = found_by(Pgd(4, alpha=0.03, eot=eot), Chance(2.0), (images, labels), 0.04)
        return float(mean(found)[:, 0].mean())

    alone, many = standing(None), standing(64)
    assert many < alone - 0.5
    assert found_by(Pgd(2, eot=1), mean, (images, labels), 0.1).equal(found_by(Pgd(2), mean, (images, labels), 0.1))
    assert Pgd(10, 2, eot=20).label == "pgd-10-2-eot20"
    with pytest.raises(ValueError, match="eot must be at least 1"):
        Pgd(eot=0)
