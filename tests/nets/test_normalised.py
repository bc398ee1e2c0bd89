from __future__ import annotations

import pytest
import torch
from torch import nn

from robustdeploy.nets.normalised import Normalised


def test_pixels_are_normalised_per_channel() -> None:
    net = Normalised(nn.Flatten(), [0.5, 0.25], [0.5, 0.125])
    images = torch.tensor([[[[1.0]], [[0.5]]]])
    assert net(images).tolist() == [[1.0, 2.0]]


def test_the_normalisation_is_saved_with_the_net() -> None:
    assert set(Normalised(nn.Identity(), [0.5], [0.5]).state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.0]), ([0.5, 0.5], [1.0]), ([0.5], [-1.0])])
def test_a_spread_that_cannot_divide_is_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="one value per channel"):
        Normalised(nn.Identity(), mean, std)
