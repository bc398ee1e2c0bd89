"""Every gradient attack, held to the contract of ``GradientAttack``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.protocol import box, input_gradient, to_grey_levels
from robustdeploy.core.registry import ATTACKS
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


# What must be told more, such as the net of `transfer`, has tests of its own.
@pytest.fixture(params=[name for name in ATTACKS.names() if "required" not in ATTACKS.json_schema(name)])
def attack(request):
    return ATTACKS.build(request.param, {})


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 10)).eval()


def batch(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (n, 3, 9, 9), generator=generator)
    levels[:, :, 0], levels[:, :, 1] = 0, 255  # where the box is cut
    return levels.float() / 255, torch.randint(0, 10, (n,), generator=generator), Noise(11, torch.arange(n) + 100)


def levels(images):
    return (images.double() * 255).round().to(torch.int64)


@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.1, 1.0])
def test_images_are_grey_levels_inside_the_box(attack, net, eps):
    images, labels, noise = batch()
    found = attack(net, images, labels, Threat(eps=eps), noise)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert not found.requires_grad
    assert torch.equal(found, levels(found).float() / 255)  # not nearly a grey level: the very float of one
    assert int((levels(found) - levels(images)).abs().max()) <= int(eps * 255 + 1e-6)
    assert levels(found).min() >= 0
    assert levels(found).max() <= 255
    assert not torch.equal(found, images)


def test_nothing_else_changes(attack, net):
    images, labels, noise = batch()
    before, targets, state = images.clone(), labels.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        attack(net, images, labels, Threat(eps=0.1), noise)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert torch.equal(labels, targets)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not net.training
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_noise_decides(attack, net):
    images, labels, noise = batch()
    one, two = (attack(net, images, labels, Threat(eps=0.1), noise) for _ in range(2))
    assert torch.equal(one, two)


def test_no_image_depends_on_the_others(attack, net):
    """Attacked in another order, or in parts, an image comes out the same."""
    images, labels, noise = batch()
    net = net.double()  # so that sums of another order do not flip a sign
    try:
        whole = attack(net, images.double(), labels, Threat(eps=0.1), noise)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
        shuffled = attack(net, images.double()[order], labels[order], Threat(eps=0.1), noise.select(order))
        parts = [
            attack(
                net,
                images.double()[i : i + 5],
                labels[i : i + 5],
                Threat(eps=0.1),
                noise.select(torch.arange(24)[i : i + 5]),
            )
            for i in range(0, 24, 5)
        ]
    finally:
        net.float()
    assert torch.equal(levels(shuffled), levels(whole)[order])
    assert torch.equal(levels(torch.cat(parts)), levels(whole))


def test_an_empty_batch_is_no_trouble(attack, net):
    images, labels, _ = batch()
    nothing = attack(net, images[:0], labels[:0], Threat(eps=0.1), Noise(0, torch.arange(0)))
    assert nothing.shape == (0, 3, 9, 9)


def exact(weights, bias, images, labels, threat):
    """Whether each image of a linear net of two classes stands: its margin less all that the box can take from it."""
    low, high = (part.flatten(1) for part in box(images, threat))
    sign = torch.where(labels == 1, 1.0, -1.0).double()[:, None]
    slope = sign * (weights[1] - weights[0])
    worst = torch.where(slope > 0, low.double(), high.double())
    margin = (slope * worst).sum(1) + sign[:, 0] * (bias[1] - bias[0])
    return margin


@pytest.mark.parametrize("eps", [4 / 255, 0.05, 0.1])
def test_on_a_linear_net_the_exact_robust_accuracy_is_found(attack, eps):
    """Two classes and a linear net: the worst corner of the 8-bit box is known in closed form."""
    generator = torch.Generator().manual_seed(4)
    linear = nn.Linear(48, 2).double()
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
        linear.weight[:, 5] = 0  # a pixel that does not matter
    images = torch.randint(0, 256, (400, 3, 4, 4), generator=generator).double() / 255
    net = nn.Sequential(nn.Flatten(), linear)
    labels = net(images).argmax(1)
    threat = Threat(eps=eps)
    margin = exact(linear.weight.detach(), linear.bias.detach(), images, labels, threat)
    assert 0.05 < float((margin > 0).double().mean()) < 0.95
    found = attack(net, images, labels, threat, Noise(1, torch.arange(400)))
    stands = net(found).argmax(1) == labels
    if attack.label == "rfgs":
        # Half of its way is at random, so it ends at no corner: none falls that can stand, and most fall that can.
        assert (stands | (margin <= 0)).all()
        assert stands.sum() < (margin > 0).sum() + 0.7 * (margin <= 0).sum()
        return
    assert torch.equal(stands, margin > 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 255), st.floats(1 / 255, 1.0))
def test_the_box_is_the_boards_box(level, eps):
    """Floats here, bytes on the board: one box."""
    import numpy as np

    threat = Threat(eps=eps)
    low, high = box(torch.full((1, 1, 1, 1), level).float() / 255, threat)
    low8, high8 = threat.box(np.full((1, 1, 1, 1), level, np.uint8))
    assert (int(levels(low)), int(levels(high))) == (int(low8.item()), int(high8.item()))
    assert float(low) == np.float32(low8.item()) / np.float32(255)
    assert float(high) == np.float32(high8.item()) / np.float32(255)


def test_grey_levels_stay_what_they_are():
    every = torch.arange(256).float() / 255
    assert torch.equal(to_grey_levels(every), every)
    assert torch.equal(to_grey_levels(every + 0.4 / 255), every)


def test_the_gradient_is_of_each_image_alone(net):
    images, labels, _ = batch(6)
    gradient, scores = input_gradient(net, images, labels)
    assert torch.allclose(scores, net(images).detach(), atol=1e-6)
    for i in range(6):
        leaf = images[i : i + 1].clone().requires_grad_()
        nn.functional.cross_entropy(net(leaf), labels[i : i + 1]).backward()
        assert torch.allclose(gradient[i], leaf.grad[0], atol=1e-6)
    net.zero_grad(set_to_none=True)


def test_the_margin_is_above_zero_exactly_where_the_label_is_not_the_prediction():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [1.0, 1.5, 9.0]])
    labels = torch.tensor([0, 2, 1])
    assert torch.allclose(margin_loss(scores, labels), torch.tensor([-1.0, 1.0, 7.5]))
    assert torch.equal(margin_loss(scores, labels) > 0, scores.argmax(1) != labels)
    assert torch.allclose(margin_loss(100 * scores, labels), 100 * margin_loss(scores, labels))
