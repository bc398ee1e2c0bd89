import numpy as np
import pytest

from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError
from robustdeploy.export.golden import golden_images, load_golden
from robustdeploy.nets.store import NetInfo

INFO = NetInfo(
    net=Choice(name="resnet8"), classes=tuple("abcde"), image_shape=(3, 4, 4), mean=(0.5,) * 3, std=(0.5,) * 3
)


def golden(images, classes=5):
    return golden_images(images, np.arange(len(images)), np.zeros((len(images), classes), np.float32))


def test_golden_images_are_read_as_they_were_packed_and_equal_ones_are_equal_bytes(images, tmp_path):
    (tmp_path / "golden.npz").write_bytes(golden(images))
    held = load_golden(tmp_path / "golden.npz", INFO)
    np.testing.assert_array_equal(held["images"], images)
    assert held["scores"].shape == (len(images), 5)
    assert golden(images) == golden(images.copy())


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: None], ids=["cut", "0", "gone"]
)
def test_what_is_damaged_or_missing_is_told_with_what_to_do(images, tmp_path, damage):
    path = tmp_path / "golden.npz"
    if (content := damage(golden(images))) is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"golden\.npz.*; put it back, or write it again"):
        load_golden(path, INFO)


def test_scores_of_another_net_are_refused(images, tmp_path):
    (tmp_path / "golden.npz").write_bytes(golden(images, classes=6))
    with pytest.raises(ArtifactError, match="'scores' in"):
        load_golden(tmp_path / "golden.npz", INFO)
