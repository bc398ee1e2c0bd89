"""Corruptions against other ways to compute them: in torch, in plain Python, by the statistics of noise."""

import colorsys
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from robustdeploy.core.corruptions import listed_corruptions
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import CORRUPTIONS
from robustdeploy.data.corruptions.magnified import magnified
from robustdeploy.data.corruptions.motion import smeared
from robustdeploy.data.corruptions.plasma import plasma
from robustdeploy.data.corruptions.protocol import check_shape, corrupted, is_small, parameters_of, published_for
from robustdeploy.errors import UsageError
from robustdeploy.onboard.draws import Draws, key

NAMES = CORRUPTIONS.get("all").PARTS
N = 6


def built(name):
    return CORRUPTIONS.build(name, {})


def smooth(count, channels, height, width, seed=0):
    """Images that change slowly, as photographs mostly do."""
    coarse = np.random.default_rng(seed).random((count, channels, 4, 4), np.float32)
    fine = F.interpolate(torch.from_numpy(coarse), (height, width), mode="bicubic", align_corners=True)
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def draws(count=N, seed=0):
    return Draws(key(seed, "corruption"), np.arange(count))


def by(name, images, severity, its=None):
    return corrupted(built(name), images, severity, its or draws(len(images)))


@pytest.fixture(scope="module")
def images():
    return smooth(N, 3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_changed_alike_whatever_stands_beside_it(name, images):
    whole = by(name, images, 3)
    assert whole.dtype == np.uint8
    assert whole.shape == images.shape
    alone = by(name, images[2:3], 3, Draws(draws().key, np.array([2])))
    np.testing.assert_array_equal(alone[0], whole[2])
    np.testing.assert_array_equal(by(name, images, 3), whole)
    assert (whole != images).any((1, 2, 3)).all()


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "noise" in n or n in ("snow", "fog", "glass-blur", "motion-blur")]
)
def test_what_is_random_differs_by_seed_and_by_image(name, images):
    same = np.repeat(images[:1], 2, 0)
    first = by(name, same, 3, draws(2))
    assert (first[0] != first[1]).any()
    assert (first != by(name, same, 3, draws(2, seed=1))).any()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 20, 33), (1, 70, 66), (3, 96, 80)])
def test_grey_images_and_other_sizes_work(shape):
    some = smooth(2, *shape)
    for name in NAMES:
        for severity in (1, 5):
            assert by(name, some, severity).shape == some.shape


def test_what_has_no_meaning_is_refused():
    check_shape((1, 8, 8))
    with pytest.raises(UsageError, match="have 4 channels"):
        check_shape((4, 32, 32))
    with pytest.raises(UsageError, match="7×32 pixels"):
        check_shape((3, 7, 32))


@pytest.mark.parametrize("name", NAMES)
def test_both_tables_have_a_value_for_every_severity(name):
    plugin = built(name)
    assert plugin.SMALL.keys() == plugin.LARGE.keys()
    assert {len(values) for table in (plugin.SMALL, plugin.LARGE) for values in table.values()} == {5}


def test_the_size_of_an_image_decides_whose_parameters_it_takes():
    assert is_small((3, 64, 64))
    assert not is_small((3, 64, 65))
    assert parameters_of(built("jpeg"), 5, (3, 32, 32)) == {"quality": 40}
    assert parameters_of(built("jpeg"), 5, (3, 224, 224)) == {"quality": 7}
    assert published_for((1, 8, 8)).startswith("CIFAR-10-C")
    assert published_for((3, 224, 224)).startswith("ImageNet-C")


TRADING = ("elastic-transform", "glass-blur", "snow", "procedural-frost")
"""They have several parameters, of which one may fall where another rises."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRADING])
def test_a_higher_severity_changes_more(name):
    some = smooth(40, 3, 32, 32)
    change = [np.abs(by(name, some, s).astype(int) - some).mean() for s in (1, 3, 5)]
    assert change == sorted(change)


@pytest.mark.parametrize("severity", [1, 5])
def test_gaussian_noise_has_its_standard_deviation(severity):
    grey = np.full((20, 3, 32, 32), 128, np.uint8)
    noise = (by("gaussian-noise", grey, severity) - 128.0 + 0.5) / 255
    assert noise.std() == pytest.approx({1: 0.04, 5: 0.10}[severity], rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("severity", [1, 5])
def test_shot_noise_has_the_mean_and_variance_of_photons(severity):
    grey = np.full((20, 3, 32, 32), 102, np.uint8)
    seen = (by("shot-noise", grey, severity) + 0.5) / 255
    photons = {1: 500, 5: 50}[severity]
    assert seen.mean() == pytest.approx(0.4, rel=0.01)
    # Whole grey levels add the variance of rounding.
    assert seen.var() == pytest.approx(0.4 / photons + 1 / 12 / 255**2, rel=0.03)
    levels = np.unique(by("shot-noise", grey, 5))
    assert len(levels) <= photons
    assert (by("shot-noise", np.zeros((2, 1, 9, 9), np.uint8), 5) == 0).all()


def test_impulse_noise_sets_values_to_black_and_white_alike():
    grey = np.full((50, 3, 32, 32), 100, np.uint8)
    found = by("impulse-noise", grey, 5)
    black, white = (found == 0).mean(), (found == 255).mean()
    assert black == pytest.approx(0.035, rel=0.05)
    assert white == pytest.approx(0.035, rel=0.05)
    assert set(np.unique(found)) == {0, 100, 255}


@pytest.mark.parametrize(
    ("severity", "shape"), [(1, (3, 32, 32)), (3, (3, 32, 32)), (5, (3, 32, 32)), (5, (1, 66, 66))]
)
def test_defocus_blur_is_a_convolution_with_a_disk(severity, shape):
    how = parameters_of(built("defocus-blur"), severity, shape)
    some, reach = smooth(2, *shape), 14
    hard = torch.zeros(1, 1, 2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            hard[0, 0, row + reach, column + reach] = float(row**2 + column**2 <= how["radius"] ** 2)
    near = 1 if how["radius"] <= 8 else 2
    reached = range(-near, near + 1)
    weights = [[math.exp(-(r * r + c * c) / 2 / how["edge"] ** 2) for c in reached] for r in reached]
    soft = torch.tensor(weights, dtype=torch.float64)
    kernel = F.conv2d(hard / hard.sum(), (soft / soft.sum())[None, None], padding=near)
    padded = F.pad(torch.from_numpy(some).double(), (reach,) * 4, mode="reflect")
    expected = F.conv2d(padded.flatten(0, 1)[:, None], kernel).view(some.shape)
    apart = np.abs(by("defocus-blur", some, severity) - (expected.numpy() + 1e-5).astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


@pytest.mark.parametrize(("channels", "severity"), [(3, 2), (3, 5), (1, 5)])
def test_glass_blur_is_a_walk_over_the_pixels_from_the_last_to_the_first(channels, severity):
    some = smooth(2, channels, 12, 11)
    sigma, rounds = {2: (0.25, 1), 5: (0.4, 2)}[severity]
    noise = draws(2)

    def blurred(image):
        reach = int(4 * sigma + 0.5)
        weights = torch.tensor([math.exp(-(k * k) / 2 / sigma**2) for k in range(-reach, reach + 1)]).double()
        weights /= weights.sum()
        padded = F.pad(torch.from_numpy(image)[:, None], (reach,) * 4, mode="replicate")
        return F.conv2d(padded, torch.outer(weights, weights)[None, None])[:, 0].numpy()

    for number, image in enumerate(some):
        glass = np.floor(blurred(image / 255) * 255 + 1e-6)
        for turn in range(rounds):
            uniform = noise.uniform(turn, 2 * 12 * 11)[number].reshape(12, 11, 2)
            for row in range(11, 1, -1):
                for column in range(10, 1, -1):
                    right, down = (int(each * 2) - 1 for each in uniform[row, column])
                    here, there = (slice(None), row, column), (slice(None), row + down, column + right)
                    old = glass[here].copy()
                    glass[here] = glass[there]
                    if channels == 1:
                        glass[there] = old
        expected = np.floor(blurred(glass / 255) * 255 + 1e-6)
        assert np.abs(by("glass-blur", some, severity, noise)[number] - expected).max() <= 1


@pytest.mark.parametrize("degrees", [0.0, 30.0, -45.0, -90.0])
def test_motion_takes_each_pixel_from_along_a_line(degrees):
    image = np.random.default_rng(0).random((1, 1, 9, 7))
    found = smeared(image, 3, 2.0, np.array([degrees]))
    way = math.radians(degrees)
    for row in range(9):
        for column in range(7):
            total = weight = 0.0
            for step in range(7):
                right, down = math.ceil(step * math.cos(way) - 0.5), math.ceil(step * math.sin(way) - 0.5)
                share = math.exp(-(step**2) / 8)
                total += share * image[0, 0, min(8, max(0, row + down)), min(6, max(0, column + right))]
                weight += share
            assert found[0, 0, row, column] == pytest.approx(total / weight, abs=0.5001 / 255)


@pytest.mark.parametrize(("side", "factor"), [(32, 1.0), (32, 1.05), (32, 2.25), (8, 1.1), (66, 4.5)])
def test_magnifying_is_linear_interpolation_of_the_middle(side, factor):
    image = np.random.default_rng(0).random((2, 3, side, side))
    kept = math.ceil(side / factor)
    first, large = (side - kept) // 2, round(kept * factor)
    middle = torch.from_numpy(image[:, :, first : first + kept, first : first + kept])
    whole = F.interpolate(middle, (large, large), mode="bilinear", align_corners=True).numpy()
    cut = (large - side) // 2
    np.testing.assert_allclose(magnified(image, factor), whole[:, :, cut : cut + side, cut : cut + side], atol=1e-9)


def test_zoom_blur_is_the_mean_over_its_magnifications(images):
    pixels = images / 255.0
    # Seven, as numpy counts from 1 by 0.01 to below 1.06 in floating point.
    steps = [magnified(pixels, 1 + 0.01 * step) for step in range(7)]
    expected = (pixels + sum(steps)) / 8
    assert np.abs(by("zoom-blur", images, 1) - np.floor(expected * 255 + 1e-6)).max() <= 1


def test_snow_whitens_the_scene_and_adds_its_flakes_twice(images):
    plugin, how = built("snow"), parameters_of(built("snow"), 5, (3, 32, 32))
    pixels = images / 255.0
    without = plugin(pixels, draws(), **{**how, "above": 9.0})
    red, green, blue = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
    np.testing.assert_allclose(without, 0.8 * pixels + 0.2 * np.maximum(pixels, 1.5 * grey + 0.5))
    flakes = plugin(pixels, draws(), **how) - without
    assert flakes.max() > 0.1
    np.testing.assert_allclose(flakes, np.rot90(flakes, 2, (2, 3)), atol=1e-9)
    np.testing.assert_allclose(flakes[:, 0], flakes[:, 2], atol=1e-9)


def test_plasma_is_the_diamond_square_algorithm_on_a_square_that_wraps_round():
    noise = draws(1)
    cells, spread, gap, step = {(0, 0): 0.0}, 100.0, 8, 0

    def wobble(numbers, index):
        return spread * (2 * spread * numbers[index] - spread)

    while gap >= 2:
        half, across = gap // 2, 8 // gap
        places = [(gap * i, gap * j) for i in range(across) for j in range(across)]
        for down, right in ((half, half), (0, half), (half, 0)):
            step += 1
            numbers = noise.uniform(step, across * across)[0]
            reach = [(-half, -half), (-half, half), (half, -half), (half, half)]
            reach = reach if down and right else [(-half, 0), (half, 0), (0, -half), (0, half)]
            for index, (row, column) in enumerate(places):
                at = row + down, column + right
                around = [cells[(at[0] + r) % 8, (at[1] + c) % 8] for r, c in reach]
                cells[at] = sum(around) / 4 + wobble(numbers, index)
        gap, spread = half, spread / 2.5
    values = np.array([[cells[row, column] for column in range(8)] for row in range(8)])
    values = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(plasma(noise, 0, 8, 8, 2.5)[0], values, atol=1e-12)
    np.testing.assert_allclose(plasma(noise, 0, 7, 5, 2.5)[0], values[:7, :5], atol=1e-12)


def test_fog_adds_plasma_and_dims_the_image(images):
    pixels = images[:1] / 255.0
    brightest = pixels.max()
    fogged = (pixels + 1.5 * plasma(draws(1), 0, 32, 32, 1.75)) * brightest / (brightest + 1.5)
    np.testing.assert_array_equal(by("fog", images[:1], 5), np.floor(np.clip(fogged, 0, 1) * 255 + 1e-6))
    assert (by("fog", np.zeros((1, 3, 9, 9), np.uint8), 5) == 0).all()  # nothing to be dimmed to


def test_brightness_adds_to_the_value_of_hsv():
    some = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    some[0, :, 0, 0] = 0
    found = by("brightness", some, 4)
    for row in range(8):
        for column in range(8):
            hue, saturation, value = colorsys.rgb_to_hsv(*(some[0, :, row, column] / 255))
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
            assert found[0, :, row, column].tolist() == [int(255 * each + 1e-6) for each in expected]


def test_contrast_draws_each_channel_to_its_mean(images):
    means = np.array([[plane.mean() for plane in image] for image in images / 255.0])[:, :, None, None]
    expected = np.floor(((images / 255.0 - means) * 0.3 + means) * 255 + 1e-6)
    np.testing.assert_array_equal(by("contrast", images, 4), expected)


def test_elastic_transform_moves_three_points_and_then_each_pixel(images):
    plugin, pixels, noise = built("elastic-transform"), images / 255.0, draws()
    how = parameters_of(plugin, 1, (3, 32, 32))
    assert how["pull"] == 0
    points = np.array([[26, 26, 1], [6, 26, 1], [6, 6, 1]], np.float64)
    found = plugin(pixels, noise, **how)
    for number in range(N):
        moved = points[:, :2] + 0.08 * 32 * (2 * noise.uniform(1, 6)[number].reshape(3, 2) - 1)
        # Forward: where each point of the old image comes to lie; its inverse says where a new pixel comes from.
        forward = np.vstack([np.linalg.solve(points, moved).T, [0, 0, 1]])
        inverse = np.linalg.inv(forward)
        rows, columns = np.mgrid[:32, :32]
        from_rows, from_columns, _ = np.einsum("ij,jrc->irc", inverse, np.stack([rows, columns, np.ones_like(rows)]))
        grid = torch.from_numpy(np.stack([from_columns, from_rows], -1) / 31 * 2 - 1)[None]
        expected = F.grid_sample(
            torch.from_numpy(pixels[number : number + 1]), grid, padding_mode="reflection", align_corners=True
        )
        np.testing.assert_allclose(found[number], expected[0], atol=1e-6)
    # With no affine part a pull moves pixels by a field that is as smooth as it is asked to be, and no further.
    pulled = plugin(pixels, noise, pull=0.1, smooth=0.03, affine=0)
    assert 0 < np.abs(pulled - pixels).mean() < 0.2
    np.testing.assert_allclose(plugin(pixels, noise, pull=0, smooth=0, affine=0), pixels, atol=1e-9)


def test_pixelate_averages_over_boxes():
    some = smooth(1, 3, 80, 80)
    found = by("pixelate", some, 2)  # half of each side is kept
    small = F.avg_pool2d(torch.from_numpy(some).double(), 2)
    expected = F.interpolate(small, scale_factor=2, mode="nearest")
    assert np.abs(found - expected.numpy()).max() <= 1  # Pillow rounds after each side


# The pin of torchvision keeps what the warning says will go.
@pytest.mark.filterwarnings("ignore:The image decoding")
def test_jpeg_is_what_a_file_of_that_quality_holds(images):
    for image, found in zip(images, by("jpeg", images, 5), strict=True):
        other = decode_jpeg(encode_jpeg(torch.from_numpy(image), quality=40)).numpy()
        assert np.abs(found.astype(int) - other).max() <= 2


def test_frost_says_that_it_is_not_the_published_one(images):
    plugin = built("procedural-frost")
    assert "not the published photographs" in plugin.conditions["texture"]
    found = by("procedural-frost", images, 5)
    black = by("procedural-frost", np.zeros_like(images), 5)
    assert black.max() <= 0.45 * 255
    assert len(np.unique(black[0, 0])) > 30
    assert (found.astype(int) - np.floor(0.75 * images) >= -1).all()


def test_all_stands_for_fifteen_and_an_option_is_for_each():
    asked = listed_corruptions([Choice(name="all", options={"severities": [3, 1]})])
    assert [each.name for each in asked] == list(NAMES)
    assert len(asked) == 15
    assert asked[0].labels == ("gaussian-noise-1", "gaussian-noise-3")
    assert set(NAMES) | {"all"} == set(CORRUPTIONS.names())


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ([Choice(name="fog"), Choice(name="all")], "holds 'fog' twice"),
        ([Choice(name="fog", options={"severities": []})], r"'fog' are \[\]"),
        ([Choice(name="fog", options={"severities": [2, 2]})], "none twice"),
    ],
)
def test_what_is_asked_twice_or_at_no_severity_is_refused(choices, told):
    with pytest.raises(UsageError, match=told):
        listed_corruptions(choices)
