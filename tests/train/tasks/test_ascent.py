from __future__ import annotations

import pytest
import torch

from robustdeploy.errors import TrainingError
from robustdeploy.train.tasks.ascent import anywhere, ball, inside, slope, spread, step_up


def test_the_ball_is_cut_where_pixels_end():
    low, high = ball(torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0]), 0.1)
    assert torch.allclose(low, torch.tensor([0.0, 0.0, 0.4, 0.85, 0.9]))
    assert torch.allclose(high, torch.tensor([0.1, 0.15, 0.6, 1.0, 1.0]))


def test_eps_is_not_rounded_to_grey_levels():
    low, high = ball(torch.tensor([0.5]), 0.0123)
    assert float(high - low) == pytest.approx(0.0246, abs=1e-6)


@pytest.mark.parametrize("room", [ball(torch.full((2, 3), 0.5), 0.1), anywhere(torch.zeros(2, 3))], ids=["ball", "all"])
def test_inside_is_the_nearest_place(room):
    tried = torch.tensor([[-0.2, 0.3, 0.45], [0.55, 0.7, 1.2]])
    kept = inside(tried, room)
    low, high = (torch.broadcast_to(side, tried.shape) for side in room)
    grid = torch.linspace(0, 1, 1001)
    for place in range(6):
        allowed = grid[(grid >= low.flatten()[place] - 1e-6) & (grid <= high.flatten()[place] + 1e-6)]
        nearest = allowed[(allowed - tried.flatten()[place]).abs().argmin()]
        assert float(kept.flatten()[place]) == pytest.approx(float(nearest), abs=1e-6)


def test_spread_covers_both_sides_evenly():
    assert spread(torch.tensor([0.0, 0.25, 0.5, 0.75]), 0.2).tolist() == pytest.approx([-0.2, -0.1, 0.0, 0.1])


def test_a_step_goes_up_by_alpha_as_far_as_there_is_room():
    images = torch.tensor([[0.5, 0.5, 0.5, 0.99]])
    slopes = torch.tensor([[3.0, -1e-9, 0.0, 7.0]])
    moved = step_up(lambda x: (slopes * x).sum(), images, 0.05, ball(images, 0.1), "a test")
    assert torch.allclose(moved, torch.tensor([[0.55, 0.45, 0.5, 1.0]]))
    assert not moved.requires_grad
    far = step_up(lambda x: (slopes * x).sum(), images, 0.5, ball(images, 0.1), "a test")
    assert torch.allclose(far, torch.tensor([[0.6, 0.4, 0.5, 1.0]]))


@pytest.mark.parametrize("loss", [lambda x: x.detach().sum(), lambda x: torch.ones((), requires_grad=True)])
def test_a_loss_without_a_slope_is_refused_by_name(loss):
    with pytest.raises(TrainingError, match="so Somebody has no gradient"):
        slope(loss, torch.zeros(2, 3), "Somebody")
