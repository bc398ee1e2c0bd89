"""MLflow: a run in an MLflow store, with its recipe, the numbers of every epoch, and the report."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from robustdeploy.core.callback import Callback, EpochRecord
from robustdeploy.core.files import atomic_write_json
from robustdeploy.core.plain import plain
from robustdeploy.core.reading import read_json
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Report
from robustdeploy.errors import ArtifactError, Interrupted
from robustdeploy.onboard.types import Probe
from robustdeploy.tracking.extras import probe_extra
from robustdeploy.tracking.numbers import numbers_of_epoch, numbers_of_report

_DEFAULTS = {
    # MLflow reports its use to its makers, unless it is told not to; a run talks to nobody but the store.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # By itself it tries a server that is gone for many minutes, in which the training stands still.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Settings of MLflow as they are here, where the environment does not say otherwise."""
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000
"""What MLflow takes at once."""
_LONGEST_VALUE, _LONGEST_NAME = 500, 250
_ILLEGAL = re.compile(r"[^\w.\- ]")

_Point = tuple[str, int, float]
"""A metric's name, its step and its value."""


@dataclass(frozen=True)
class Mlflow:
    """One MLflow run for each run folder; a run that is resumed goes on in the same one."""

    uri: str | None = None
    """Address of the store, such as ``sqlite:///mlflow.db``; left out, MLFLOW_TRACKING_URI or MLflow's own default."""
    experiment: str | None = None
    """Name of the experiment; left out, MLFLOW_EXPERIMENT_NAME or ``robustdeploy``."""

    def probe(self) -> Probe:
        """Look for MLflow, and for what it needs of a data base; a server needs none."""
        served = urlsplit(self._address).scheme in ("http", "https", "databricks")
        needed = [] if served or self._is_folder else ["sqlalchemy", "alembic"]
        return probe_extra("mlflow", ["mlflow", *needed])

    def open(self, run: Path, recipe: Recipe) -> Callback:
        """Begin the MLflow run of a run folder, or go on with it."""
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        if self._is_folder:
            # MLflow no longer develops this kind of store, and asks whether it is really meant. It was named.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            # Errors that it logs, with their tracebacks, it raises too.
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        # The client and not the module's functions, whose global state a user's own script may be using.
        client = MlflowClient(tracking_uri=self._address or None)
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "robustdeploy"
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        return _MlflowRun(client, experiment, run, recipe)

    @property
    def _address(self) -> str:
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or ""

    @property
    def _is_folder(self) -> bool:
        return bool(self._address) and urlsplit(self._address).scheme in ("", "file")


class _MlflowRun(Callback):
    """Writes one run of MLflow."""

    def __init__(self, client: Any, experiment: str, run: Path, recipe: Recipe) -> None:
        self._client, self._experiment, self._folder, self._recipe = client, experiment, run, recipe
        # Stores are told apart by a hash: an address may hold a password, and a run folder is handed on as evidence.
        self._store = hashlib.sha256(client.tracking_uri.encode()).hexdigest()[:16]
        self._told: dict[str, set[_Point]] = {}
        self._is_open = False
        self._id = self._found() or self._created()

    def history(self, place: str, records: Sequence[EpochRecord], *, anew: bool) -> None:
        """Add the epochs that the store lacks; a training that begins anew is another MLflow run."""
        if place not in self._told:
            self._told[place] = self._stored(place)
        # MLflow's points cannot be taken back, so an earlier training would stay in the curves.
        if anew and self._told[place]:
            self._told, self._id = {}, self._created()
        self._add(place, records)

    def metrics(self, place: str, epoch: int, numbers: EpochRecord) -> None:
        """Add an epoch."""
        self._add(place, [numbers])

    def report(self, report: Report, files: Sequence[Path]) -> None:
        """Add the rows that changed, the verdict and the files."""
        # A report of other settings than the recipe's stands beside the recipe's own.
        label = [report.label] if report.label else []
        rows = numbers_of_report(report).items()
        named = {_legal(*label, *re.split("[/@]", subject), name): value for (subject, name), value in rows}
        self._reopen()
        there = self._client.get_run(self._id).data.metrics
        # A report may be written many times; equal rows would only add points to their histories.
        self._log([(name, 0, value) for name, value in named.items() if there.get(name) != value])
        self._client.set_tag(self._id, ".".join(["robustdeploy.verdict", *label]), report.verdict.outcome.value)
        for path in files:
            self._client.log_artifact(self._id, str(path))

    def close(self, error: BaseException | None = None) -> None:
        """Say how the work ended; where none was told, the MLflow run stays as it was."""
        if not self._is_open:
            return
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        self._client.set_terminated(self._id, "FINISHED" if error is None else "KILLED" if stopped else "FAILED")

    def _found(self) -> str | None:
        """Return the MLflow run that this folder was told to before, if the store still has it."""
        from mlflow.exceptions import MlflowException

        identity = self._identities().get(self._store)
        if identity is None:
            return None
        try:
            info = self._client.get_run(identity).info
        except MlflowException as error:
            # Deleted by the user is no failure; a server that does not answer is one.
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        # MLflow keeps deleted runs for a while, and writing to one is refused.
        if info.lifecycle_stage != "active" or info.experiment_id != self._experiment:
            return None
        return str(identity)

    def _reopen(self) -> None:
        if not self._is_open:
            self._client.update_run(self._id, status="RUNNING")
            self._is_open = True

    def _created(self) -> str:
        """Make an MLflow run, and note it in the run's folder."""
        from mlflow.entities import Param

        name = self._folder.resolve().name
        tags = {"robustdeploy.run": name, "robustdeploy.recipe": self._recipe.name}
        identity = str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        # MLflow refuses longer ones, and one of them would refuse the whole batch.
        params = [Param(_legal(key), value[:_LONGEST_VALUE]) for key, value in _flat(plain(self._recipe))]
        for first in range(0, len(params), _MOST_PARAMETERS):
            self._client.log_batch(identity, params=params[first : first + _MOST_PARAMETERS])
        self._note.parent.mkdir(exist_ok=True)
        # After the run exists in the store: a kill in between leaves one MLflow run too many and no wrong note.
        atomic_write_json(self._note, {**self._identities(), self._store: identity})
        self._is_open = True
        return identity

    @property
    def _note(self) -> Path:
        return self._folder / "tracking" / "mlflow.json"

    def _identities(self) -> Mapping[str, str]:
        """Return the MLflow runs that this folder was told to, by store."""
        try:
            held = read_json(self._note) if self._note.exists() else {}
        except ArtifactError:  # nothing depends on it
            return {}
        return held if isinstance(held, dict) else {}

    def _stored(self, place: str) -> set[_Point]:
        """Return what the store has of the training in ``place``."""
        names = [name for name in self._client.get_run(self._id).data.metrics if name.startswith(f"{place}/")]
        points = (point for name in names for point in self._client.get_metric_history(self._id, name))
        return {(point.key, point.step, point.value) for point in points}

    def _add(self, place: str, records: Sequence[EpochRecord]) -> None:
        """Add epochs, but no point that is there: after a kill the store may know more than the caller was sure of."""
        told = self._told.setdefault(place, set())
        points = [
            (_legal(*place.split("/"), name), record["epoch"], value)
            for record in records
            for name, value in numbers_of_epoch(record).items()
        ]
        fresh = [point for point in points if point not in told]
        self._reopen()
        self._log(fresh)
        told.update(fresh)

    def _log(self, points: Sequence[_Point]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, step, value in points]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + _MOST_METRICS])


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Return the fields of a recipe that are set, by dotted name."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif value is not None and value != "":
        yield name, str(value)


def _legal(*parts: str) -> str:
    """Return a name that MLflow accepts: parts of letters, digits, '_', '-', '.' and spaces, with slashes between.

    MLflow's folders have a file for each name, so a part has no slash of its own: beside ``a`` there is no ``a/b``.
    """
    words = [_ILLEGAL.sub("_", part) for part in parts]
    return "/".join("_" if word.strip(".") == "" else word for word in words)[:_LONGEST_NAME]


plugin = Mlflow
