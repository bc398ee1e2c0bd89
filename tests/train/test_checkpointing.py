from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from robustdeploy.errors import ArtifactError, TrainingError
from robustdeploy.train import ranks
from robustdeploy.train.checkpointing import Checkpointing
from robustdeploy.train.checkpoints import load_checkpoint
from robustdeploy.train.tasks.pgd import PgdAt
from robustdeploy.train.training import Training

EVENT = {"event": "catastrophic overfitting", "step": 7}


@pytest.fixture
def make(make_net, make_plan):
    """A training at ``step``, whose weights say so, and its checkpointing."""

    def begun(folder, step=0, training="mine"):
        plan = make_plan(training=training)
        made = Training(make_net(), None, plan)
        at(made, step)
        return made, Checkpointing(folder, plan.training)

    return begun


def at(training, step):
    training.step, training.records = step, [{"epoch": epoch} for epoch in range(1, step // 4 + 1)]
    with torch.no_grad():
        training.net.net.fc.bias.fill_(step)


def where(training):
    """The step, by the counter and by the weights."""
    return training.step, training.net.net.fc.bias.unique().tolist()


def test_a_desk_without_checkpoints_resumes_nothing(make, tmp_path):
    training, checkpointing = make(tmp_path, 3)
    assert checkpointing.resume(training) is False
    assert where(training) == (3, [3])
    assert list(tmp_path.iterdir()) == []


def test_the_newer_of_both_folders_is_resumed(make, tmp_path):
    training, checkpointing = make(tmp_path, 5)
    checkpointing.save(training, healthy=True)
    at(training, 8)
    checkpointing.save(training)
    resumed, again = make(tmp_path)
    assert again.resume(resumed) is True
    assert where(resumed) == (8, [8])
    for path in (tmp_path / "checkpoints").glob("step-*"):
        path.write_bytes(path.read_bytes()[:-1])
    resumed, again = make(tmp_path)
    assert again.resume(resumed) is True
    assert where(resumed) == (5, [5])


def test_of_the_same_step_the_one_with_the_event_is_resumed(make, tmp_path):
    """A kill on going back may come between the two files: the collapse must not be forgotten."""
    training, checkpointing = make(tmp_path, 5)
    checkpointing.save(training, healthy=True)
    training.events = [EVENT]
    checkpointing.save(training)
    assert load_checkpoint(tmp_path / "checkpoints" / "healthy", "mine").values["events"] == []
    resumed, again = make(tmp_path)
    again.resume(resumed)
    assert resumed.events == [EVENT]


def test_a_healthy_state_stays_until_there_is_a_newer_one(make, tmp_path):
    training, checkpointing = make(tmp_path, 2)
    checkpointing.save(training, healthy=True)
    for step in (3, 4, 5, 6):
        at(training, step)
        checkpointing.save(training)
    folders = tmp_path / "checkpoints", tmp_path / "checkpoints" / "healthy"
    names = [sorted(path.name[:14] for path in folder.glob("step-*")) for folder in folders]
    assert names == [["step-000000005", "step-000000006"], ["step-000000002"]]
    checkpointing.save(training, healthy=True)
    assert [path.name[:14] for path in folders[1].iterdir()] == ["step-000000006"]


def test_going_back_keeps_why_and_gives_the_safer_task(make, tmp_path):
    training, checkpointing = make(tmp_path, 5)
    training.sums = {"loss": 1.5}
    checkpointing.save(training, healthy=True)
    at(training, 11)
    training.sums = {"loss": 9.0}
    checkpointing.save(training)
    training.events = [EVENT]
    checkpointing.go_back(training)
    assert where(training) == (5, [5])
    assert training.records == [{"epoch": 1}]
    assert training.sums == {"loss": 1.5}
    assert training.events == [EVENT]
    assert training.task == PgdAt(steps=4)
    assert training.engine.training
    checkpointing.save(training, healthy=True)  # the collapsed state must not be found again
    assert [path.name[:14] for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000000005"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch":1}\n'


@pytest.mark.parametrize("damage", ["gone", "torn", "of another training"])
def test_without_a_healthy_state_there_is_no_way_back(damage, make, tmp_path):
    training, checkpointing = make(tmp_path, 5)
    checkpointing.save(training, healthy=True)
    (path,) = (tmp_path / "checkpoints" / "healthy").iterdir()
    if damage == "gone":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
        other, others = make(tmp_path, 6, training="theirs")
        others.save(other, healthy=True)
    at(training, 9)
    with pytest.raises(TrainingError, match=r"collapsed and its last healthy state is gone.*smaller.*alpha") as caught:
        checkpointing.go_back(training)
    assert caught.value.exit_code == 3
    assert where(training) == (9, [9])


def test_another_trainings_checkpoints_are_passed_over(make, tmp_path):
    theirs, their_desk = make(tmp_path, 9, training="theirs")
    their_desk.save(theirs, healthy=True)
    mine, checkpointing = make(tmp_path, 0)
    assert checkpointing.resume(mine) is False
    assert where(mine) == (0, [0])


def test_the_log_is_one_line_per_epoch_written_anew(make, tmp_path):
    training, checkpointing = make(tmp_path, 12)
    checkpointing.write_log(training)
    assert [json.loads(line) for line in checkpointing.log.read_text().splitlines()] == training.records
    at(training, 4)
    checkpointing.write_log(training)
    assert checkpointing.log.read_text() == '{"epoch":1}\n'


def test_a_save_is_due_some_time_after_the_last(make, monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr("robustdeploy.train.checkpointing.time.monotonic", lambda: now[0])
    training, checkpointing = make(tmp_path, 1)
    assert not checkpointing.due(60)
    now[0] += 61
    assert checkpointing.due(60)
    checkpointing.save(training)
    assert not checkpointing.due(60)


def test_no_other_rank_touches_the_folder(make, monkeypatch, tmp_path):
    training, checkpointing = make(tmp_path, 1)
    checkpointing.save(training)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    at(training, 8)
    checkpointing.save(training, healthy=True)
    checkpointing.write_log(training)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert checkpointing.resume(training) is False  # it waits for what rank 0 hands it, and reads nothing itself


def test_a_checkpoint_of_another_version_is_told_with_the_way_out(make, tmp_path):
    training, checkpointing = make(tmp_path, 5)
    state = training.state()
    training.state = lambda: replace(state, values={k: v for k, v in state.values.items() if k != "probes"})
    checkpointing.save(training)
    resumed, again = make(tmp_path)
    with pytest.raises(ArtifactError, match=r"step 5 in .*checkpoints has no 'probes': .* remove this folder"):
        again.resume(resumed)
