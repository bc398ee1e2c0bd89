from __future__ import annotations

import torch

from robustdeploy.data.augment import NUMBERS, augment
from robustdeploy.data.noise import Noise

IMAGES = torch.arange(1, 1 + 2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)


def one(down: float, right: float, flip: float, shift: int = 1, mirror: bool = True) -> torch.Tensor:
    return augment(IMAGES, torch.tensor([[down, right, flip]] * 2), shift, mirror)


def test_the_middle_leaves_an_image_alone() -> None:
    assert torch.equal(one(0.5, 0.5, 0.9), IMAGES)


def test_the_ends_move_by_the_whole_shift_and_let_zeros_in() -> None:
    moved = one(0.0, 0.99999, 0.9)
    assert torch.equal(moved[:, :, 1:, :-1], IMAGES[:, :, :-1, 1:])
    assert not moved[:, :, 0].any()
    assert not moved[:, :, :, -1].any()


def test_mirroring_flips_columns_only_where_it_is_allowed() -> None:
    assert torch.equal(one(0.5, 0.5, 0.1), IMAGES.flip(3))
    assert torch.equal(one(0.5, 0.5, 0.1, mirror=False), IMAGES)


def test_every_shift_is_as_likely_as_any_other() -> None:
    marks = torch.zeros(5000, 1, 9, 9)
    marks[:, :, 4, 4] = 1
    moved = augment(marks, Noise(1, torch.arange(5000)).uniform(0, (NUMBERS,)), 2, mirror=True)
    places = moved.sum((0, 1))
    assert places.sum() == 5000
    inside = places[2:7, 2:7]
    assert inside.sum() == 5000
    assert inside.min() > 120
    assert inside.max() < 290


def test_type_and_shape_stay_and_samples_are_independent() -> None:
    for dtype in (torch.uint8, torch.float32):
        images = IMAGES.to(dtype)
        numbers = torch.tensor([[0.5, 0.5, 0.9], [0.0, 0.0, 0.0]])
        out = augment(images, numbers, 1, mirror=True)
        assert out.dtype == dtype
        assert out.shape == images.shape
        assert out.is_contiguous()
        assert torch.equal(out[0], images[0])
        assert torch.equal(out[1:], augment(images[1:], numbers[1:], 1, mirror=True))


def test_no_shift_changes_nothing() -> None:
    assert torch.equal(one(0.99999, 0.0, 0.9, shift=0), IMAGES)
