"""What trackers are told of a training: every epoch once, through kills and resumes; and that none of it changes it."""

import json

import pytest
from trainings import Stop, same, silent, state_of

from robustdeploy.core.callback import Callback
from robustdeploy.tracking.trackers import Trackers
from robustdeploy.train.loop import fit


class Told(Callback):
    """Keeps what it was told as a tracker would that remembers nothing from before; may stop the work when told."""

    def __init__(self, stop_at=None):
        self.records, self.epochs, self.anew, self.stop_at = None, [], [], stop_at

    def history(self, place, records, *, anew):
        assert place == "nets/pruned"
        self.records = list(records)
        self.anew.append(anew)

    def metrics(self, place, epoch, numbers):
        if epoch == self.stop_at:
            raise Stop
        assert place == "nets/pruned"
        assert epoch == numbers["epoch"] == len(self.records) + 1
        self.records.append(numbers)
        self.epochs.append(epoch)


class Failing(Told):
    """Fails when it is told of an epoch, and of what was before."""

    def history(self, place, records, *, anew):
        raise OSError(28, "No space left on device")


@pytest.fixture
def train(make_pruning, make_plan):
    def run(folder, callback, progress=silent):
        plan = make_plan(options={"checkpoint_every_s": 0})
        return fit(*make_pruning(), plan, folder, progress, callback, "nets/pruned")

    return run


def log(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 4, 5, 12])
def test_every_epoch_is_told_once_wherever_a_training_was_killed(last, train, tmp_path):
    def progress(step, steps, numbers):
        if step == last:
            raise Stop

    before, after = Told(), Told()
    with pytest.raises(Stop):
        train(tmp_path, before, progress)
    assert before.records == log(tmp_path)
    train(tmp_path, after)
    assert before.epochs + after.epochs == [1, 2, 3]
    assert (before.anew, after.anew) == ([True], [False])
    assert after.records == log(tmp_path)


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_epoch_that_a_kill_kept_from_being_told_is_in_the_history(epoch, train, tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, Told(stop_at=epoch))
    after = Told()
    train(tmp_path, after)
    assert after.epochs == list(range(epoch + 1, 4))
    assert after.records == log(tmp_path)
    assert len(after.records) == 3


def test_a_tracker_that_fails_changes_nothing_of_a_training(train, tmp_path, capsys):
    alone = train(tmp_path / "alone", Callback())
    good = Told()
    with Trackers([Failing(), Told(stop_at=2), good], quiet=True) as callback:
        tracked = train(tmp_path / "tracked", callback)
    assert same(state_of(tracked.net), state_of(alone.net))
    assert log(tmp_path / "tracked") == log(tmp_path / "alone") == good.records
    said = capsys.readouterr().err.splitlines()
    assert [line.split("tracker ")[1].split(" ")[0] for line in said] == ["Failing", "Told"]
