"""Where a run stands: each state is that of a real run folder, whole, cut short, or damaged."""

import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.engine.overview import age_text, overview, overviews
from robustdeploy.engine.run import Run

LONG = """
    name: long
    net: resnet8
    train: {epochs: 400, batch_size: 64, device: cpu}
    budget: {ops: 0.3}
    baseline: false
"""


def test_a_run_that_was_begun_and_nothing_more(tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\n")
    run = Run.for_recipe(tmp_path / "runs", load_recipe(tmp_path / "r.yaml"))
    (found,) = overviews(tmp_path / "runs")
    assert (found.name, found.state, found.verdict, found.latest) == (run.name, "begun", None, True)
    with run.lock():
        assert overview(run.root).process == str(os.getpid())
    assert overview(run.root).process is None
    assert overviews(tmp_path / "nowhere") == []


def test_many_runs_are_listed_at_once_the_newest_first(tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\n")
    recipe = load_recipe(tmp_path / "r.yaml")
    for number in range(200):
        Run.for_recipe(tmp_path / "runs", recipe, f"r{number}")
    os.utime(tmp_path / "runs/r7/ledger.jsonl", (2e9, 2e9))
    started = time.process_time()
    found = overviews(tmp_path / "runs")
    assert time.process_time() - started < 2
    assert len(found) == 200
    assert found[0].name == "r7"


@pytest.mark.slow
def test_a_run_at_each_of_its_stages(desk):
    root = desk / "runs/tiny"
    whole = overview(root)
    assert (whole.state, whole.detail, whole.targets) == ("reported", "", ("quick",))
    assert whole.verdict == "PASS"
    assert 0 < whole.worst <= whole.clean <= 1
    assert whole.ops == pytest.approx(0.3, abs=0.01)
    run = Run.open(root, desk)
    run.ledger.append(
        "sealed", stage="evaluate", folder="boards/pruned/fp32@quick", manifest=_mark(root / "boards/pruned/fp32@quick")
    )
    again = overview(root)
    assert (again.state, again.verdict, again.clean) == ("evaluated", None, None)
    for folder, state, detail in (
        ("boards/pruned/fp32@quick", "interrupted", "in the evaluation"),
        ("onnx/pruned/fp32", "trained", ""),
        ("nets/pruned", "interrupted", "epoch 6 of 6"),
        ("nets/dense", "interrupted", "epoch 6 of 6"),
    ):
        (root / folder / "manifest.json").unlink()
        run.ledger.append("unsealed", stage="x", folder=folder)
        found = overview(root)
        assert (found.state, found.detail, found.verdict) == (state, detail, None)


def _mark(folder):
    from robustdeploy.core.files import sha256_of_file

    return sha256_of_file(folder / "manifest.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("recipe.yaml", "recipe.yaml was changed"),
        ("nets/pruned/manifest.json", "nets/pruned/manifest.json was changed"),
        ("report.json", "report.json was changed"),
        ("ledger.jsonl", "line"),
    ],
)
def test_a_damaged_run_shows_no_verdict(desk, file, told):
    path = desk / "runs/tiny" / file
    path.write_bytes(path.read_bytes().replace(b"a", b"e", 1))
    found = overview(desk / "runs/tiny")
    assert found.state == "damaged"
    assert told in found.detail
    assert (found.verdict, found.clean) == (None, None)
    path.unlink()
    (listed,) = overviews(desk / "runs")
    assert listed.state == ("damaged" if file != "report.json" else "evaluated")


@pytest.mark.slow
def test_a_training_shows_its_epoch_and_its_process_and_then_that_it_was_interrupted(tmp_path, spawn):
    (tmp_path / "long.yaml").write_text(LONG)
    child = spawn(tmp_path, "prune", "long.yaml", "--name", "long", "--quiet")
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            found = overviews(tmp_path / "runs")
            if found and found[0].detail.startswith("epoch 2"):
                break
            time.sleep(0.05)
        (training,) = overviews(tmp_path / "runs")
        assert training.state == "training"
        assert training.process == str(child.pid)
        assert training.detail.endswith("of 400")
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    (stopped,) = overviews(tmp_path / "runs")
    assert (stopped.state, stopped.process) == ("interrupted", None)
    assert "of 400" in stopped.detail


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (200_000, "2 d")]
)
def test_an_age_is_told_as_people_say_it(seconds, text):
    assert age_text(seconds) == text


def test_an_age_is_counted_from_the_last_entry(tmp_path):
    (tmp_path / "r.yaml").write_text("name: r\n")
    run = Run.for_recipe(tmp_path / "runs", load_recipe(tmp_path / "r.yaml"))
    assert 0 <= overview(run.root).age_s(datetime.now(UTC)) < 60
    assert overview(run.root).age_s(datetime.now(UTC) + timedelta(hours=1)) > 3500
