"""Test images that the net was trained on, copied byte for byte or nearly, and images that are only alike."""

import numpy as np
import pytest
import torch

from robustdeploy.core.recipe import Data
from robustdeploy.data.images import numbered
from robustdeploy.data.load import load_data, load_test
from robustdeploy.data.prints import prints_of
from robustdeploy.evaluate.overlap import overlap_diagnostic, overlap_of


def images(count, seed, size=16, channels=3):
    """Smooth images, each of its own shapes."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, channels, 5, 5)))
    made = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    return made.round().to(torch.uint8)


def prints(*tensors):
    whole = torch.cat(tensors)
    return prints_of(numbered(whole, torch.zeros(len(whole))))


TEST, OTHERS = images(60, 0), images(300, 1)


def changed(change):
    return change(TEST.double()).round().clamp(0, 255).to(torch.uint8)


def test_images_of_their_own_are_not_blamed():
    found = overlap_of(prints(TEST), prints(OTHERS))
    assert found.looked
    assert not found.exact.any()
    assert not found.near.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
        lambda x: 0.8 * x + 12,
        lambda x: x.flip(-1),
        lambda x: torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, -1).repeat_interleave(2, -2),
    ],
)
def test_near_copies_are_found(change):
    found = overlap_of(prints(TEST), prints(OTHERS, changed(change)))
    assert not found.exact.any()
    assert found.near.mean() > 0.9


def test_copies_are_counted_named_and_block(tmp_path):
    ids = np.arange(60) + 1000
    levels = {}
    for count in (0, 1, 20):
        np.savez(
            tmp_path / "prints.npz", **prints(OTHERS, TEST[:count], changed(lambda x: x.flip(-1))[30 : 30 + count])
        )
        told = overlap_diagnostic(prints(TEST), ids, tmp_path / "prints.npz")
        assert told.text.startswith(
            f"{count} of 60 test images are among the training images byte for byte, and {count}"
        )
        levels[count] = told.level
    assert levels == {0: "ok", 1: "warn", 20: "block"}
    assert "(test images 1000, 1001, 1002, 1003, 1004, …)" in told.text
    assert "robust_accuracy" in told.metrics
    assert "latency_ms.p99" not in told.metrics


def test_a_net_without_prints_is_told_and_images_of_other_channels_are_no_copies(tmp_path):
    assert overlap_diagnostic(prints(TEST), np.arange(60), tmp_path / "prints.npz").level == "warn"
    (tmp_path / "prints.npz").write_bytes(b"PK")
    assert "not checked" in overlap_diagnostic(prints(TEST), np.arange(60), tmp_path / "prints.npz").text
    np.savez(tmp_path / "prints.npz", **prints(images(9, 5, channels=1)))
    assert (
        "near copies were not looked for"
        in overlap_diagnostic(prints(TEST), np.arange(60), tmp_path / "prints.npz").text
    )


def test_plain_images_are_like_nothing():
    plain = torch.full((9, 3, 16, 16), 77, dtype=torch.uint8)
    assert not overlap_of(prints(plain), prints(plain + 1)).near.any()


def test_digits_are_told_apart_though_they_are_alike():
    data = load_data(Data(name="digits"))
    test = load_test(Data(name="digits"), data.classes)
    found = overlap_of(prints_of(test), prints_of(data.train, data.validation))
    assert not found.exact.any()
    assert found.near.sum() <= 0.005 * len(test)
