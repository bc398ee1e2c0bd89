"""CLEVER against the closed form where slopes are the same everywhere, and its fit against a known end."""

import numpy as np
import pytest
import torch
from scipy.stats import weibull_max
from test_deepfool import exact, linear, reached
from torch import nn

from robustdeploy.attacks.distance.clever import Clever, weibull_end
from robustdeploy.attacks.distance.deepfool import DeepFool
from robustdeploy.attacks.distance.protocol import l2_norms


@pytest.mark.parametrize("box", [False, True])
def test_on_a_linear_net_it_is_the_distance_to_the_boundary(box):
    net, images, labels = linear()
    few = images[:8], labels[:8]
    found = reached(Clever(groups=3, samples=4, box=box), net, *few)
    np.testing.assert_allclose(found, exact(net, *few, box=False), rtol=1e-4)


def test_in_the_largest_change_the_slope_is_a_sum():
    net, images, labels = linear(classes=2)
    few = images[:8], labels[:8]
    slope = net[1].weight[0] - net[1].weight[1]
    closed = (net(images[:8]) @ torch.tensor([1.0, -1.0])).abs() / slope.abs().sum()
    found = reached(Clever(norm="linf", groups=3, samples=4, radius=10.0), net, *few)
    torch.testing.assert_close(found.float(), closed.detach(), rtol=1e-4, atol=1e-6)
    assert (reached(Clever(norm="linf", groups=3, samples=4, radius=1e-3), net, *few) <= 1e-3).all()


def test_on_a_curved_net_it_is_below_what_an_attack_finds_and_not_by_much():
    net, images, _ = linear()
    torch.manual_seed(1)
    net = nn.Sequential(net, nn.Tanh(), nn.Linear(10, 4))
    images = images[:6]
    with torch.no_grad():
        labels = net(images).argmax(1)
    found = reached(Clever(groups=20, samples=32), net, images, labels)
    attacked = l2_norms(reached(DeepFool(), net, images, labels) - images)
    assert (found <= attacked * 1.01).all()
    assert (found >= 0.1 * attacked).all()


def test_a_net_without_gradients_is_as_far_as_the_ball_reaches():
    net, images, _ = linear()
    nn.init.zeros_(net[1].weight)
    labels = torch.full((3,), int(net[1].bias.argmax()))
    assert (reached(Clever(groups=3, samples=4), net, images[:3], labels) == 2.0).all()


def test_the_end_of_a_known_distribution_is_found():
    ends = [weibull_end(weibull_max.rvs(3.0, loc=10.0, scale=2.0, size=60, random_state=seed)) for seed in range(8)]
    assert np.median(ends) == pytest.approx(10.0, rel=0.05)
    assert weibull_end(np.full(30, 4.0)) == 4.0
    assert weibull_end(np.zeros(30)) == 0.0
    heavy = np.random.default_rng(0).pareto(1.0, 40) + 1
    assert heavy.max() <= weibull_end(heavy) <= 2 * heavy.max()
