"""Print a command's result: words, or one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NoReturn

import typer

from robustdeploy.cli.streams import shows_everything
from robustdeploy.errors import RobustdeployError
from robustdeploy.foreign import json_text, one_line, sentence


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


def verdict_lines(verdict: Any) -> list[str]:
    """Return a verdict as lines: the outcome, what made the evaluation unsound, each rule, and what stands beside."""
    lines = [verdict.headline]
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
    """Return accuracy per attack as a table: the compact net on the board and on the host, and the dense net."""
    columns = {"board": ("", "board"), "host": ("", "host"), "dense": ("dense_", "host")}
    cells = {(row.metric, row.where, row.attack): row for row in report.measurements}
    attacks = [row.attack for row in report.measurements if row.metric == "robust_accuracy" and row.where == "board"]
    n = max((row.n for row in report.measurements if row.metric == "clean_accuracy"), default=0)
    lines = [f"{f'% [95 % interval], n = {n:,}':<28}" + "".join(f"{name:>22}" for name in columns)]
    for attack in (None, *attacks):
        line = f"{one_line(attack or 'clean'):<28}"
        for prefix, where in columns.values():
            metric = prefix + ("clean_accuracy" if attack is None else "robust_accuracy")
            line += f"{_share(cells.get((metric, where, attack))):>22}"
        lines.append(line)
    return [*lines, *_balance(report, len(columns))]


def _balance(report: Any, columns: int) -> list[str]:
    """Return balanced accuracies, and what a constant answer reaches, where the classes are of unequal size."""
    from robustdeploy.report.evidence import BALANCE, is_unbalanced

    if not is_unbalanced(report):
        return []
    names = dict(
        zip(BALANCE, ("clean, classes alike", "worst, classes alike", "always the largest class"), strict=True)
    )
    rows = [row for row in report.measurements if row.metric in BALANCE]
    return [f"{names[row.metric]:<28}{_share(row):>22}" + f"{'-':>22}" * (columns - 1) for row in rows]


def _share(row: Any) -> str:
    if row is None:
        return "-"
    return f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
