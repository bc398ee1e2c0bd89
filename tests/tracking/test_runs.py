"""A run that is killed and goes on, with real trackers: each epoch is there once, and the run is sealed as without."""

import json
import signal
import textwrap
import time

import pytest

pytestmark = pytest.mark.slow
RECIPE = """
    name: small
    net: {name: resnet8, width: 4}
    threat: {norm: linf, eps: 0.1}
    train: {task: fastat, epochs: 8, batch_size: 96, lr: 0.1, device: cpu}
    budget: {ops: 0.4}
    baseline: false
"""


def epochs_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.exhaustive
def test_a_killed_run_goes_on_in_the_same_mlflow_run_and_every_tracker_has_each_epoch_once(
    tmp_path, spawn, command, monkeypatch
):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # for what reads it here
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "small.yaml").write_text(textwrap.dedent(RECIPE))
    store = f"file:{tmp_path / 'store'}"
    words = (
        "prune",
        "small.yaml",
        "--name",
        "run",
        "--track",
        f"mlflow:uri={store}",
        "--track",
        "tensorboard",
        "--json",
    )
    run, deadline = tmp_path / "runs" / "run", time.monotonic() + 120
    log = run / "nets" / "pruned" / "metrics.jsonl"
    child = spawn(tmp_path, *words)
    while len(epochs_in(log)) < 3:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    killed = mlflow.MlflowClient(store).search_runs(_experiments(mlflow, store))
    assert [each.info.status for each in killed] == ["RUNNING"]

    done = command(tmp_path, *words)
    assert done.code == 0, done.err
    assert done.document["stage"] == "train"
    assert "warning" not in done.err
    records, client = epochs_in(log), mlflow.MlflowClient(store)
    expected = [(record["epoch"], record["train_loss"]) for record in records]
    assert [epoch for epoch, _ in expected] == list(range(1, 9))
    (tracked,) = client.search_runs(_experiments(mlflow, store))
    assert (tracked.info.run_id, tracked.info.status) == (killed[0].info.run_id, "FINISHED")
    points = client.get_metric_history(tracked.info.run_id, "nets/pruned/train_loss")
    assert [(point.step, point.value) for point in points] == expected
    curves = accumulator.EventAccumulator(str(run / "tracking" / "tensorboard" / "nets" / "pruned"))
    curves.Reload()
    assert [point.step for point in curves.Scalars("train_loss")] == list(range(1, 9))
    assert [point.value for point in curves.Scalars("train_loss")] == pytest.approx([loss for _, loss in expected])
    assert "track" not in (run / "recipe.yaml").read_text()
    assert command(tmp_path, "verify", "run").code == 0


def _experiments(mlflow, store):
    return [mlflow.MlflowClient(store).get_experiment_by_name("robustdeploy").experiment_id]
