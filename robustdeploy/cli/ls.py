"""``robustdeploy ls``: what there is, one line each."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from robustdeploy.cli.completion import LISTS, RUNS_LIST, complete_list
from robustdeploy.cli.options import RUNS, JsonOption, RunsOption
from robustdeploy.cli.result import show, table
from robustdeploy.core import metrics
from robustdeploy.core.comparison import Comparison
from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.load import load_comparison, load_recipe, load_target, load_threat_preset
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.core.shipped import ShippedKind, shipped_folder, shipped_names
from robustdeploy.core.target import Target
from robustdeploy.core.threat_preset import ThreatPreset
from robustdeploy.engine.ledger import utc_now
from robustdeploy.engine.overview import age_text, overviews
from robustdeploy.errors import UsageError
from robustdeploy.foreign import one_line

KindArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help=f"One of {', '.join(LISTS)}, or runs; everything but runs when left out.",
        autocompletion=complete_list,
    ),
]


def ls(kind: KindArgument = "", runs: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """List recipes, plug-ins, runs and the like.

    Runs are listed with state, verdict, key figures and age, the newest first.
    """
    if kind == RUNS_LIST:
        _show_runs(runs, as_json)
        return
    if kind and kind not in LISTS:
        known = (*LISTS, RUNS_LIST)
        raise UsageError(f"there is no list of '{kind}'{did_you_mean(kind, known)} (lists: {', '.join(known)})")
    found = {each: _listed(each) for each in ([kind] if kind else LISTS)}
    lines = []
    for each, entries in found.items():
        lines += [each] if not kind else []
        width = max((len(entry["name"]) for entry in entries), default=0)
        lines += [f"{'' if kind else '  '}{entry['name']:<{width}}  {_told(entry)}" for entry in entries]
    show(lines, found[kind] if kind else found, as_json)


def _show_runs(runs: Path, as_json: bool) -> None:
    found, now = overviews(runs), utc_now()
    rows = [["run", "state", "verdict", "clean %", "worst %", "ops %", "p99 ms", "target", "age"]]
    for each in found:
        state = each.state + (f" ({each.detail})" if each.detail else "")
        state += f", in use by process {each.process}" if each.process else ""
        warned = f" ({each.warnings} warning{'' if each.warnings == 1 else 's'})" if each.warnings else ""
        shares = ["-" if value is None else f"{100 * value:.1f}" for value in (each.clean, each.worst, each.ops)]
        latency = "-" if each.p99_ms is None else f"{each.p99_ms:.3g}"
        age = age_text(each.age_s(now))
        rows.append(
            [each.name, state, (each.verdict or "-") + warned, *shares, latency, ", ".join(each.targets) or "-", age]
        )
    if not found:
        print(one_line(f"there is no run in {runs} yet; `robustdeploy run` makes one"), file=sys.stderr)
    document = [{**asdict(each), "age_s": each.age_s(now)} for each in found]
    show(table(rows, right=range(3, 7)) if found else (), document, as_json)


def _listed(kind: str) -> list[dict[str, str]]:
    if kind == "metrics":
        return [
            _entry(each.name, f"{each.meaning} ({each.unit})", metrics.__file__) for each in metrics.METRICS.values()
        ]
    if kind == "recipes":
        return [_shipped("recipes", name, load_recipe(name, registries=None)) for name in shipped_names("recipes")]
    if kind == "comparisons":
        named = shipped_names("comparisons")
        return [_shipped("comparisons", name, load_comparison(name, registries=None)) for name in named]
    if kind == "targets":
        return [_shipped("targets", name, load_target(name, registries=None)) for name in shipped_names("targets")]
    if kind == "threats":
        return [_shipped("threats", name, load_threat_preset(name)) for name in shipped_names("threats")]
    registry = REGISTRIES[kind]
    entries = [_entry(name, registry.summary(name), registry.origin(name)) for name in registry.names()]
    if kind != "query-attacks":
        return entries
    # Whoever has to attack an engine that tells labels alone looks for this first.
    return [{**entry, "needs": _needs(entry["name"])} for entry in entries]


def _needs(name: str) -> str:
    return str(REGISTRIES["query-attacks"].trait(name, "NEEDS", "scores"))


def _shipped(kind: ShippedKind, name: str, loaded: Recipe | Target | Comparison | ThreatPreset) -> dict[str, str]:
    return _entry(name, loaded.description, shipped_folder(kind) / f"{name}.yaml")


def _told(entry: dict[str, str]) -> str:
    return entry["summary"] + (f" (needs {entry['needs']})" if "needs" in entry else "")


def _entry(name: str, summary: str, origin: object) -> dict[str, str]:
    return {"name": name, "summary": summary, "origin": str(origin)}
