from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustdeploy.attacks.fab import Fab, projection
from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


def least(image, slope, lead):
    """The smallest radius by linear programming: step in [-r, r] and in the pixels' range, slope · step = lead."""
    n = len(image)
    cost = np.r_[np.zeros(n), 1.0]
    eye = np.c_[np.eye(n), -np.ones(n)]
    below = np.r_[eye, np.c_[-np.eye(n), -np.ones(n)]]
    bounds = [(-x, 1 - x) for x in image] + [(0, None)]
    done = linprog(cost, below, np.zeros(2 * n), np.r_[slope, 0][None], [lead], bounds)
    return done.fun if done.success else None


@pytest.mark.parametrize("seed", range(6))
def test_the_projection_is_the_smallest_there_is(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(20, 1, 3, 4, generator=generator).double()
    images[:, :, 0, :2] = torch.tensor([0.0, 1.0])  # no room on one side
    slope = torch.randn(20, 1, 3, 4, generator=generator).double()
    slope[:, :, 1, 0] = 0
    lead = torch.randn(20, generator=generator).double() * 4
    steps = projection(images, slope, lead)
    assert ((images + steps) >= -1e-12).all()
    assert ((images + steps) <= 1 + 1e-12).all()
    reached = (slope * steps).flatten(1).sum(1)
    out_of_reach = 0
    for number in range(20):
        radius = least(images[number].flatten().numpy(), slope[number].flatten().numpy(), float(lead[number]))
        if radius is None:
            out_of_reach += 1
            # As near as the pixels allow: all of them are at the end of their range.
            assert abs(float(reached[number])) < abs(float(lead[number]))
        else:
            assert float(reached[number]) == pytest.approx(float(lead[number]), abs=1e-9)
            assert float(steps[number].abs().max()) == pytest.approx(radius, abs=1e-9)
    assert out_of_reach < 15


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_in_other_norms_the_projection_is_the_smallest_there_is_too(norm):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(20, 1, 3, 4, generator=generator).double()
    images[:, :, 0, :2] = torch.tensor([0.0, 1.0])
    slope = torch.randn(20, 1, 3, 4, generator=generator).double()
    lead = torch.randn(20, generator=generator).double()
    steps = projection(images, slope, lead, norm)
    assert ((images + steps) >= -1e-12).all()
    assert ((images + steps) <= 1 + 1e-12).all()
    for number in range(20):
        image, its, step = (each[number].flatten().numpy() for each in (images, slope, steps))
        wanted = float(lead[number])
        # Up and down apart, so that ℓ1 is linear; of ℓ2 the sum of squares is what is smallest.
        both, ends = np.r_[its, -its], [(0, 1 - x) for x in image] + [(0, x) for x in image]
        if norm == "l1":
            done = linprog(np.ones(24), None, None, both[None], [wanted], ends)
            found, least_length = np.abs(step).sum(), done.fun
        else:
            meets = {"type": "eq", "fun": lambda moves, both=both, wanted=wanted: both @ moves - wanted}
            done = minimize(lambda moves: moves @ moves, np.zeros(24), bounds=ends, constraints=[meets])
            found, least_length = np.linalg.norm(step), done.fun**0.5 if done.success else None
        if done.success:
            assert its @ step == pytest.approx(wanted, abs=1e-9)
            assert found <= least_length * (1 + 1e-6) + 1e-9


@pytest.mark.slow
def test_it_breaks_about_what_steps_along_the_gradient_break(trained, held_out):
    images, labels = (each[:96] for each in held_out)
    threat, noise = Threat(eps=28 / 255), Noise(0, torch.arange(96))
    with torch.no_grad():
        fgsm, pgd, fab = (
            int((trained(attack(trained, images, labels, threat, noise)).argmax(1) == labels).sum())
            for attack in (Fgsm(), Pgd(20, restarts=2), Fab(steps=20))
        )
    assert 10 < fab < 86
    assert fab <= pgd + 1
    assert fab < fgsm


def test_labels():
    assert [Fab().label, Fab(steps=20, restarts=5, targets=3).label] == ["fab-100-t9", "fab-20-5-t3"]
