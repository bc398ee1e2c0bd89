"""Overview: where each run stands, read from its ledger and a few small files, so that hundreds are listed at once.

Files are compared with the ledger where that is cheap: manifests and the report. ``robustdeploy verify`` hashes all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.given import runs_below
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.reading import read_bounded, read_json
from robustdeploy.core.report import SCHEMA_VERSION
from robustdeploy.core.subject import DENSE, places_of, selects
from robustdeploy.core.yaml_source import source_from_file
from robustdeploy.engine.ledger import LEDGER, Ledger, Record, own_net
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import BOARDS, ONNX, is_own, kind_of, net_place
from robustdeploy.engine.run import LATEST, check_readable, holder
from robustdeploy.engine.seal import sealed_manifests
from robustdeploy.engine.verify import RECIPE
from robustdeploy.errors import ArtifactError, RecipeError, UsageError

REPORT = "report.json"
_LOG = "metrics.jsonl"
State = Literal["begun", "training", "interrupted", "trained", "exported", "evaluated", "reported", "damaged"]
STATES: tuple[State, ...] = get_args(State)
"""What a run can be in, from its beginning to its report."""
_FIGURES = {
    "clean": ("clean_accuracy", None),
    "worst": ("robust_accuracy", "worst"),
    "ops": ("ops_fraction", None),
    "p99_ms": ("latency_ms.p99", None),
}
"""What is shown of a report: metric and attack, of the run's own net on the target where it is worst."""


@dataclass(frozen=True)
class Overview:
    """One run at a glance."""

    name: str
    folder: str
    state: State
    detail: str
    """The epoch reached, what is damaged, or what uses the run."""
    process: str | None
    """Number of the process that works in it."""
    latest: bool
    targets: tuple[str, ...]
    verdict: str | None
    warnings: int
    clean: float | None
    worst: float | None
    ops: float | None
    p99_ms: float | None
    updated: str | None
    """UTC, ISO 8601: the last entry of its ledger."""
    began: str | None
    """UTC, ISO 8601: the first entry of its ledger."""
    recipe: str | None
    """Name of its recipe."""
    protocol: str | None
    """What its accuracies are of, e.g. ``digits, linf 0.1, 544 images``; None without a report."""

    def age_s(self, now: datetime) -> float | None:
        """Return the seconds since the last entry of the ledger."""
        return None if self.updated is None else (now - datetime.fromisoformat(self.updated)).total_seconds()


def overviews(runs: Path) -> list[Overview]:
    """Return all runs in ``runs``, the newest first."""
    latest = (runs / LATEST).resolve()
    return [overview(root, latest=root.resolve() == latest) for root in runs_below(runs)]


def overview(root: Path, *, latest: bool = False) -> Overview:
    """Return where the run at ``root`` stands."""
    process = holder(root)
    updated = began = None
    state: State
    try:
        check_readable(root)
        records = Ledger(root / LEDGER).records()
        if records:
            began, updated = _utc(records[0].time), _utc(records[-1].time)
        # A process at work may be between two writes, e.g. sealed in the ledger and without its manifest yet.
        problem = "" if process else _damage(root, records)
        state, detail = ("damaged", problem) if problem else _state(root, records, process is not None)
        report = _report(root) if state == "reported" else {}
        found = _of(root, state, detail, process, latest, updated, report)
        return replace(found, began=began, recipe=_recipe(root), protocol=protocol_of(report) if report else None)
    except (ArtifactError, RecipeError, UsageError) as error:
        detail = "; ".join(error.args)
    except OSError as error:
        detail = f"cannot be read: {error.strerror}"
    # Files may hold anything. One strange run must not hide the hundreds beside it.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        updated, detail = None, f"{LEDGER} or {REPORT} holds what robustdeploy does not write"
    return _of(root, "damaged", detail, process, latest, updated, {})


def _recipe(root: Path) -> str | None:
    name = source_from_file(root / RECIPE, RECIPE).data.get("name")
    return None if name is None else str(name)


def protocol_of(report: Mapping[str, Any]) -> str | None:
    """Return what the accuracies of a report are of, from its plain values; None where it does not tell."""
    data, threat = report.get("data", {}), report.get("threat", {})
    if not (data and threat):
        return None
    images = f", {data['test']:,} images" if isinstance(data.get("test"), int) else ""
    return f"{data.get('name')}, {threat.get('norm')} {threat.get('eps'):g}{images}"


def _utc(time: str) -> str:
    # Ages are differences to a time in UTC, and Python refuses to subtract a time without its zone.
    if datetime.fromisoformat(time).tzinfo is None:
        raise ValueError("a time without its zone")
    return time


def _of(
    root: Path,
    state: State,
    detail: str,
    process: str | None,
    latest: bool,
    updated: str | None,
    report: Mapping[str, Any],
) -> Overview:
    return Overview(
        name=root.name,
        folder=str(root),
        state=state,
        detail=detail,
        process=process,
        latest=latest,
        targets=tuple(places_of(each["subject"] for each in report.get("subjects", ()))),
        verdict=str(report["verdict"]["outcome"]) if report else None,
        warnings=len(report.get("verdict", {}).get("warnings", ())),
        updated=updated,
        began=None,
        recipe=None,
        protocol=None,
        **_figures(report.get("measurements", ()), str(report.get("net"))),
    )


def _damage(root: Path, records: Sequence[Record]) -> str:
    """Say which small file is not as the ledger has it; nothing where all are."""
    if not records:
        return f"{LEDGER} is missing or empty"
    if not (root / RECIPE).is_file():
        return f"{RECIPE} is missing"
    recipes = [r.data.get("sha256") for r in records if r.event == "recipe"]
    if sha256_of_file(root / RECIPE) not in recipes[-1:]:
        return f"{RECIPE} was changed"
    # Manifests are small, and they hold the hashes of all the large files. Those would take minutes for many runs.
    for place, mark in sealed_manifests(records).items():
        manifest = root / place / FILE_NAME
        if not manifest.is_file():
            return f"{place}/{FILE_NAME} is missing"
        if sha256_of_file(manifest) != mark:
            return f"{place}/{FILE_NAME} was changed"
    written = _written(records)
    if (root / REPORT).is_file() and written != sha256_of_file(root / REPORT):
        return f"{REPORT} was changed" if written else f"{REPORT} is not in the ledger"
    return ""


def _written(records: Sequence[Record]) -> str | None:
    marks = [r.data["files"].get(REPORT) for r in records if r.event == "written"]
    return next((mark for mark in reversed(marks) if mark), None)


def _state(root: Path, records: Sequence[Record], busy: bool) -> tuple[State, str]:
    """Return how far a run has come, by what is sealed, and the epoch where it is still being trained."""
    sealed, own_place = sealed_manifests(records), net_place(own_net(records))
    if own_place not in sealed:
        # The dense net is trained first where the recipe asks for it; until then the run's own net has no log.
        trained = own_place if (root / own_place / _LOG).is_file() else net_place(DENSE)
        epoch = _epoch(root, trained, own_place, sealed)
        if busy:
            return "training", epoch
        return ("interrupted", epoch) if epoch else ("begun", "")
    kinds = {kind_of(place) for place in sealed}
    if BOARDS in kinds:
        # What stands beside the recipe's own evaluation makes the report on that one no older.
        own = [r for r in records if r.event == "sealed" and is_own(str(r.data.get("folder")))]
        last = max(record.n for record in own)
        if any(r.n > last for r in records if r.event == "written" and REPORT in r.data["files"]):
            return ("reported", "") if (root / REPORT).is_file() else ("evaluated", "the report was removed")
        return "evaluated", "since the report" if _written(records) else ""
    # A dense net that only takes turns with it is exported too.
    if any(place.startswith(f"{ONNX}/{own_net(records)}/") for place in sealed):
        begun = any(record.event == "part" for record in records)
        return ("interrupted", "in the evaluation") if begun and not busy else ("exported", "")
    return "trained", ""


def _epoch(root: Path, place: str, own: str, sealed: Mapping[str, str]) -> str:
    """Return ``epoch 3 of 30``, with the net's name where it is the dense one; nothing where no epoch has begun."""
    path = root / place / _LOG
    if place in sealed or not path.is_file():
        return "the dense net is trained" if place in sealed else ""
    lines = read_bounded(path).splitlines()
    total = source_from_file(root / RECIPE, RECIPE).data.get("train", {}).get("epochs", "?")
    return f"epoch {len(lines)} of {total}" + (" of the dense net" if place != own else "")


def _report(root: Path) -> Mapping[str, Any]:
    """Return the report's plain values; its hash is that of the ledger."""
    found: dict[str, Any] = read_json(root / REPORT)
    # One of an earlier schema has a verdict, and its rows name no subject.
    return found if found.get("schema_version") == SCHEMA_VERSION else {"verdict": found["verdict"]}


def _figures(rows: Sequence[Mapping[str, Any]], net: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, (metric, attack) in _FIGURES.items():
        its = [row for row in rows if row.get("metric") == metric and row.get("attack") == attack]
        values = [float(row["value"]) for row in its if selects(None, str(row["subject"]), net)]
        worst = min if METRICS[metric].higher_is_better else max
        found[name] = worst(values, default=None)
    return found


def age_text(seconds: float | None) -> str:
    """Return an age as people say it: ``5 min``, ``3 h``, ``2 d``."""
    if seconds is None:
        return "-"
    for unit, size, until in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if seconds < size * until:
            return f"{max(0, int(seconds / size))} {unit}"
    return f"{int(seconds / 86400)} d"
