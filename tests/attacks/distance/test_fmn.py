"""FMN as a distance: on linear nets that of the closed form, in every norm."""

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.distance.fmn import FastMinimumNorm
from robustdeploy.core.metrics import METRICS
from robustdeploy.data.noise import Noise

DUALS = {"l2": 2, "linf": 1, "l1": torch.inf}
OWN = {"l2": 2, "linf": torch.inf, "l1": 1}


@pytest.mark.parametrize("norm", list(DUALS))
def test_on_a_linear_net_it_is_the_distance_to_the_boundary(norm):
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(64, generator=generator, dtype=torch.float64)
    images = 0.4 + 0.2 * torch.rand(16, 1, 8, 8, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    margins = images.flatten(1) @ weights
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([weights, torch.zeros(64)]))
        net[1].bias.copy_(torch.tensor([-float(margins.min()) + 0.3, 0.0]))
        labels = net(images).argmax(1)
        leads = net(images)[:, 0]
    distance = FastMinimumNorm(norm=norm, box=False)
    found = distance(net, images, labels, Noise(0, torch.arange(16)))
    assert (net(found).argmax(1) != labels).all()
    lengths = torch.linalg.vector_norm((found - images).flatten(1), OWN[norm], dim=1)
    expected = leads / torch.linalg.vector_norm(weights, DUALS[norm])
    np.testing.assert_allclose(lengths, expected, rtol=0.03)
    assert (lengths >= expected * (1 - 1e-6)).all()
    assert METRICS[distance.metric].unit == norm


def test_labels():
    made = [FastMinimumNorm(), FastMinimumNorm(box=False), FastMinimumNorm(norm="l1")]
    assert [each.label for each in made] == ["fmn-box", "fmn", "fmn-l1-box"]
    assert [each.metric for each in made] == ["r2_fmn", "r2_fmn", "r1_fmn"]
