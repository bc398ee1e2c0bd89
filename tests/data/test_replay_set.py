"""A replay set: each image once, sealed, added to without a change of what is there, refused where it is unsound."""

import json

import numpy as np
import pytest

from robustdeploy.data.replay_set import (
    MANIFEST,
    Origin,
    ReplaySet,
    empty,
    hashes,
    read_replay_set,
    write_replay_set,
)
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.onboard.types import Threat

CLASSES = ("a", "b", "c")
CLEAN = np.random.default_rng(0).integers(30, 220, (6, 1, 4, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def made(places, by=5, run="one", attack="pgd-10"):
    """A set of the images at these places, each pixel moved by so many grey levels."""
    at, origin = np.array(places), Origin(run=run, subject="pruned/fp32@host-cpu", attack=attack, eps=0.1)
    return ReplaySet(
        (1, 4, 4), CLASSES, (origin,), CLEAN[at] + by, LABELS[at], hashes(CLEAN[at]), at, np.zeros(len(at), np.int64)
    )


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("images", "labels", "clean", "index")
    )


def test_each_image_is_there_once_and_keeps_the_origin_that_it_came_with():
    whole = empty((1, 4, 4), CLASSES).added([made([0, 1]), made([1, 2], run="two"), made([0, 1, 2], run="three")])
    assert len(whole.images) == 3
    assert [whole.origins[one].run for one in whole.origin] == ["one", "one", "two"]
    # One that gave no image leaves no trace.
    assert [origin.run for origin in whole.origins] == ["one", "two"]
    assert whole.added([made([2, 0])]) is whole
    # The same image of another clean one is another.
    moved = made([3])
    other = ReplaySet(**{**vars(moved), "clean": hashes(CLEAN[4:5])})
    assert len(whole.added([moved, other]).images) == 5


def test_what_is_written_is_what_is_read_and_one_file_of_images_is_left(tmp_path):
    folder = tmp_path / "set"
    first = made([0, 1])
    write_replay_set(folder, first)
    whole = read_replay_set(folder).added([made([2], attack="fgsm")])
    write_replay_set(folder, whole)
    read = read_replay_set(folder)
    assert same(read, whole)
    assert read.digest == whole.digest != first.digest
    assert len(list(folder.iterdir())) == 2


def test_only_what_is_of_a_test_image_and_in_its_box_is_used():
    whole = empty((1, 4, 4), CLASSES).added([made([0, 1, 2]), made([0, 3], by=9), made([5], by=8)])
    belongs = whole.belonging(CLEAN[:3], LABELS[:3], Threat(eps=8 / 255))
    assert belongs.of.tolist() == [0, 1, 2]
    assert (belongs.of_others, belongs.outside) == (2, 1)
    belongs = whole.belonging(CLEAN, LABELS, Threat(eps=9 / 255))
    assert sorted(belongs.of.tolist()) == [0, 0, 1, 2, 3, 5]
    # Under another label it is another image.
    belongs = whole.belonging(CLEAN[:1], np.array([2]), Threat(eps=9 / 255))
    assert (len(belongs.rows), belongs.of_others) == (0, 6)
    assert len(empty((1, 4, 4), CLASSES).belonging(CLEAN, LABELS, Threat()).rows) == 0


def test_sets_of_other_data_are_refused():
    made([0]).check_fits((1, 4, 4), CLASSES, "x")
    with pytest.raises(UsageError, match=r"x holds images of 1×4×4, and the net reads 3×4×4"):
        made([0]).check_fits((3, 4, 4), CLASSES, "x")
    with pytest.raises(UsageError, match=r"of the classes a, b, c, and the net tells c, b, a"):
        made([0]).check_fits((1, 4, 4), CLASSES[::-1], "x")


def _edit(field, value):
    def change(folder):
        told = json.loads((folder / MANIFEST).read_text())
        told[field] = value
        (folder / MANIFEST).write_text(json.dumps(told))

    return change


def _images(change):
    def damage(folder):
        (path,) = folder.glob("images-*.npz")
        change(path)

    return damage


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_edit("classes", ["a", "b", "d"]), "not as it was sealed"),
        (_edit("origins", []), "not as it was sealed"),
        (_edit("images", "../images.npz"), "images"),
        (_edit("schema_version", 2), "schema_version"),
        (_edit("n", 0), "n must be at least 1"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "replay.json"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "replay.json"),
        (_images(_flipped), "is not the file that replay.json names"),
        (_images(lambda path: path.write_bytes(b"")), "is not the file that"),
        (_images(lambda path: path.unlink()), "is missing"),
    ],
)
def test_damage_is_named_and_nothing_is_read(damage, words, tmp_path):
    folder = tmp_path / "set"
    write_replay_set(folder, made([0, 1]))
    damage(folder)
    with pytest.raises(ArtifactError, match=words):
        read_replay_set(folder)


def test_folders_of_something_else_are_neither_read_nor_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds no replay\.json"):
        read_replay_set(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        read_replay_set(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is no replay set"):
        write_replay_set(tmp_path, made([0]))
    with pytest.raises(UsageError, match="is no replay set"):
        write_replay_set(tmp_path / "notes.txt", made([0]))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
