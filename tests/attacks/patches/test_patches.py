"""Patch attacks: a square and nothing else, stronger than noise, where they are told to be, the same alone."""

import pytest
import torch
from torch import nn

from robustdeploy.attacks.patches.protocol import Size, laid_over, random_places, squares
from robustdeploy.core.patches import patch_passes
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import PATCHES
from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError

N, SIDE = 24, 3


@pytest.fixture(scope="module")
def net():
    """A net that tells whether the left or the right half of an image is brighter, by a few pixels more than others."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.Linear(144, 2, bias=False)).eval().requires_grad_(False)
    weights = torch.ones(12, 12)
    weights[:, 6:] = -1
    weights[2:5, 7:10] *= 3
    made[1].weight[:] = torch.stack([weights.flatten(), -weights.flatten()]) / 10
    return made


@pytest.fixture(scope="module")
def images():
    return torch.round(torch.rand(N, 1, 12, 12, generator=torch.Generator().manual_seed(1)) * 255) / 255


@pytest.fixture(scope="module")
def labels(net, images):
    return net(images).argmax(1)


def noise(ids=range(N)):
    return Noise(7, torch.tensor(list(ids)))


def right(net, found, labels):
    return int((net(found).argmax(1) == labels).sum())


@pytest.mark.parametrize("name", ["patch", "random-patch"])
def test_all_changes_are_in_the_square_and_are_whole_grey_levels(name, net, images, labels):
    found, places = PATCHES.build(name, {"pixels": SIDE})(net, images, labels, SIDE, noise(), None)
    outside = ~squares(places, SIDE, 12, 12)
    torch.testing.assert_close(torch.where(outside, found, 0), torch.where(outside, images, 0), rtol=0, atol=0)
    assert ((places >= 0) & (places <= 12 - SIDE)).all()
    torch.testing.assert_close(found * 255, (found * 255).round(), rtol=0, atol=1e-4)
    assert ((found >= 0) & (found <= 1)).all()


def test_it_breaks_more_than_noise_and_finds_the_best_place(net, images, labels):
    noisy, _ = PATCHES.build("random-patch", {"pixels": SIDE})(net, images, labels, SIDE, noise(), None)
    found, places = PATCHES.build("patch", {"pixels": SIDE})(net, images, labels, SIDE, noise(), None)
    assert right(net, found, labels) < right(net, noisy, labels)
    # Where a pixel counts three times as much, the square does, too; no place but that one can gain as much.
    standing = (net(found).argmax(1) == labels) & (labels == 1)
    assert (places[standing] == torch.tensor([2, 7])).all()


def test_on_a_linear_net_it_fills_the_square_with_the_worst_there_is(net, images, labels):
    attack = PATCHES.build("patch", {"pixels": SIDE, "at": [4, 1]})
    assert attack.label == "patch-3px-at-4-1"
    found, places = attack(net, images, labels, SIDE, noise(), None)
    assert (places == torch.tensor([4, 1])).all()
    standing = net(found).argmax(1) == labels
    assert standing.any()
    # Bright pixels at the left speak for class 0, so the worst is black for it and white for the other.
    for image, label in zip(found[standing], labels[standing], strict=True):
        assert (image[0, 4:7, 1:4] == float(label == 1)).all()


def test_an_image_is_attacked_alike_alone(net, images, labels):
    attack = PATCHES.build("patch", {"pixels": SIDE, "steps": 6})
    assert attack.label == "patch-3px-6"
    whole, places = attack(net, images, labels, SIDE, noise(), None)
    alone, at = attack(net, images[5:6], labels[5:6], SIDE, noise([5]), None)
    torch.testing.assert_close(alone[0], whole[5], rtol=0, atol=0)
    assert at[0].tolist() == places[5].tolist()


def test_a_universal_patch_is_one_that_other_images_fall_to(net, images, labels):
    attack = PATCHES.build("universal-patch", {"pixels": 6, "steps": 60, "batch": 16, "target": 1})
    assert attack.label == "universal-patch-6px-to-1"
    taught = torch.round(torch.rand(64, 1, 12, 12, generator=torch.Generator().manual_seed(2)) * 255) / 255
    patch = attack.learn(net, taught, net(taught).argmax(1), 6, noise(range(64)))
    assert patch.shape == (1, 6, 6)
    found, places = attack(net, images, labels, 6, noise(), patch)
    for image, (row, column) in zip(found, places.tolist(), strict=True):
        torch.testing.assert_close(image[:, row : row + 6, column : column + 6], patch, rtol=0, atol=0)
    noisy = laid_over(images, torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(3)), places)
    assert (net(found).argmax(1) == 1).sum() > (net(noisy).argmax(1) == 1).sum()
    again = attack.learn(net, taught, net(taught).argmax(1), 6, noise(range(64)))
    torch.testing.assert_close(again, patch, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [("patch", {}), ("patch", {"candidates": 3, "followed": 5, "steps": 7}), ("patch", {"at": [1, 2]})],
)
def test_passes_are_what_an_image_costs_that_stands_to_the_end(name, options, net, images, labels):
    passed = []

    class Sure(nn.Module):
        def forward(self, seen):
            passed.append(len(seen))
            return net(seen) + 100 * nn.functional.one_hot(labels[:4], 2)

    attack = PATCHES.build(name, {"pixels": SIDE, **options})
    attack(Sure(), images[:4], labels[:4], SIDE, noise(range(4)), None)
    assert sum(passed) == 4 * attack.passes


def test_learning_passes_are_what_a_universal_patch_learns_from(net, images, labels):
    attack, passed = PATCHES.build("universal-patch", {"steps": 3, "batch": 8}), []
    with_count = nn.Sequential(net)
    with_count.register_forward_pre_hook(lambda module, given: passed.append(len(given[0])))
    attack.learn(with_count, images, labels, SIDE, noise())
    assert sum(passed) == attack.learning_passes == 24
    assert patch_passes([Choice(name="universal-patch", options={"steps": 3, "batch": 8}), Choice(name="patch")]) == (
        PATCHES.build("patch", {}).passes,
        24,
    )


def test_random_places_cover_all_that_fit():
    places = random_places(Noise(0, torch.arange(2000)), 0, 5, 8, 6)
    assert {tuple(place) for place in places.tolist()} == {(row, column) for row in range(4) for column in range(2)}


@pytest.mark.parametrize(
    ("size", "image", "side"),
    [(Size(0.05), (32, 32), 7), (Size(0.25), (8, 8), 4), (Size(0.05, 9), (32, 28), 9), (Size(0.0001), (8, 8), 1)],
)
def test_a_size_is_a_share_of_the_area_or_pixels_a_side(size, image, side):
    assert size.side(*image) == side


def test_what_does_not_fit_is_refused(net, images, labels):
    with pytest.raises(UsageError, match="12 pixels a side covers images of 12×12"):
        Size(0.05, 12).side(12, 12)
    with pytest.raises(UsageError, match="row 10 and column 0 does not fit"):
        PATCHES.build("patch", {"at": [10, 0]})(net, images, labels, SIDE, noise(), None)
    with pytest.raises(ValueError, match="learnt before"):
        PATCHES.build("universal-patch", {})(net, images, labels, SIDE, noise(), None)
