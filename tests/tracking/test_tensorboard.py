"""Curves as TensorBoard itself reads them: after a resume, after going back, and on a disk that is full."""

import pytest

from robustdeploy.tracking.tensorboard import TensorBoard
from robustdeploy.tracking.trackers import Trackers

pytest.importorskip("tensorboard")


def curves(run):
    """Return the points of every curve of a training, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run))
    read.Reload()
    return {tag: [(p.step, round(p.value, 5)) for p in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "tracking" / "tensorboard"


def points(records, name="train_loss"):
    return [(record["epoch"], round(record[name], 5)) for record in records]


def test_every_number_of_an_epoch_is_a_curve_and_every_training_a_folder(listen, epochs, folder):
    with listen(TensorBoard()) as callback:
        for place in ("dense", "nets/pruned"):
            callback.history(place, (), anew=True)
            for record in epochs(1, 2, 3):
                callback.metrics(place, record["epoch"], record)
                assert points(epochs(*range(1, record["epoch"] + 1))) == curves(folder / place)["train_loss"]
    assert curves(folder / "dense") == curves(folder / "nets" / "pruned")
    assert curves(folder / "dense") == {name: points(epochs(1, 2, 3), name) for name in ("train_loss", "channels")}


def test_a_training_that_goes_on_has_every_epoch_once(listen, epochs, folder):
    """The third epoch was told before a kill, whose checkpoint was damaged; the fourth after it was never told."""
    first = listen(TensorBoard())  # killed: never closed
    first.history("train", (), anew=True)
    for record in epochs(1, 2, 3):
        first.metrics("train", record["epoch"], record)
    with listen(TensorBoard()) as callback:
        callback.history("train", epochs(1, 2), anew=False)
        callback.metrics("train", 3, epochs(3)[0])
        callback.history("train", epochs(1, 2, 3, 4), anew=False)
        callback.metrics("train", 5, epochs(5)[0])
    assert curves(folder / "train")["train_loss"] == points(epochs(1, 2, 3, 4, 5))


def test_after_going_back_the_collapsed_epochs_are_gone(listen, epochs, folder):
    with listen(TensorBoard()) as callback:
        callback.history("train", (), anew=True)
        for record in epochs(1, 2, 3, 4):
            callback.metrics("train", record["epoch"], record)
        callback.history("train", epochs(1, 2), anew=False)
        assert curves(folder / "train")["train_loss"] == points(epochs(1, 2))
        safer = epochs(3, 4, base=5.0)
        for record in safer:
            callback.metrics("train", record["epoch"], record)
    assert curves(folder / "train")["train_loss"] == points([*epochs(1, 2), *safer])


def test_a_training_that_is_made_anew_takes_the_old_curve_s_place(listen, epochs, folder):
    for base in (0.0, 3.0):
        with listen(TensorBoard()) as callback:
            callback.history("train", (), anew=True)
            for record in epochs(1, 2, base=base):
                callback.metrics("train", record["epoch"], record)
    assert curves(folder / "train")["train_loss"] == points(epochs(1, 2, base=3.0))


def test_a_full_disk_leaves_the_tracker_out_with_one_warning(small_disk, recipe, epochs, capsys):
    run = small_disk / "run"
    run.mkdir()
    with Trackers([TensorBoard()], quiet=True) as callback:
        callback.begin(run, recipe)
        callback.history("train", (), anew=True)
        callback.metrics("train", 1, epochs(1)[0])
        (small_disk / "filler").write_bytes(bytes(65536 - 8192))
        for record in epochs(*range(2, 400)):
            callback.metrics("train", record["epoch"], record)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "the tracker TensorBoard failed and is left out" in said[0]
    assert "No space left on device" in said[0]
    kept = points(epochs(*range(1, 400)))
    read = curves(run / "tracking" / "tensorboard" / "train")["train_loss"]
    assert read == kept[: len(read)], "what was written before is still read"
