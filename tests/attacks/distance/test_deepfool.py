"""DeepFool against closed forms: on a linear net the nearest wrong image of every image is known."""

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.distance.deepfool import DeepFool
from robustdeploy.attacks.distance.protocol import is_wrong, l2_norms
from robustdeploy.data.noise import Noise

N, CLASSES, PIXELS = 300, 10, 64


def linear(seed=0, classes=CLASSES, scale=3.0):
    """A linear net, images of which many pixels lie at the border, and the labels that it gives."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes))
    net[1].weight.data *= scale
    images = (1.6 * torch.rand(N, 1, 8, 8) - 0.3).clamp(0, 1)
    with torch.no_grad():
        return net, images, net(images).argmax(1)


def reached(distance, net, images, labels):
    return distance(net, images, labels, Noise(0, torch.arange(len(images))))


def exact(net, images, labels, *, box):
    """The distance to the nearest boundary, by formula, or in the box by halving the length of the way, in float64."""
    weights, bias = net[1].weight.detach().double().numpy(), net[1].bias.detach().double().numpy()
    found = []
    for image, label in zip(images.flatten(1).double().numpy(), labels.tolist(), strict=True):
        ways = []
        for other in set(range(len(bias))) - {label}:
            slope = weights[other] - weights[label]
            lead = -(slope @ image + bias[other] - bias[label])
            if not box:
                ways.append(lead / np.linalg.norm(slope))
                continue
            # The nearest point of a half-space in a box is the clipped point along its normal (Karush-Kuhn-Tucker).
            near, far = 0.0, 1e6
            if slope @ (np.clip(image + far * slope, 0, 1) - image) < lead:
                continue
            for _ in range(100):
                middle = (near + far) / 2
                moved = np.clip(image + middle * slope, 0, 1) - image
                near, far = (middle, far) if slope @ moved < lead else (near, middle)
            ways.append(np.linalg.norm(np.clip(image + far * slope, 0, 1) - image))
        found.append(min(ways))
    return np.array(found)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("classes", [2, 10])
def test_on_a_linear_net_it_is_the_closed_form_for_every_image(box, classes):
    net, images, labels = linear(classes=classes)
    found = reached(DeepFool(box=box), net, images, labels)
    assert is_wrong(net, found, labels).all()
    np.testing.assert_allclose(l2_norms(found - images), exact(net, images, labels, box=box), rtol=3e-4, atol=1e-5)
    assert not box or (found.min() >= 0 and found.max() <= 1)


def test_without_refining_it_goes_too_far_by_the_overshoot():
    net, images, labels = linear()
    far, near = (l2_norms(reached(DeepFool(refine=refine), net, images, labels) - images) for refine in (False, True))
    torch.testing.assert_close(far, 1.02 * near, rtol=3e-4, atol=1e-5)


def test_an_image_does_not_depend_on_those_beside_it():
    net, images, labels = linear()
    together = reached(DeepFool(box=True), net, images, labels)
    alone = torch.cat([reached(DeepFool(box=True), net, images[i : i + 1], labels[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(together[:20], alone, rtol=1e-4, atol=1e-5)


def test_only_classes_that_are_looked_at_are_reached():
    net, images, labels = linear()
    found = reached(DeepFool(candidates=1), net, images, labels)
    second = net(images).topk(2).indices[:, 1]
    assert torch.equal(net(found).argmax(1), second)
    assert (l2_norms(found - images) >= 0.999 * l2_norms(reached(DeepFool(), net, images, labels) - images)).all()


@pytest.mark.parametrize("box", [False, True])
def test_where_nothing_grows_the_image_itself_is_returned(box):
    net, images, _ = linear()
    nn.init.zeros_(net[1].weight)
    with torch.no_grad():
        labels = net(images).argmax(1)
    assert torch.equal(reached(DeepFool(box=box), net, images, labels), images)
    detached = nn.Sequential(_Detached(), net)
    assert torch.equal(reached(DeepFool(box=box), detached, images, labels), images)


class _Detached(nn.Module):
    def forward(self, images):
        return images.detach()


def test_a_boundary_that_the_box_does_not_reach_is_not_found():
    net, images, _ = linear(classes=2)
    net[1].bias.data = torch.tensor([1e3, 0.0])
    labels = torch.zeros(N, dtype=torch.int64)
    assert torch.equal(reached(DeepFool(box=True), net, images, labels), images)
    assert is_wrong(net, reached(DeepFool(box=False), net, images, labels), labels).all()


def test_a_curved_net_is_crossed_in_few_steps(trained, held_out):
    images, labels = held_out
    right = ~is_wrong(trained, images, labels)
    images, labels = images[right][:64], labels[right][:64]
    free, boxed = (reached(DeepFool(box=box), trained, images, labels) for box in (False, True))
    for found in (free, boxed):
        assert is_wrong(trained, found, labels).all()
        # A tenth less of the way would not do: it is the boundary that was found.
        assert (~is_wrong(trained, images + 0.9 * (found - images), labels)).float().mean() > 0.9
    assert l2_norms(free - images).mean() < l2_norms(boxed - images).mean()
