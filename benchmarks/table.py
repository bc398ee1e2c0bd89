"""Table: docs/results.md's figures, rendered from the row files and from nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import machine
from rowfile import read_row
from rows import METHODS, ROWS

from robustdeploy.core.files import atomic_write_text
from robustdeploy.errors import UsageError

START, END = "<!-- made by benchmarks/results.py table -->", "<!-- end of what is made -->"
PAGE = f"""# Results

Every figure below is rendered from a `row.json` that lies beside the net that it is of; `benchmarks/README.md` says
how to make and measure them again.

{START}
{END}
"""
ATTACKS = ("fgsm", "pgd-10", "pgd-50-10")
ACCURACIES = ("clean", *map(str.upper, ATTACKS))

Record = Mapping[str, Any]


def write_table(results: Path, page: Path) -> int:
    """Render all measured rows into ``page``, between its two markers; return how many there are.

    A page that is not there yet is begun; one without the markers is a UsageError.
    """
    records = measured_rows(results)
    text = page.read_text(encoding="utf-8") if page.exists() else PAGE
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise UsageError(f"{page} has no place for the table; write {START} and {END} on lines of their own there")
    atomic_write_text(page, f"{before}{START}\n\n{rendered(records, _link(results, page))}\n{END}{after}")
    return len(records)


def measured_rows(results: Path) -> list[Record]:
    """Return the row files of all rows that were measured, in the order of the rows."""
    found = [read_row(results / row.name) for row in ROWS]
    return [record for record in found if record is not None and "measured" in record]


def _link(results: Path, page: Path) -> str:
    """Return the way from the page to the results, as a link writes it."""
    return Path(os.path.relpath(results, page.parent)).as_posix()


def rendered(records: Sequence[Record], link: str) -> str:
    """Return the table, what its rows have in common over several seeds, and under which conditions it was made."""
    if not records:
        return "Nothing has been measured yet.\n"
    heads = [
        "net",
        "how",
        "seed",
        "MACs",
        "of dense",
        "parameters",
        "epochs",
        "time",
        "n",
        "clean",
        *map(str.upper, ATTACKS),
    ]
    lines = [
        "Accuracies in %, with 95 % Clopper-Pearson intervals, on `n` test images; time to train.",
        "",
        _line(heads),
    ]
    lines += [_line(["---"] * len(heads)), *(_line(_cells(record, link)) for record in records)]
    return "\n".join(
        [*lines, *_against_dense(records), *_latencies(records), *_over_seeds(records), "", *_conditions(records), ""]
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(record: Record, link: str) -> list[str]:
    return [
        f"[{record['row']}]({link}/{record['row']})",
        METHODS[record["method"]],
        str(record["seed"]),
        f"{record['macs']:,}",
        f"{record['ops_fraction']:.4f}",
        f"{record['params']:,}",
        str(record["epochs"]),
        _duration(record["training"]["seconds"]),
        f"{record['measured']['n']:,}",
        *(_accuracy(record, attack) for attack in (None, *ATTACKS)),
    ]


def _accuracy(record: Record, attack: str | None) -> str:
    row = _measurement(record, attack)
    if row is None:
        return "not measured"
    return f"{100 * row['value']:.2f} [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


def _measurement(record: Record, attack: str | None) -> Record | None:
    """Return what was found under an attack; None where it was left out."""
    rows: list[Record] = record["measured"]["measurements"]
    return next((row for row in rows if row.get("attack") == attack), None)


def _duration(seconds: float) -> str:
    """Return hours and minutes, or less where that says more."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"


def _against_dense(records: Sequence[Record]) -> list[str]:
    """Return, per row, the points that it lies above (+) or below (-) the dense row of the same recipe and epochs."""
    dense = {_schedule(record): record for record in records if record["method"] == "dense"}
    heads = ["net", *ACCURACIES]
    lines = []
    for record in records:
        base = dense.get(_schedule(record))
        if base is not None and base is not record:
            lines.append(_line([record["row"], *(_difference(record, base, a) for a in (None, *ATTACKS))]))
    if not lines:
        return []
    return ["", "Against the dense net, in points:", "", _line(heads), _line(["---"] * len(heads)), *lines]


def _difference(record: Record, base: Record, attack: str | None) -> str:
    one, other = _measurement(record, attack), _measurement(base, attack)
    return "" if one is None or other is None else f"{100 * (one['value'] - other['value']):+.2f}"


def _latencies(records: Sequence[Record]) -> list[str]:
    """Return the latency of one image on each toolchain as a fraction of the dense net's, and how it was timed."""
    timed = [record for record in records if "latency" in record]
    if not timed:
        return []
    toolchains = list(dict.fromkeys(name for record in timed for name in record["latency"]["toolchains"]))
    lines = ["", "Latency of one image over the dense net's, with 95 % intervals, and the time itself:", ""]
    lines += [_line(["net", "of its operations", *toolchains]), _line(["---"] * (2 + len(toolchains)))]
    for record in timed:
        cells = [_latency(record["latency"]["toolchains"].get(name)) for name in toolchains]
        lines.append(_line([record["row"], f"{record['ops_fraction']:.3f}", *cells]))
    told = dict.fromkeys(_timed(record["latency"]) for record in timed)
    return [*lines, "", *told]


def _latency(found: Record | None) -> str:
    if found is None:
        return "not timed"
    return f"{found['fraction']:.3f} [{found['low']:.3f}, {found['high']:.3f}], {found['median_us']:,.0f} µs"


def _timed(found: Record) -> str:
    versions = ", ".join(f"{name} {each['version']}" for name, each in found["toolchains"].items())
    return (
        f"In {found['precision']}, one thread, in one process, {found['rounds']} rounds in which the nets take turns; "
        f"the median over the rounds. {versions}. On {machine.in_words(found['machine'])}; load average at the end "
        f"{found['load']}."
    )


def _schedule(record: Record) -> tuple[Any, ...]:
    return record["recipe"], record["epochs"]


def _over_seeds(records: Sequence[Record]) -> list[str]:
    """Return one line for each kind of row that was made from several seeds: the mean and both ends."""
    kinds: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        kind = tuple(record[part] for part in ("recipe", "ops_asked", "method", "epochs"))
        kinds.setdefault(kind, []).append(record)
    lines = []
    for (recipe, ops, method, epochs), group in kinds.items():
        if len(group) > 1:
            parts = ", ".join(_span(group, attack) for attack in (None, *ATTACKS))
            seeds = ", ".join(str(record["seed"]) for record in group)
            lines.append(
                f"{recipe} at {ops:g} of the operations, {METHODS[method]}, {epochs} epochs, mean (lowest to highest) "
                f"over seeds {seeds}: {parts}."
            )
    return ["", *lines] if lines else []


def _span(group: Sequence[Record], attack: str | None) -> str:
    found = [_measurement(record, attack) for record in group]
    values = [100 * row["value"] for row in found if row is not None]
    if len(values) < len(group):
        return f"{attack or 'clean'} not measured for all"
    return f"{attack or 'clean'} {mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _conditions(records: Sequence[Record]) -> list[str]:
    """Return what all figures depend on, each different one once, with the rows that it holds for."""
    told: dict[str, list[str]] = {}
    for record in records:
        for sentence in (_attacked(record), _trained(record), *map(_collapsed, record["collapses"])):
            told.setdefault(sentence, []).append(record["row"])
    return [
        f"- {sentence}" + ("" if len(names) == len(records) else f" ({', '.join(names)})")
        for sentence, names in told.items()
    ]


def _attacked(record: Record) -> str:
    found = record["measured"]
    settings = "; ".join(_settings(row) for row in found["measurements"] if "attack" in row)
    return (
        f"Attacked in {found['precision']} at {found['threat']['norm']} eps {255 * found['threat']['eps']:g}/255: "
        f"{settings}. On {machine.in_words(found['machine'])}."
    )


def _settings(row: Record) -> str:
    given = dict(row["conditions"])
    parts = [f"{given['steps']} steps of {255 * given['alpha']:g}/255"] if "alpha" in given else ["one step of eps"]
    if given.get("restarts", 1) > 1:
        parts.append(f"{given['restarts']} random starts")
    if skipped := given.get("counted_as_broken"):
        parts.append(f"on the images that {' and '.join(skipped)} left standing, all others counted as broken")
    return f"{row['attack']} ({', '.join(parts)})"


def _trained(record: Record) -> str:
    made = record["training"]
    return (
        f"Trained on {made['images']:,} images of {record['data']}, {made['validation_images']:,} more held out of the "
        f"training set for validation, in {made['precision']} on {machine.in_words(made['machine'])}."
    )


def _collapsed(event: Record) -> str:
    return (
        f"Catastrophic overfitting at step {event['step']:,} ({event['reason']}): taken back to step "
        f"{event['back_to_step']:,} and on with {event['task_from_here']}."
    )
