from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustdeploy.core.recipe import Data
from robustdeploy.core.registry import DATA
from robustdeploy.data.find import find_source, looking_once
from robustdeploy.data.load import channel_statistics, load_data, load_test
from robustdeploy.data.split import shared
from robustdeploy.errors import DataError, RecipeError

DIGITS = tuple("0123456789")


def test_digits_come_whole_without_a_path() -> None:
    loaded = load_data(Data())
    test = load_test(Data(), DIGITS)
    assert loaded.image_shape == (1, 8, 8)
    assert len(loaded.train) + len(loaded.validation) + len(test) == 1797
    assert 0.30 <= len(test) / 1797 < 0.305
    assert 0.10 <= len(loaded.validation) / (len(loaded.train) + len(loaded.validation)) < 0.105
    assert int(loaded.train.images.max()) == 255
    assert (loaded.mirror, loaded.shift, loaded.duplicates) == (False, 1, 0)
    for ours, theirs in ((loaded.train, test), (loaded.validation, test), (loaded.train, loaded.validation)):
        assert shared(ours, theirs) == 0
    assert load_data(Data()).digest == loaded.digest == loaded.facts()["split_sha256"]


def test_digits_have_the_spread_that_is_written_down() -> None:
    loaded = load_data(Data())
    mean, std = channel_statistics(torch.cat([loaded.train.images, loaded.validation.images]))
    assert loaded.mean == pytest.approx(mean, abs=0.005)
    assert loaded.std == pytest.approx(std, abs=0.005)


def test_digits_are_enlarged_on_request_and_refuse_a_path(tmp_path: Path) -> None:
    big = load_data(Data(size=28))
    assert big.image_shape == (1, 28, 28) == tuple(big.train.images.shape[1:])
    assert big.shift == 3
    with pytest.raises(DataError, match=r"reads no data\.path"):
        load_data(Data(path=tmp_path))


def test_another_nets_classes_are_named() -> None:
    with pytest.raises(
        DataError, match=r"the net knows 2 classes \(cat, dog\); data set 'digits' has 10 classes \(0, 1"
    ):
        load_test(Data(), ("cat", "dog"))


@pytest.mark.parametrize("name", [n for n in DATA.names() if n != "digits"])
def test_every_other_set_says_what_it_expects_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"'{name}' needs data.path: a folder"):
        find_source(Data(name=name))
    with pytest.raises(DataError, match="does not exist; expected"):
        find_source(Data(name=name, path=tmp_path / "gone"))
    with pytest.raises(DataError, match=f"(?s){tmp_path}.*folder"):
        find_source(Data(name=name, path=tmp_path))


def test_statistics_are_those_of_the_pixels() -> None:
    pixels = torch.randint(0, 256, (20, 3, 5, 4), dtype=torch.uint8)
    values = pixels.double() / 255
    mean, std = channel_statistics(pixels)
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=6e-5)
    assert std == pytest.approx(values.std((0, 2, 3), unbiased=False).tolist(), abs=6e-5)


def test_black_images_do_not_divide_by_zero() -> None:
    assert channel_statistics(torch.zeros(3, 1, 2, 2, dtype=torch.uint8)) == ((0.0,), (1 / 255,))


def write_folder(root: Path, mode: str = "RGB", side: int = 6, per_class: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for part, count in (("train", per_class), ("val", 2)):
        for name in ("left", "right"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                shape = (side, side) if mode == "L" else (side, side, 3)
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_folder_of_images_is_read(tmp_path: Path, mode: str, channels: int) -> None:
    spec = Data(name="folder", path=write_folder(tmp_path / "mine", mode), validation=0.3)
    calls: list[tuple[int, int]] = []
    loaded = load_data(spec, lambda done, total: calls.append((done, total)))
    assert (loaded.name, loaded.classes, loaded.image_shape) == ("mine", ("left", "right"), (channels, 6, 6))
    assert (len(loaded.train), len(loaded.validation)) == (8, 4)
    assert calls[-1] == (12, 12)
    assert loaded.mean == channel_statistics(loaded.train.images)[0]
    test = load_test(spec, ("left", "right"))
    first = np.asarray(Image.open(tmp_path / "mine/val/left/0.png")).reshape(6, 6, channels)
    assert np.array_equal(test.images[0].numpy(), first.transpose(2, 0, 1))
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert test.ids.tolist() == [0, 1, 2, 3]


def test_a_folder_is_resized_on_request_only(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "mine")
    Image.new("RGB", (9, 5)).save(root / "train/left/odd.png")
    with pytest.raises(DataError, match=r"odd\.png is 5×9 and others are 6×6; set data\.size"):
        load_data(Data(name="folder", path=root))
    assert load_data(Data(name="folder", path=root, size=4)).train.images.shape[1:] == (3, 4, 4)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def renamed(root: Path) -> None:
    (root / "val/left").rename(root / "val/up")


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: damaged(root / "train/right/3.png"), r"3\.png"),
        (lambda root: (root / "train/left/1.png").write_text("no image"), r"cannot read the image .*1\.png"),
        (lambda root: Image.new("I;16", (6, 6)).save(root / "train/left/1.png"), "pixel format I;16"),
        (renamed, r"val lacks left; .*train lacks up; give every class a folder"),
        (lambda root: emptied(root / "train/left"), "there is no image in"),
        (lambda root: (root / "val").rename(root / "testing"), "no test or val folder"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, damage: object, words: str) -> None:
    root = write_folder(tmp_path / "mine")
    assert callable(damage)
    damage(root)
    with pytest.raises(DataError, match=words):
        load_data(Data(name="folder", path=root))


def test_colour_among_grey_is_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "mine", "L")
    Image.new("RGB", (6, 6), (9, 9, 90)).save(root / "train/left/5.png")
    with pytest.raises(DataError, match=r"5\.png is in colour and others of the data set are grey"):
        load_data(Data(name="folder", path=root))


def test_a_class_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training image is left for class left, right"):
        load_data(Data(name="folder", path=write_folder(tmp_path / "mine", per_class=1)))


def test_the_first_validation_images_stand_for_all_classes():
    loaded = load_data(Data(name="digits"))
    assert set(loaded.validation.labels[: len(loaded.validation) // 2].tolist()) == set(range(10))
    repeated_load = load_data(Data(name="digits"))
    assert torch.equal(loaded.validation.ids, repeated_load.validation.ids)


def test_a_folder_is_looked_at_once_in_a_block_and_anew_after_it(tmp_path: Path) -> None:
    spec = Data(name="folder", path=write_folder(tmp_path / "mine"))
    assert find_source(spec) is not find_source(spec)
    with looking_once():
        found = find_source(spec)
        assert find_source(spec.model_copy()) is found
        assert find_source(spec.model_copy(update={"size": 4})) is not found
        with looking_once():
            assert find_source(spec) is found
        # What was read is not kept: hours of training may lie before the next look.
        assert find_source(spec) is not found
    assert find_source(spec) is not found


def test_a_data_set_is_built_with_its_options() -> None:
    with pytest.raises(RecipeError, match="data set 'digits': count: unknown key"):
        find_source(Data(name="digits", options={"count": 3}))
