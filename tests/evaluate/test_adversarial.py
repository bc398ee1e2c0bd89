"""What was found in torch and is replayed: held against the images, the attacks and the box when it is read."""

import numpy as np
import pytest

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.recipe import Choice, Evaluate, Recipe
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.adversarial import load_attacks
from robustdeploy.evaluate.attack import Images
from robustdeploy.evaluate.parts import npz_from

N = 6
SETTINGS = Evaluate(
    attacks=(Choice(name="fgsm"), Choice(name="square", options={"queries": 9})), eps_curve=(1.0, 2.0), curve_limit=4
)
RECIPE = Recipe(name="t", evaluate=SETTINGS)
TEST = Images(np.arange(N), np.full((N, 1, 4, 4), 100, np.uint8), np.zeros(N, np.int64))
LEVELS = 8


def whole():
    """What the recipe's attacks give, at the very edge of the box."""
    labels = np.ones(N, np.int64)
    found = {"predictions": labels, "fgsm/images": TEST.images + LEVELS, "fgsm/predictions": labels}
    for multiple in (1, 2):
        found[f"curve-{multiple}/images"] = TEST.images[:4] - multiple * LEVELS
        found[f"curve-{multiple}/predictions"] = labels[:4]
    return found


def loaded(tmp_path, arrays, deployed=True, test=TEST):
    atomic_write_bytes(tmp_path / "attacks.npz", npz_from(arrays))
    return load_attacks(tmp_path / "attacks.npz", RECIPE, test, deployed)


def test_what_is_whole_is_read_by_attack_and_radius(tmp_path):
    found = loaded(tmp_path, whole())
    assert list(found.attacks) == ["fgsm"]  # queries are asked on the target
    assert list(found.curve) == [1.0, 2.0]
    assert (found.attacks["fgsm"].images == 108).all()
    with pytest.raises(ArtifactError, match="holds no array 'square-9/images'"):
        loaded(tmp_path, whole(), deployed=False)  # of a net in torch alone they are replayed too


@pytest.mark.parametrize("name", sorted(whole()))
def test_each_array_must_be_there_in_its_kind_and_number(tmp_path, name):
    for change in (
        lambda arrays: arrays.pop(name),
        lambda arrays: arrays.update({name: arrays[name].astype(np.float32)}),
        lambda arrays: arrays.update({name: arrays[name][:-1]}),
        lambda arrays: arrays.update({name: arrays[name][..., None]}),
    ):
        arrays = whole()
        change(arrays)
        with pytest.raises(ArtifactError, match=r"put it back, or write it again"):
            loaded(tmp_path, arrays)


@pytest.mark.parametrize("name", ["fgsm/images", "curve-1/images", "curve-2/images"])
@pytest.mark.parametrize("way", [1, -1])
def test_one_grey_level_outside_of_the_box_is_refused(tmp_path, name, way):
    arrays = whole()
    arrays[name][2, 0, 1, 3] = 100 + way * (LEVELS * (2 if "2" in name else 1) + 1)
    with pytest.raises(ArtifactError, match=f"1 images of '{name.partition('/')[0]}' lie outside of the threat's ball"):
        loaded(tmp_path, arrays)


def test_other_test_images_are_told(tmp_path):
    fewer = Images(TEST.ids[:5], TEST.images[:5], TEST.labels[:5])
    with pytest.raises(ArtifactError, match="is of 6 test images where 5 are used"):
        loaded(tmp_path, whole(), test=fewer)
