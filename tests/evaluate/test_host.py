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
        assert host(net).lost_gradients(IMAGES, LABELS) == (0, 0)


@pytest.mark.parametrize("change", [torch.round, torch.Tensor.detach, lambda x: (x > 0.5).float()])
def test_gradients_that_were_cut_are_counted_and_attacks_still_answer(change):
    there = host(Plain(change))
    assert there.zero_gradients(IMAGES, LABELS) == len(IMAGES)
    assert there.lost_gradients(IMAGES, LABELS) == (len(IMAGES), 0)
    for attack in (Fgsm(), Pgd(steps=2)):
        found = there.attack(attack, IMAGES, LABELS, Threat("linf", 0.1), 1, IDS)
        assert found.shape == IMAGES.shape


def test_saturated_scores_keep_the_margins_gradient_and_lose_the_losss():
    right = host(Plain()).score(IMAGES).argmax(1)
    there = host(Plain(factor=1e6))
    assert there.zero_gradients(IMAGES, right) == 0
    assert there.lost_gradients(IMAGES, right)[0] > 0.8 * len(IMAGES)


def test_scores_do_not_depend_on_the_batch():
    there = host(Plain())
    np.testing.assert_allclose(there.score(IMAGES, batch=7), there.score(IMAGES), atol=1e-5)
    np.testing.assert_allclose(there(IMAGES.astype(np.float32) / 255), there.score(IMAGES), atol=1e-5)


class Decoy(nn.Module):
    """Answers one net and hands attacks the gradient of another."""

    def __init__(self, net, decoy, hard=False):
        super().__init__()
        self.net, self.decoy, self.hard = net, decoy, hard

    def forward(self, images):
        scores, other = self.net(images).detach(), self.decoy(images)
        if self.hard:
            scores = nn.functional.one_hot(scores.argmax(1), 3).float()
        return scores + (other - other.detach())


def plain(seed):
    net = Plain()
    net.weights = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed))
    return net


def straight_through(levels):
    return lambda images: images + (torch.round(images * levels) / levels - images).detach()


@pytest.mark.parametrize(
    "net",
    [Plain(), Plain(factor=1e-8), Plain(factor=1e4), Plain(straight_through(255)), Plain(straight_through(16))],
)
def test_the_gradient_of_an_honest_net_foretells_its_margin(net):
    assert host(net).faithful_gradients(IMAGES, LABELS, Threat("linf", 0.1), 5) > 0.85


@pytest.mark.parametrize(
    "net",
    [
        Decoy(plain(0), plain(1)),
        Decoy(plain(0), plain(0), hard=True),
        Decoy(plain(0), plain(1), hard=True),
        Decoy(plain(0), lambda images: -plain(0)(images)),
        Decoy(plain(0), lambda images: plain(0)(images.roll(1, -1))),
        Plain(torch.round),
    ],
)
def test_the_gradient_of_something_else_does_not(net):
    assert host(net).faithful_gradients(IMAGES, LABELS, Threat("linf", 0.1), 5) < 0.8


def test_a_net_that_answers_otherwise_while_gradients_are_kept_is_found_out():
    class Watching(nn.Module):
        def forward(self, images):
            return plain(1 if torch.is_grad_enabled() else 0)(images)

    assert host(Watching()).faithful_gradients(IMAGES, LABELS, Threat("linf", 0.1), 5) < 0.8


class Counting(nn.Module):
    """Notes how many images it is given at a time."""

    def __init__(self):
        super().__init__()
        self.body, self.most = Plain(), 0

    def forward(self, images):
        self.most = max(self.most, len(images))
        return self.body(images)


def test_no_more_images_are_looked_at_at_a_time_than_fit_and_the_figures_are_the_same():
    net, threat = Counting().eval(), Threat("linf", 0.1)
    small, large = (HostNet(net, torch.device("cpu"), net, at_once) for at_once in (7, 256))
    asked = (
        lambda host: host.faithful_gradients(IMAGES, LABELS, threat, 5),
        lambda host: host.zero_gradients(IMAGES, LABELS),
        lambda host: host.lost_gradients(IMAGES, LABELS),
        lambda host: host(IMAGES.astype(np.float32) / 255).argmax(1).tolist(),
        lambda host: host.score(IMAGES).argmax(1).tolist(),
        lambda host: host.attack(Fgsm(), IMAGES, LABELS, threat, 1, IDS).tolist(),
    )
    for ask in asked:
        net.most = 0
        found = ask(small)
        assert 0 < net.most <= 7
        assert found == ask(large)
        assert net.most == len(IMAGES)
