"""The published data sets are read from tiny files in their own formats, by the real readers."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from robustdeploy.core.recipe import Data
from robustdeploy.core.registry import DATA
from robustdeploy.data.find import find_source
from robustdeploy.data.load import load_data, load_test
from robustdeploy.errors import DataError

RNG = np.random.default_rng(0)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def rows(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)


def write_binary_cifar10(root: Path) -> np.ndarray:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        pixels = rows(20)
        labels = np.arange(20, dtype=np.uint8)[:, None] % 10
        (folder / name).write_bytes(np.hstack([labels, pixels]).tobytes())
    return pixels


def test_binary_cifar10(tmp_path: Path) -> None:
    pixels = write_binary_cifar10(tmp_path)
    for path in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        spec = Data(name="cifar10", path=path)
        loaded = load_data(spec)
        assert (loaded.name, loaded.classes, loaded.mirror, loaded.shift) == ("CIFAR-10", CIFAR10, True, 4)
        assert (len(loaded.train), len(loaded.validation)) == (90, 10)
        test = load_test(spec, CIFAR10)
        assert np.array_equal(test.images.numpy(), pixels.reshape(20, 3, 32, 32))
        assert test.labels.tolist() == [*range(10), *range(10)]


def test_damaged_binary_cifar10(tmp_path: Path) -> None:
    write_binary_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-bin/data_batch_3.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="no multiple of 3073"):
        load_data(Data(name="cifar10", path=tmp_path))
    file.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(DataError, match="names class 11"):
        load_data(Data(name="cifar10", path=tmp_path))
    file.unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: No such file"):
        load_data(Data(name="cifar10", path=tmp_path))


def test_binary_cifar100_has_two_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    labels = np.arange(200, dtype=np.uint8)[:, None] % 100
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(np.hstack([labels // 5, labels, rows(200)]).tobytes())
    spec = Data(name="cifar100", path=tmp_path, size=16)
    loaded = load_data(spec)
    assert (len(loaded.classes), loaded.classes[0], loaded.classes[99]) == (100, "apple", "worm")
    assert list(loaded.classes) == sorted(loaded.classes)
    assert (loaded.image_shape, tuple(loaded.train.images.shape)) == ((3, 16, 16), (100, 3, 16, 16))
    assert load_test(spec, loaded.classes).labels[:3].tolist() == [0, 1, 2]


def write_python_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write the archive's files with our pixels, and tell torchvision their checksums."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> tuple[str, str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return name, hashlib.md5(data, usedforsecurity=False).hexdigest()

    names = [f"data_batch_{n}" for n in range(1, 6)]
    train = [write(name, {"data": rows(20), "labels": [*range(10), *range(10)]}) for name in names]
    pixels = rows(10)
    test = [write("test_batch", {"data": pixels, "labels": list(range(10))})]
    meta, md5 = write("batches.meta", {"label_names": list(CIFAR10)})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta, "key": "label_names", "md5": md5})
    return pixels


def test_python_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_python_cifar10(tmp_path, monkeypatch)
    spec = Data(name="cifar10", path=tmp_path)
    assert len(load_data(spec).train) == 90
    test = load_test(spec, CIFAR10)
    assert np.array_equal(test.images.numpy(), pixels.reshape(10, 3, 32, 32))


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("reached"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_python_files_that_are_not_the_originals_are_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / folder).mkdir()
        files = (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta", "train", "test", "meta")
        for file in files:
            (tmp_path / folder / file).write_bytes(pickle.dumps(_Attack()))
    with pytest.raises(DataError, match="original checksum"):
        load_data(Data(name=name, path=tmp_path))
    assert not (tmp_path / "reached").exists()


def test_cifar10_as_image_files_is_called_so(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 1)):
        for name in CIFAR10:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rows(1).reshape(32, 32, 3))
                image.save(tmp_path / part / name / f"{number}.jpg", quality=95)
    loaded = load_data(Data(name="cifar10", path=tmp_path))
    assert (loaded.name, loaded.classes, loaded.image_shape) == ("CIFAR-10 (image folder)", CIFAR10, (3, 32, 32))
    assert (loaded.mirror, loaded.mean) == (True, (0.4914, 0.4822, 0.4465))
    (tmp_path / "train/bird").rename(tmp_path / "train/fish")
    (tmp_path / "test/bird").rename(tmp_path / "test/fish")
    with pytest.raises(DataError, match="is not CIFAR-10: its classes are"):
        find_source(Data(name="cifar10", path=tmp_path))


def write_idx(raw: Path) -> np.ndarray:
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 10)):
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return pixels


@pytest.mark.parametrize(
    ("name", "folder", "mirror"), [("mnist", "MNIST", False), ("fashion-mnist", "FashionMNIST", True)]
)
def test_idx_files(tmp_path: Path, name: str, folder: str, mirror: bool) -> None:
    pixels = write_idx(tmp_path / folder / "raw")
    for path in (tmp_path, tmp_path / folder, tmp_path / folder / "raw"):
        spec = Data(name=name, path=path)
        loaded = load_data(spec)
        assert (loaded.image_shape, loaded.mirror, loaded.shift) == ((1, 28, 28), mirror, 3)
        assert (len(loaded.train), len(loaded.validation)) == (30, 10)
        assert np.array_equal(load_test(spec, loaded.classes).images.numpy()[:, 0], pixels)


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_damaged_idx_files(tmp_path: Path, file: str) -> None:
    write_idx(tmp_path / "MNIST/raw")
    path = tmp_path / "MNIST/raw" / file
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="MNIST/raw"):
        load_data(Data(name="mnist", path=tmp_path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="MNIST/raw"):
        load_data(Data(name="mnist", path=tmp_path))
    path.unlink()
    with pytest.raises(DataError, match="its three siblings"):
        load_data(Data(name="mnist", path=tmp_path))


def write_gtsrb(root: Path) -> None:
    for label in range(43):
        folder = root / f"gtsrb/GTSRB/Training/{label:05d}"
        folder.mkdir(parents=True)
        for track in range(3):
            for frame in range(2):
                side = 15 + label % 7 + frame
                pixels = RNG.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{track:05d}_{frame:05d}.ppm")
    images = root / "gtsrb/GTSRB/Final_Test/Images"
    images.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate((16, 1, 42)):
        Image.new("RGB", (20, 21), (number, 7, 9)).save(images / f"{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;20;21;5;5;15;15;{label}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines) + "\n")


def test_gtsrb_keeps_the_frames_of_a_sign_together(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    for path in (tmp_path, tmp_path / "gtsrb"):
        spec = Data(name="gtsrb", path=path, size=16, validation=0.2)
        loaded = load_data(spec)
        assert (len(loaded.classes), loaded.classes[14], loaded.classes[40]) == (43, "stop", "roundabout")
        assert (loaded.image_shape, loaded.mirror) == ((3, 16, 16), False)
        assert len(loaded.train) + len(loaded.validation) == 43 * 6
        train, held = loaded.train.groups, loaded.validation.groups
        assert train is not None
        assert held is not None
        assert not set(train.tolist()) & set(held.tolist())
        test = load_test(spec, loaded.classes)
        assert test.labels.tolist() == [16, 1, 42]
        assert test.images[2, :, 3, 3].tolist() == [2, 7, 9]


def test_gtsrb_that_is_not_whole(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    spec = Data(name="gtsrb", path=tmp_path)
    classes = find_source(spec).classes
    (tmp_path / "gtsrb/GT-final_test.csv").unlink()
    with pytest.raises(DataError, match="GT-final_test"):
        load_test(spec, classes)
    (tmp_path / "gtsrb/GTSRB/Training/00042").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="has 42 of 43 class folders"):
        find_source(spec)


def test_every_data_set_is_summed_up_for_the_list() -> None:
    assert set(DATA.names()) == {"digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "gtsrb", "folder"}
    assert all(DATA.summary(name) and DATA.json_schema(name)["type"] == "object" for name in DATA.names())
