"""Markdown: the report for a CI step summary or a merge request's comment, verdict first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustdeploy.core.gate import Outcome
from robustdeploy.core.report import Measurement, Report
from robustdeploy.foreign import one_line
from robustdeploy.onboard.types import SIGNS
from robustdeploy.report import evidence
from robustdeploy.report.layer_times import HEAD, LAYERS_NOTE, layer_rows
from robustdeploy.report.nonzero import nonzero_note
from robustdeploy.report.quantity import eps_text, interval, number, quantity
from robustdeploy.report.words import conditions_text

_SIGNS = {Outcome.PASS: "✅ PASS", Outcome.FAIL: "❌ FAIL", Outcome.INCONCLUSIVE: "⚠️ INCONCLUSIVE"}
_LEVELS = {"ok": "OK", "warn": "Warning", "block": "Blocks"}
_CLASSES = 20
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~#!@&$])")
_LINK = re.compile(r"\b(www|mailto|xmpp)([.:])|()(:)(?=//)", re.IGNORECASE)
"""What would become a link by itself."""
_BEGINNING = re.compile(r"^(\d{0,9})([-+=.)])(?=[-+=\s]|$)")
"""What would make the beginning of a line a list or a heading."""


@dataclass(frozen=True)
class Markdown:
    """The summary for CI."""

    filename: str = "report.md"
    most_bytes: int = 1024 * 1024
    """A step summary of more than 1 MiB is refused whole, so a longer one is cut and says so."""

    def __call__(self, report: Report) -> str:
        """Return the summary; every text of the report is escaped."""
        rows = evidence.evidence_from(report)
        parts = (
            _verdict(report),
            _accuracy(rows),
            _curve(rows),
            _queries(rows),
            _distances(rows),
            _patches(rows),
            _corruptions(rows),
            _classes(rows),
            _latency(rows),
            _layers(report),
            _budget(report),
            _rows("Agreement with the reference", rows.agreement),
            _diagnostics(report),
            _rows("Other measurements", rows.other),
            _provenance(report),
        )
        return _cut("\n".join(line for part in parts for line in part) + "\n", self.most_bytes)


def _cut(text: str, most_bytes: int) -> str:
    if len(text.encode()) <= most_bytes:
        return text
    note = "\n\n_Cut to fit; the whole is in report.json and report.html._\n"
    # Cut in bytes, as the limit counts them; half a character at the end is dropped.
    kept = text.encode()[: most_bytes - len(note.encode())].decode(errors="ignore")
    return kept.rpartition("\n")[0] + note


def escaped(text: object) -> str:
    """Write any text so that Markdown and HTML show it as it is, on one line."""
    # A class or a run may be called anything, and in a merge request its name could be a link or mention people.
    marked = _MARKUP.sub(r"\\\1", one_line(" ".join(str(text).split())))
    plain = _BEGINNING.sub(r"\1\\\2", _LINK.sub(r"\1\3\\\2\4", marked))
    return plain.replace("\\<", "&lt;").replace("\\>", "&gt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(escaped(cell) if cell not in ("", None) else "–" for cell in row) for row in rows]
    return [f"| {line} |" for line in lines] + [""]


def _verdict(report: Report) -> list[str]:
    verdict = report.verdict
    beside = verdict.headline.removeprefix(verdict.outcome.value)
    lines = [f"# {_SIGNS[verdict.outcome]}{beside}: {escaped(report.title)}", ""]
    if verdict.reasons:
        lines += ["The evaluation itself is not sound enough for a verdict. This is not a pass.", ""]
        lines += [*(f"- {escaped(reason)}" for reason in verdict.reasons), ""]
    if len(verdict.subjects) > 1:
        lines += _table(("Subject", "Verdict"), ((s.subject, _SIGNS[s.outcome]) for s in verdict.subjects))
    lines += [f"- **{each.credibility}** robustness of {escaped(each.text)}" for each in verdict.robustness]
    lines += [""] if verdict.robustness else []
    lines += _table(("Rule", "Outcome", "Evidence"), ((r.rule, _SIGNS[r.outcome], r.text) for r in verdict.rules))
    lines += [*(f"- **Warning**: {escaped(warning)}" for warning in verdict.warnings)]
    lines += [*(f"- **Not checked**: {escaped(unchecked)}" for unchecked in verdict.unchecked)]
    lines += [""] if verdict.warnings or verdict.unchecked else []
    lines += [*(f"> {escaped(caveat)}" for caveat in evidence.caveats(report)), ""]
    lines += [f"Baseline: {escaped(report.baseline.told)}", ""] if report.baseline else []
    radius = f"{SIGNS[report.threat.norm]} radius {eps_text(report.threat.eps)}"
    return [*lines, f"{escaped(report.created)}, {escaped(report.producer)}, {radius}", ""]


def _cell(row: Measurement | None) -> str:
    if row is None:
        return ""
    bounds = f" ({interval(row)})" if interval(row) else ""
    return f"{quantity(row.value, row.unit)}{bounds}, n = {row.n:,}"


def _accuracy(rows: evidence.Evidence) -> list[str]:
    if not rows.accuracy:
        return []
    intervals = escaped(rows.accuracy_intervals)
    return [
        "## Accuracy under attack",
        "",
        "Adversarial accuracy is an upper bound on true robustness: a stronger attack may find more. "
        f"Intervals{f' ({intervals})' if intervals else ''} cover sampling error.",
        "",
        *_table(
            ("Attack", *rows.subjects, "Found by", "Budget of the attack"),
            ((a.label, *(_cell(a.rows.get(s)) for s in rows.subjects), a.kinds, a.budget) for a in rows.accuracy),
        ),
    ]


def _curve(rows: evidence.Evidence) -> list[str]:
    if not rows.radii:
        return []
    names = [curve.subject for curve in rows.curves]
    head = ("Radius", *names, "Attack")
    lines = ((eps_text(r.eps), *(_cell(r.rows.get(name)) for name in names), r.attacks) for r in rows.radii)
    return ["## Accuracy over the radius", "", *_table(head, lines)]


def _queries(rows: evidence.Evidence) -> list[str]:
    if not rows.queries:
        return []
    head = ("Attack", "Reads", "Subject", "Queries", "Still right", "Device seconds")
    lines = ((r.attack, r.conditions.get("needs"), r.subject, *_spent(r)) for r in rows.queries)
    return [
        "## Accuracy over queries",
        "",
        escaped(f"{evidence.QUERIES_NOTE} {evidence.SECONDS_NOTE}"),
        "",
        *_table(head, lines),
    ]


def _spent(row: Measurement) -> tuple[str, str, str]:
    seconds = row.conditions.get("device_s")
    told = number(float(seconds)) if isinstance(seconds, int | float) else ""
    return f"{row.conditions['queries']:,}", _cell(row), told


def _distances(rows: evidence.Evidence) -> list[str]:
    if not rows.distances:
        return []
    head = ("Metric", "Subject", "Distance", "Mean", "Interval", "n", "Conditions")
    lines = ((*_row(r), conditions_text(r.conditions)) for r in rows.distances)
    return ["## Distances", "", escaped(evidence.DISTANCES_NOTE), "", *_table(head, lines)]


def _patches(rows: evidence.Evidence) -> list[str]:
    if not rows.patches:
        return []
    head = ("Attack", *rows.subjects, "Budget of the attack")
    lines = ((a.label, *(_cell(a.rows.get(s)) for s in rows.subjects), a.budget) for a in rows.patches)
    return ["## Accuracy under patches", "", escaped(evidence.PATCHES_NOTE), "", *_table(head, lines)]


def _corruptions(rows: evidence.Evidence) -> list[str]:
    """Means, and folded away what they are of: fifteen corruptions at five severities."""
    if not rows.corruptions:
        return []
    means = ((a.label, *(_cell(a.rows.get(s)) for s in rows.subjects)) for a in rows.corruptions)
    beside = ((*_row(r), r.conditions.get("corruption")) for r in rows.worst_corruption)
    each = ((*_row(r), conditions_text(r.conditions)) for r in rows.corrupted)
    head = ("Metric", "Subject", "Corruption", "Value", "Interval", "n")
    return [
        *("## Accuracy under corruptions", "", escaped(evidence.CORRUPTIONS_NOTE), ""),
        *_table(("Corruption", *rows.subjects), means),
        *_table((*head, "Lowest under"), beside),
        *("<details><summary>Each severity</summary>", "", *_table((*head, "Conditions"), each), "</details>", ""),
    ]


def _classes(rows: evidence.Evidence) -> list[str]:
    """The classes that stand worst, folded away: a data set may have a thousand."""
    shown = rows.classes[:_CLASSES]
    lines = ((line.name, line.subject, _cell(line.clean), _cell(line.worst)) for line in shown)
    more = f", the {len(shown)} worst of {len(rows.classes)}" if len(shown) < len(rows.classes) else ""
    table = _table(("Class", "Subject", "Clean", "Worst case"), lines)
    folded = [f"<details><summary>Accuracy per class{more}</summary>", "", *table, "</details>", ""]
    return [*_rows("Classes", rows.balance), *(folded if shown else [])]


def _latency(rows: evidence.Evidence) -> list[str]:
    timed = rows.percentiles + rows.latency
    conditions = conditions_text(evidence.shared_conditions(timed))
    told = ". ".join(filter(None, [conditions, rows.latency_intervals and f"Intervals: {rows.latency_intervals}"]))
    return _rows("Latency", timed) + ([escaped(told), ""] if told else [])


def _layers(report: Report) -> list[str]:
    """Where the time goes, folded away for each subject: a net may have hundreds of layers."""
    lines = ["## Where the time goes", "", LAYERS_NOTE, ""] if report.figures.layer_times else []
    for subject in report.figures.layer_times:
        table = _table(HEAD, layer_rows(report, subject))
        lines += [f"<details><summary>{escaped(subject)}</summary>", "", *table, "</details>", ""]
    return lines


def _rows(title: str, rows: Sequence[Measurement]) -> list[str]:
    if not rows:
        return []
    return [f"## {title}", "", *_table(("Metric", "Subject", "Attack", "Value", "Interval", "n"), map(_row, rows))]


def _row(row: Measurement) -> tuple[object, ...]:
    return row.metric, row.subject, row.attack, quantity(row.value, row.unit), interval(row), f"{row.n:,}"


def _budget(report: Report) -> list[str]:
    b = report.budget
    counts = ", ".join(f"{name} {count:,}" for name, count in b.counts.items())
    lines = [
        ("MACs", *_cost(b.macs, b.dense_macs, b.ops_target)),
        ("Parameters", *_cost(b.params, b.dense_params, b.params_target)),
    ]
    if b.memory_bytes is not None and b.dense_memory_bytes is not None:
        lines += [("Activation memory, bytes", *_cost(b.memory_bytes, b.dense_memory_bytes, b.memory_target))]
    told = [f"MACs counted independently: {escaped(counts)}", ""] if counts else []
    told += [escaped(note), ""] if (note := nonzero_note(report)) else []
    return ["## Size and operations", "", *_table(("", "Compact", "Dense", "Fraction", "Budget"), lines), *told]


def _cost(compact: int, dense: int, target: float) -> tuple[str, str, str, str]:
    """Write one cost of both nets, the fraction kept, and the limit where there is one."""
    fraction = quantity(compact / dense, "fraction") if dense else ""
    return f"{compact:,}", f"{dense:,}", fraction, quantity(target, "fraction") if target < 1 else ""


def _diagnostics(report: Report) -> list[str]:
    lines = ((_LEVELS[d.level], d.id, d.text) for d in report.diagnostics)
    if not report.diagnostics:
        return []
    return ["## Checks of the evaluation itself", "", *_table(("Level", "Check", "Finding"), lines)]


def _provenance(report: Report) -> list[str]:
    lines = [(f"SHA-256 of {name}", digest) for name, digest in report.sha256.items()]
    for each in report.deployed:
        lines += [(f"{each.subject}: SHA-256 of {name}", digest) for name, digest in each.sha256.items()]
        lines += [(f"{each.subject}: {name}", value) for name, value in evidence.flat(each.board)]
    lines += [(f"data.{name}", value) for name, value in evidence.flat(report.data)]
    return ["<details><summary>Where this comes from</summary>", "", *_table(("What", "Value"), lines), "</details>"]


plugin = Markdown
