"""``robustdeploy bisect``: at which step from training to a board accuracy is lost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from robustdeploy.cli.completion import complete_precision
from robustdeploy.cli.heavy import bisecting
from robustdeploy.cli.options import RUNS, EvaluationOption, JsonOption, RunArgument, RunsOption
from robustdeploy.cli.result import show, table
from robustdeploy.engine.evaluations import evaluation_named, evaluations_named
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError

if TYPE_CHECKING:
    from robustdeploy.evaluate.bisect import Bisected, Step

PrecisionOption = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads it at run time
    typer.Option("--precision", help="Which of those measured there.", autocompletion=complete_precision),
]


def bisect(
    run: RunArgument = None,
    target: EvaluationOption = None,
    precision: PrecisionOption = None,
    runs: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Find the step at which accuracy is lost.

    Dense net, pruned net, ONNX file, precision and engine are compared on the same test images, each under attacks on
    itself. The first step with a significant drop is named.
    """
    opened = Run.open(run, runs)
    names = [evaluation_named(target)] if target else evaluations_named(opened)
    if len(names) > 1:
        raise UsageError(f"{opened.root} was evaluated on {', '.join(names)}; say which with --target")
    found = bisecting.bisect(opened, names[0], precision or "")
    show([f"run {opened.root}, {found.subject}", *_lines(found)], _document(found), as_json)


def _lines(found: Bisected) -> list[str]:
    n = len(found.steps[0].clean)
    told = {(change.after, change.metric): change for change in found.changes}
    rows = [[f"% [95 % interval], n = {n}", "clean", "change", "under gradient attacks", "change"]]
    for step in found.steps:
        cells = [step.name]
        for metric in ("clean", "robust"):
            change = told.get((step.name, metric))
            fell = "" if change is None else f"{100 * change.difference:+.1f}, p {change.p:.2g}"
            cells += [_share(step, metric), fell]
        rows.append(cells)
    lines = [*table(rows, right=range(1, 5)), *(f"note: {each}" for each in found.missing)]
    lines += [found.masked] if found.masked else []
    if not found.drops:
        least = bisecting.least_drop(len(found.changes), n)
        lines.append(f"no step loses accuracy beyond chance; on {n} images a loss below {least:.1%} cannot be seen")
    for word, change in zip(("first loss", *["further loss"] * n), found.drops, strict=False):
        lines.append(
            f"{word}: from {change.before} to {change.after}, {change.metric} accuracy "
            f"{100 * change.difference:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]: "
            f"{change.lost} images lost, {change.gained} gained, p {change.p:.2g} (McNemar)"
        )
    return lines


def _share(step: Step, metric: Any) -> str:
    low, high = step.interval(metric)
    return f"{100 * step.bits[metric].mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _document(found: Bisected) -> dict[str, Any]:
    steps = [
        {
            "name": step.name,
            "n": len(step.clean),
            **{
                metric: {"value": float(bits.mean()), "low": low, "high": high}
                for metric, bits in step.bits.items()
                for low, high in [step.interval(metric)]
            },
        }
        for step in found.steps
    ]
    told = {name: [asdict(change) for change in getattr(found, name)] for name in ("changes", "drops")}
    first = told["drops"][0] if told["drops"] else None
    return {
        "subject": found.subject,
        "steps": steps,
        **told,
        "first": first,
        "missing": list(found.missing),
        "masked": found.masked,
    }
