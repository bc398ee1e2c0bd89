"""Gradient attacks in ℓ2 and ℓ1: inside the ball to the last grey level, and on linear nets what can be computed."""

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.ball import ball
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.attacks.protocol import box
from robustdeploy.core.norms import DEFAULT
from robustdeploy.core.registry import ATTACKS
from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError
from robustdeploy.onboard.ball import outside
from robustdeploy.onboard.types import Threat

BALLS = [("l2", 0.5), ("l1", 4.0), ("l2", 1 / 255), ("l1", 2 / 255)]
FEW = {"apgd": {"steps": 15}, "fab": {"steps": 5, "targets": 2}, "fmn": {"steps": 15}}
ALONE = [name for name in ATTACKS.names() if "required" not in ATTACKS.json_schema(name)]
PAIRS = [(name, norm, eps) for name in ALONE for norm, eps in BALLS if norm in ATTACKS.trait(name, "NORMS", DEFAULT)]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 10)).eval()


def batch(n=8):
    levels = torch.randint(0, 256, (n, 3, 9, 9), generator=torch.Generator().manual_seed(0))
    levels[:, :, 0], levels[:, :, 1] = 0, 255
    return levels.float() / 255, Noise(11, torch.arange(n) + 100)


def stored(images):
    return (images.double() * 255).round().to(torch.uint8).numpy()


@pytest.mark.alike(12)
@pytest.mark.parametrize(("name", "norm", "eps"), PAIRS)
def test_images_are_grey_levels_inside_the_ball(name, norm, eps, net):
    images, noise = batch()
    labels = net(images).argmax(1)
    attack = ATTACKS.build(name, FEW.get(name, {}))
    found = attack(net, images, labels, Threat(norm, eps), noise)
    assert found.shape == images.shape
    assert not found.requires_grad
    assert torch.equal(found, torch.from_numpy(stored(found)).float() / 255)
    assert not outside(stored(images), stored(found), Threat(norm, eps)).any()
    if eps > 0.1:
        assert not torch.equal(found, images)
        assert (margin_loss(net(found), labels) > margin_loss(net(images), labels)).all()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    net.double()
    try:
        whole, shuffled = (
            attack(net, images[at].double(), labels[at], Threat(norm, eps), noise.select(at))
            for at in (torch.arange(len(images)), order)
        )
    finally:
        net.float()
    assert torch.equal(whole[order], shuffled)


def linear(norm):
    """Return a net of two classes, images around its border, their labels, and how far each is, in grey levels."""
    random = torch.Generator().manual_seed(5)
    weights = torch.randn(64, generator=random, dtype=torch.float64)
    # In ℓ1 one pixel takes all of it, and must have the room.
    darkest = 60 if norm == "l2" else 110
    images = torch.randint(darkest, 256 - darkest, (32, 1, 8, 8), generator=random).double() / 255
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([weights, torch.zeros(64)]))
        net[1].bias.zero_()
        net[1].bias[0] = -float((images.flatten(1) @ weights).median()) - 0.01
        margins = (net(images)[:, 0] - net(images)[:, 1]).abs()
    dual = weights.norm() if norm == "l2" else weights.abs().max()
    return net, images, net(images).argmax(1), 255 * margins / dual


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fgsm", {}),
        ("bim", {"steps": 40}),
        ("pgd", {"steps": 40}),
        ("apgd", {}),
        ("apgd", {"loss": "margin"}),
        ("fab", {"steps": 10}),
        ("fmn", {"steps": 60}),
    ],
)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_linear_net_falls_where_the_closed_form_says_and_nowhere_before(name, options, norm):
    net, images, labels, distances = linear(norm)
    attack = ATTACKS.build(name, options)
    for levels in np.floor(np.quantile(distances, (0.3, 0.6))):
        found = attack(net, images, labels, Threat(norm, levels / 255), Noise(1, torch.arange(32)))
        fell = (net(found).argmax(1) != labels).numpy()
        # Whole levels lose some of an ℓ2 length, and nothing of one in ℓ1 but what is between two levels.
        lost = 0.06 * levels if norm == "l2" else 1
        expected = distances.numpy() < levels
        sure = np.abs(distances.numpy() - levels) > 1e-6
        near = (distances.numpy() < levels) & (distances.numpy() > levels - lost)
        np.testing.assert_array_equal(fell[sure & ~near], expected[sure & ~near])
        assert not fell[~expected & sure].any()
        assert near.sum() <= 6


def test_a_point_pulled_in_is_the_nearest_one():
    """Of ℓ2 along the way to it; of ℓ1 all moves shrink alike, and what black and white cannot take is shared out."""
    images = torch.full((1, 1, 2, 2), 250 / 255, dtype=torch.float64)
    l1 = ball(images, Threat("l1", 40 / 255))
    point = images + torch.tensor([[50.0, -30.0, -30.0, -1.0]]).view(1, 1, 2, 2) / 255
    moved = 255 * (l1.inside(point) - images).flatten()
    np.testing.assert_allclose(moved, [5.0, -17.5, -17.5, 0.0], atol=1e-4)
    l2 = ball(images, Threat("l2", 5 / 255))
    point = images + torch.tensor([[3.0, -4.0, 0.0, 12.0]]).view(1, 1, 2, 2) / 255
    moved = 255 * (l2.inside(point) - images).flatten()
    cut = torch.tensor([3.0, -4.0, 0.0, 5.0], dtype=torch.float64)
    np.testing.assert_allclose(moved, 5 * cut / cut.norm(), rtol=1e-4)


def test_steps_leave_out_pixels_that_cannot_move():
    images = torch.tensor([[0.0, 1.0, 0.5, 0.0]]).view(1, 1, 2, 2)
    gradient = torch.tensor([[-9.0, 9.0, 3.0, 4.0]]).view(1, 1, 2, 2)
    along = ball(images, Threat("l2", 0.5)).steepest(gradient, images).flatten()
    np.testing.assert_allclose(along, [0.0, 0.0, 0.6, 0.8], rtol=1e-6)
    along = ball(images, Threat("l1", 0.5)).steepest(gradient, images).flatten()
    np.testing.assert_allclose(along, [0.0, 0.0, 0.0, 1.0])


def test_a_box_is_of_one_norm():
    with pytest.raises(UsageError, match="ℓ2 ball"):
        box(torch.zeros(1, 1, 2, 2), Threat("l2", 0.5))
