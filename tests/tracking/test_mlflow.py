"""A run in a real MLflow store, a data base file or a folder: resumed, begun anew, gone back, lost."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from robustdeploy import load_report
from robustdeploy.core.recipe import Recipe
from robustdeploy.errors import Interrupted
from robustdeploy.tracking.mlflow import Mlflow
from robustdeploy.tracking.trackers import Trackers

for package in ("mlflow", "sqlalchemy", "alembic"):
    pytest.importorskip(package)
# SQLAlchemy's word to MLflow.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


class Store:
    """A store, and what is in it."""

    def __init__(self, uri):
        self.uri = uri

    @property
    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self, experiment="robustdeploy"):
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))

    @property
    def run(self):
        (run,) = self.runs()
        return run

    def points(self, run, name):
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]

    def files(self, run):
        return {each.path for each in self.client.list_artifacts(run.info.run_id)}


@pytest.fixture
def store(tmp_path):
    return Store(f"file:{tmp_path / 'store'}")


@pytest.fixture(scope="module")
def data_base(tmp_path_factory):
    return Store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture
def tracker(store):
    return Mlflow(uri=store.uri)


def points(records, name="train_loss"):
    return [(record["epoch"], record[name]) for record in records]


def train(callback, records, place="train", before=()):
    callback.history(place, before, anew=not before)
    for record in records:
        callback.metrics(place, record["epoch"], record)


def test_a_data_base_holds_recipe_epochs_and_how_the_work_ended(data_base, listen, epochs, tmp_path):
    callback = listen(Mlflow(uri=data_base.uri))  # killed
    train(callback, epochs(1, 2))
    with listen(Mlflow(uri=data_base.uri)) as callback:
        train(callback, epochs(3), before=epochs(1, 2))
    run = data_base.run
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert data_base.points(run, "train/train_loss") == points(epochs(1, 2, 3))
    assert data_base.points(run, "train/channels") == points(epochs(1, 2, 3), "channels")
    assert {name: run.data.params[name] for name in ("name", "train.lr", "evaluate.attacks.1.steps")} == {
        "name": "small",
        "train.lr": "0.2",
        "evaluate.attacks.1.steps": "5",
    }


def test_a_run_that_goes_on_is_the_same_and_has_every_epoch_once(store, tracker, listen, epochs):
    """A kill may come before an epoch is told, and a damaged checkpoint lets one be told that was told before."""
    train(listen(tracker), epochs(1, 2, 3))
    assert store.run.info.status == "RUNNING"
    with listen(tracker) as callback:
        train(callback, epochs(3), before=epochs(1, 2))
    with listen(tracker) as callback:
        train(callback, epochs(5), before=epochs(1, 2, 3, 4))
    assert store.points(store.run, "train/train_loss") == points(epochs(1, 2, 3, 4, 5))


def test_a_tracker_that_comes_late_gets_the_epochs_before(store, tracker, listen, epochs):
    with listen(tracker) as callback:
        train(callback, epochs(3), before=epochs(1, 2))
    assert store.points(store.run, "train/train_loss") == points(epochs(1, 2, 3))


def test_epochs_after_going_back_are_told_although_their_steps_were(store, tracker, listen, epochs):
    safer = epochs(3, 4, base=5.0)
    with listen(tracker) as callback:
        train(callback, epochs(1, 2, 3, 4))
        train(callback, safer, before=epochs(1, 2))
    with listen(tracker) as callback:  # and once more, told nothing new
        train(callback, [], before=[*epochs(1, 2), *safer])
    told = store.points(store.run, "train/train_loss")
    assert sorted(told) == sorted(points([*epochs(1, 2, 3, 4), *safer]))
    assert store.run.data.metrics["train/train_loss"] == safer[-1]["train_loss"]


def test_a_training_that_begins_anew_is_another_run_in_mlflow(store, tracker, listen, epochs):
    for base in (0.0, 3.0):
        with listen(tracker) as callback:
            train(callback, epochs(1, 2, base=base), "dense")
            train(callback, epochs(1, base=base), "train")
    first, second = store.runs()
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    for run, base in ((first, 0.0), (second, 3.0)):
        assert store.points(run, "dense/train_loss") == points(epochs(1, 2, base=base))
        assert store.points(run, "train/train_loss") == points(epochs(1, base=base))


def test_a_command_that_tells_nothing_leaves_the_run_as_it_was(store, tracker, listen, epochs):
    callback = listen(tracker)
    train(callback, epochs(1))
    callback.close(ValueError("no"))
    with listen(tracker):
        pass
    assert store.run.info.status == "FAILED"


def test_an_interrupted_run_is_marked_as_killed_until_it_goes_on(store, tracker, listen, epochs):
    callback = listen(tracker)
    train(callback, epochs(1))
    callback.close(Interrupted(15))
    assert store.run.info.status == "KILLED"
    with listen(tracker) as callback:
        train(callback, epochs(2), before=epochs(1))
        assert store.run.info.status == "RUNNING"
    assert store.run.info.status == "FINISHED"


def test_two_stores_have_a_run_each_and_no_address_is_in_the_run_folder(tmp_path, listen, epochs):
    stores = [Store(f"file:{tmp_path / name}") for name in ("secret-one", "secret-two")]
    for before in ((), epochs(1)):
        with listen(*(Mlflow(uri=store.uri) for store in stores)) as callback:
            train(callback, epochs(len(before) + 1), before=before)
    for store in stores:
        assert store.points(store.run, "train/train_loss") == points(epochs(1, 2))
    note = tmp_path / "run" / "tracking" / "mlflow.json"
    assert set(json.loads(note.read_text()).values()) == {store.run.info.run_id for store in stores}
    assert "secret" not in note.read_text()


def test_a_run_that_the_store_no_longer_has_begins_there_again(store, tracker, listen, epochs, tmp_path):
    for n in (1, 2):
        with listen(tracker) as callback:
            train(callback, epochs(n + 1), before=epochs(n))
        store.client.delete_run(store.run.info.run_id)
        assert store.runs() == []
    (tmp_path / "run" / "tracking" / "mlflow.json").write_text("{")
    with listen(tracker) as callback:
        train(callback, epochs(3), before=epochs(1, 2))
    assert store.points(store.run, "train/train_loss") == points(epochs(1, 2, 3))


def test_a_path_is_a_store_too(tmp_path, listen, epochs):
    with listen(Mlflow(uri=str(tmp_path / "plain"))) as callback:
        train(callback, epochs(1))
    assert Store(str(tmp_path / "plain")).run.info.status == "FINISHED"


def test_the_experiment_is_the_option_s_or_the_environment_s(store, listen, epochs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "trucks")
    with listen(Mlflow(), Mlflow(experiment="cars")) as callback:
        train(callback, epochs(1))
    assert len(store.runs("trucks")) == len(store.runs("cars")) == 1


def test_names_that_mlflow_refuses_are_written_otherwise(store, tracker, listen, tmp_path):
    odd = Recipe(name="x", net={"name": "my.nets:make", "options": {"a/b": {"ü@": "y" * 9000}}})
    record = {"epoch": 1, "loss@1": 1.0, "a": 1.5, "a//b": 2.0, "..": 3.0, "x" * 300: 4.0}
    (tmp_path / "run").mkdir()
    with Trackers([tracker]) as callback:
        callback.begin(tmp_path / "run", odd)
        train(callback, [record])
    assert {"train/loss_1", "train/a", "train/a__b", "train/_"} < set(store.run.data.metrics)
    assert store.run.data.params["net.name"] == "my.nets:make"
    assert len(store.run.data.params["net.a_b.ü_"]) == 500


def silent_server():
    """A server that takes connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        while True:
            try:
                held.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    return server, held


@pytest.mark.parametrize("answers", [False, None])
def test_a_server_that_is_gone_or_silent_costs_a_warning_and_little_time(
    answers, tmp_path, recipe, epochs, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server, held = silent_server()
    port = server.getsockname()[1]
    if answers is None:
        server.close()
    began = time.monotonic()
    with Trackers([Mlflow(uri=f"http://me:word@127.0.0.1:{port}")], quiet=True) as callback:
        callback.begin(tmp_path, recipe)
        train(callback, epochs(1))
    took = time.monotonic() - began
    server.close()
    for connection, _ in held:
        connection.close()
    (said,) = capsys.readouterr().err.splitlines()
    assert "the tracker Mlflow failed and is left out" in said
    assert "word" not in said.partition("goes on: ")[2]
    assert took < 10


def test_a_store_that_vanishes_in_the_middle_costs_one_warning(store, tracker, listen, epochs, tmp_path, capsys):
    with listen(tracker) as callback:
        train(callback, epochs(1))
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        (tmp_path / "store").write_text("in its place")
        for record in epochs(2, 3):
            callback.metrics("train", record["epoch"], record)
    (said,) = capsys.readouterr().err.splitlines()
    assert "the tracker Mlflow failed and is left out" in said


def test_a_data_base_that_is_taken_away_costs_one_warning_and_no_traceback(data_base, listen, epochs, capsys):
    path = Path(data_base.uri.removeprefix("sqlite:///"))
    with listen(Mlflow(uri=data_base.uri), run="another") as callback:
        train(callback, epochs(1))
        path.unlink()
        for record in epochs(2, 3):
            callback.metrics("train", record["epoch"], record)
    (said,) = capsys.readouterr().err.splitlines()
    assert "the tracker Mlflow failed and is left out" in said
    assert "readonly database" in said


@pytest.mark.slow
def test_a_report_is_told_with_rows_verdict_and_files_and_verify_finds_nothing_odd(desk, command, store):
    run = desk / "runs" / "tiny"
    for _ in range(2):
        done = command(desk, "report", "tiny", "--track", f"mlflow:uri={store.uri}", "--track", "tensorboard", "--json")
        assert done.code == 0, done.err
        assert done.document["name"] == "tiny"
        assert "warning" not in done.err
    report, found = load_report(run / "report.json"), store.run
    assert len(found.data.metrics) == len(report.measurements)
    assert sorted(found.data.metrics.values()) == sorted(row.value for row in report.measurements)
    (row,) = (r for r in report.measurements if (r.metric, r.subject) == ("clean_accuracy", "pruned/fp32@quick"))
    assert store.points(found, "pruned/fp32/quick/clean_accuracy") == [(0, row.value)]
    assert store.files(found) == {path.name for path in run.glob("report.*")} | {"junit.xml"}
    assert found.data.tags["robustdeploy.verdict"] == report.verdict.outcome.value
    assert command(desk, "verify", "tiny").code == 0
