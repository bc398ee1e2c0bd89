"""Print a command's result: words, or one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer

from robustdeploy.cli.streams import shows_everything
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.settings import evaluations_of, is_own
from robustdeploy.errors import RobustdeployError
from robustdeploy.foreign import json_text, one_line, sentence
from robustdeploy.report.evidence import BALANCE, is_unbalanced, subjects_in_order
from robustdeploy.report.quantity import quantity

_LEFT_OUT = {"already_wrong": "wrong already", "not_found": "without one found"}


def show(lines: Iterable[str], document: Any, as_json: bool) -> None:
    """Print ``lines``, or ``document`` when JSON was asked for, on stdout.

    Each line stays one, whatever words of others are in it.
    """
    if as_json:
        # An encoding that lacks a character must not change a value: JSON has escapes of its own.
        plain = not shows_everything(sys.stdout)
        print(json_text(document, ascii_only=plain, indent=2, default=str, allow_nan=False))
        return
    for line in lines:
        print(sentence(line))


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return rows of cells as lines with columns of one width; those in ``right`` are aligned at their right side."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            f"{cell:>{w}}" if i in right else f"{cell:<{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def refuse(error: RobustdeployError, document: Any, as_json: bool) -> NoReturn:
    """End with an error whose findings are the command's document: with JSON that is printed, and nothing beside it."""
    if not as_json:
        raise error
    show((), document, as_json)
    print(f"error: {error}", file=sys.stderr)
    raise typer.Exit(error.exit_code)


def gate_command(report: Path) -> str:
    """Return the command that judges a report which has just been written, by its file."""
    named = evaluations_of(report.name)
    if len(named) == 1 and not is_own(named[0]):
        return f"robustdeploy gate {report.parent} --target {named[0]}"
    return f"robustdeploy gate {report if named else report.parent}"


def verdict_lines(verdict: Any) -> list[str]:
    """Return a verdict as lines: the outcome, what made the evaluation unsound, each rule, and what stands beside."""
    lines = [verdict.headline]
    if len(verdict.subjects) > 1:
        lines += [f"  {each.outcome.value:<12} {each.subject}" for each in verdict.subjects]
    lines += [f"  {each.credibility.value:<12} robustness of {each.text}" for each in verdict.robustness]
    lines += [f"  unsound: {reason}" for reason in verdict.reasons]
    lines += [f"  {rule.outcome.value:<12} {rule.rule}: {rule.text}" for rule in verdict.rules]
    lines += [f"  {'warning':<12} {warning}" for warning in verdict.warnings]
    lines += [f"  {'not checked':<12} {unchecked}" for unchecked in verdict.unchecked]
    return lines


def verdict_document(verdict: Any) -> dict[str, Any]:
    """Return a verdict as JSON values."""
    document: dict[str, Any] = verdict.model_dump(mode="json")
    return document


def accuracy_lines(report: Any) -> list[str]:
    """Return accuracy per attack as a table with a column for each subject."""
    subjects = subjects_in_order(report)
    cells: dict[tuple[str, str, str | None], Any] = {}
    for row in report.measurements:
        cells.setdefault((row.metric, row.subject, row.attack), row)
    attacks = dict.fromkeys(row.attack for row in report.measurements if row.metric == "robust_accuracy")
    # The worst case sums the others up.
    attacks = {**{name: None for name in attacks if name != "worst"}, **attacks}
    n = max((row.n for row in report.measurements if row.metric == "clean_accuracy"), default=0)
    widths = [max(22, len(subject) + 2) for subject in subjects]
    head = "".join(f"{name:>{width}}" for name, width in zip(subjects, widths, strict=True))
    lines = [f"{f'% [95 % interval], n = {n:,}':<28}{head}"]
    for attack in (None, *attacks):
        line = f"{one_line(attack or 'clean'):<28}"
        metric = "clean_accuracy" if attack is None else "robust_accuracy"
        for subject, width in zip(subjects, widths, strict=True):
            line += f"{_share(cells.get((metric, subject, attack))):>{width}}"
        lines.append(line)
    return [*lines, *_balance(report, dict(zip(subjects, widths, strict=True))), *_means(report)]


def _means(report: Any) -> Iterator[str]:
    """Return a line for each mean distance, with what of the images it is not of, and for each vulnerability."""
    means = ("distances", "features")
    rows = [row for row in report.measurements if row.metric in METRICS and METRICS[row.metric].support in means]
    for row in rows:
        told = row.conditions
        left = [f"{told[key]:,} {words}" for key, words in _LEFT_OUT.items() if told.get(key)]
        beside = f" ({', '.join(left)})" if left else ""
        value, low, high = (quantity(each, "") for each in (row.value, row.low, row.high))
        yield (
            f"{f'{row.metric} by {row.attack}':<28}{value} [{low}, {high}] {row.unit}, "
            f"n = {row.n:,}{beside}, {row.subject}"
        )


def _balance(report: Any, widths: dict[str, int]) -> list[str]:
    """Return balanced accuracies, and what a constant answer reaches, where the classes are of unequal size."""
    if not is_unbalanced(report):
        return []
    words = ("clean, classes alike", "worst, classes alike", "always the largest class")
    lines = []
    for metric, name in zip(BALANCE, words, strict=True):
        rows = {row.subject: row for row in report.measurements if row.metric == metric}
        lines.append(f"{name:<28}" + "".join(f"{_share(rows.get(each)):>{width}}" for each, width in widths.items()))
    return lines


def _share(row: Any) -> str:
    if row is None:
        return "-"
    return f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
