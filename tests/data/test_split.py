from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeploy.data.images import Images, numbered
from robustdeploy.data.split import image_hashes, repeated, shared, split


def some_images(n: int = 60, classes: int = 3, values: int = 256, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, values, (n, 1, 2, 2), generator=generator, dtype=torch.uint8)
    return numbered(pixels, torch.randint(0, classes, (n,), generator=generator))


@settings(deadline=None)
@given(share=st.floats(0.01, 0.49), seed=st.integers(0, 50))
def test_each_class_gives_its_share_and_no_image_is_lost(share: float, seed: int) -> None:
    images = some_images(seed=seed)
    sides = split(images, share)
    for label in range(3):
        n = int((images.labels == label).sum())
        assert int((sides.held_out.labels == label).sum()) == math.ceil(share * n)
    assert sorted(sides.train.ids.tolist() + sides.held_out.ids.tolist()) == list(range(60))


@settings(deadline=None)
@given(st.permutations(range(60)))
def test_the_order_of_files_changes_nothing(order: list[int]) -> None:
    images = some_images()
    other = numbered(images.images[order], images.labels[order])
    ours, theirs = split(images, 0.2), split(other, 0.2)
    assert ours.digest == theirs.digest
    assert sorted(image_hashes(ours.held_out)) == sorted(image_hashes(theirs.held_out))


def test_copies_stay_on_one_side_even_under_two_labels() -> None:
    images = some_images(200, values=2)
    assert repeated(images) == 200 - len({row.numpy().tobytes() for row in images.images}) > 100
    sides = split(images, 0.3)
    assert len(sides.train) > 0
    assert len(sides.held_out) >= 60
    assert shared(sides.train, sides.held_out) == 0


def test_groups_stay_on_one_side() -> None:
    images = some_images(90, classes=1)
    grouped = numbered(images.images, images.labels, torch.arange(90) // 10)
    sides = split(grouped, 0.2)
    assert sides.train.groups is not None
    assert sides.held_out.groups is not None
    assert not set(sides.train.groups.tolist()) & set(sides.held_out.groups.tolist())
    assert len(sides.held_out) in (20, 30)


@pytest.mark.parametrize("seed", range(8))
def test_groups_that_share_an_image_stay_together(seed: int) -> None:
    images = some_images(90, classes=1, seed=seed)
    pixels = images.images.clone()
    groups = torch.arange(90) // 10
    for group in range(3, 8):  # a chain: each of these groups has a copy of an image of the next one
        pixels[10 * group] = pixels[10 * group + 15]
    for share in (0.05, 0.1, 0.15, 0.3, 0.45):
        sides = split(numbered(pixels, images.labels, groups), share)
        assert sides.train.groups is not None
        assert sides.held_out.groups is not None
        assert not set(sides.train.groups.tolist()) & set(sides.held_out.groups.tolist())
        assert shared(sides.train, sides.held_out) == 0


def test_the_digest_sees_pixels_labels_and_sides() -> None:
    images = some_images()
    digests = {split(images, share).digest for share in (0.1, 0.2)}
    pixels = images.images.clone()
    pixels[0] ^= 1
    digests.add(split(numbered(pixels, images.labels), 0.1).digest)
    digests.add(split(numbered(images.images, (images.labels + 1) % 3), 0.1).digest)
    assert len(digests) == 4


def test_shared_counts_copies() -> None:
    images = some_images()
    assert shared(images, images.select(torch.tensor([3, 4]))) == 2


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(Exception, match="empty"):
        numbered(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0))
