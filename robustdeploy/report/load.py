"""Load a report or a gate file from disk, and refuse what was truncated, edited or is something else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustdeploy.core.complaint import complaint
from robustdeploy.core.gate import Gate, Rule, Verdict
from robustdeploy.core.load import of_kind, rule_problems
from robustdeploy.core.reading import values_from
from robustdeploy.core.report import SCHEMA_VERSION, Report
from robustdeploy.core.rules import contradictions
from robustdeploy.core.yaml_source import Problem, source_from_file
from robustdeploy.engine.lineage import remedy
from robustdeploy.errors import ArtifactError, RecipeError
from robustdeploy.report.judge import judge_report

_MOST_BYTES = 256 * 2**20


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Load the ``rules:`` of a gate file; all its problems, each with line and column, are one RecipeError."""
    source = of_kind("gate file", source_from_file(path, str(path)))
    problems, found = list(source.problems), None
    try:
        found = Gate.model_validate(source.data)
    except ValidationError as error:
        # pydantic also calls a list too short whose only item was refused.
        errors = [e for e in error.errors() if e["type"] != "too_short" or error.error_count() == 1]
        told = [(e["loc"], _sentence(e["type"], complaint(e, Gate))) for e in errors]
        problems += [Problem(source.mark(p), p, text) for p, text in told if p not in source.unreadable]
    meant = list(rule_problems(source.data, ("rules",)))
    meant += [(("rules", index), text) for index, text in contradictions(found.rules)] if found else []
    problems += [Problem(source.mark(place), place, text) for place, text in meant]
    if found is None or problems:
        raise RecipeError(*dict.fromkeys(str(p) for p in sorted(problems, key=lambda p: p.mark)))
    return found.rules


def _sentence(kind: str, text: str) -> str:
    return "must hold at least one rule: a gate without rules passes nothing" if kind == "too_short" else text


def load_report(path: Path) -> Report:
    """Load ``report.json``; one that is missing, truncated, edited or no report is an ArtifactError.

    Edits show where they break the form, and where the verdict no longer follows from the rows and the rules. An
    edit that keeps all of that in step is found by the run's ledger and manifests, not here.
    """
    report = _validated(path, _parsed(path, _text(path)))
    # Whoever edits a verdict, or a row without it, leaves two things that do not agree.
    again = judge_report(report)
    if _outcomes(again) != _outcomes(report.verdict):
        raise ArtifactError(
            f"{path}: says {report.verdict.outcome} where its rows and rules give {again.outcome}, or differs in the "
            f"outcome of a rule, so it was edited; {remedy(path)}"
        )
    return report


def _outcomes(verdict: Verdict) -> Sequence[object]:
    # Without the sentences: a later version may word them otherwise.
    return [verdict.outcome, *((line.rule, line.outcome) for line in verdict.rules)]


def _text(path: Path) -> str:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; {remedy(path)}")
    if path.suffix.lower() != ".json":
        rules = "; rules are given with --rules" if path.suffix in (".yaml", ".yml") else ""
        raise ArtifactError(f"{path} is no report: a run is read here, by folder or name, or a report.json{rules}")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ArtifactError(f"{path}: {size / 2**20:,.0f} MiB is more than any report holds; is this another file?")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not text in UTF-8 (byte {error.start:,}); {remedy(path)}") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error


def _parsed(path: Path, text: str) -> Any:
    try:
        return values_from(text)
    except json.JSONDecodeError as error:
        # A truncated file ends where the reader still waits for more; any other fault was made by somebody.
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        why = f"ends at line {error.lineno}, in the middle" if cut else f"is not JSON at line {error.lineno}"
        raise ArtifactError(f"{path}: {why}, so it was {'truncated' if cut else 'edited'}; {remedy(path)}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: is no report: {error}; {remedy(path)}") from error


def _validated(path: Path, data: Any) -> Report:
    if not isinstance(data, dict) or "measurements" not in data:
        raise ArtifactError(f"{path}: is JSON but no report of robustdeploy: it has no 'measurements'")
    if data.get("schema_version") != SCHEMA_VERSION:
        found = data.get("schema_version", "none")
        raise ArtifactError(f"{path}: has schema_version {found}; this version of robustdeploy reads {SCHEMA_VERSION}")
    try:
        return Report.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {place} {complaint(first, Report)}, so it was edited; {remedy(path)}") from error
