"""Tiles: the five figures that a verdict rests on, each with its limit, its margin and where it stood before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from robustdeploy.core.figures import Past
from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.report import Measurement, Report
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject, selects, subject_from
from robustdeploy.report.quantity import SHARES, interval, points, quantity
from robustdeploy.report.scale import bounds_of

_WHOLE_MS = ("latency_ms.p99", "latency_ms.p90", "latency_ms.p50", "response_ms.p99", "response_ms.p50")
_DENSE = str(Subject(DENSE, FP32, TORCH))


@dataclass(frozen=True)
class Tile:
    """One figure."""

    title: str
    value: str
    detail: str = ""
    """Its interval, or what it is made of."""
    limit: str = ""
    """Empty where no rule bounds it."""
    margin: str = ""
    outcome: Outcome | None = None
    subject: str = ""
    """Whose it is, where there are several."""
    trend: tuple[float, ...] = ()
    """Earlier values and this one."""
    before: str = ""
    """The value of the run before, in words."""


def tiles_of(report: Report) -> tuple[Tile, ...]:
    """Return the tiles of the run's own net; of several targets the one where a figure is worst."""
    made = (
        _tile(report, "Clean accuracy", "clean_accuracy", None, lambda past: past.clean),
        _tile(report, "Worst case", "robust_accuracy", "worst", lambda past: past.worst),
        _cost(report),
        _tile(report, "Operations", "ops_fraction", None, lambda past: past.ops),
        _latency(report),
    )
    return tuple(tile for tile in made if tile is not None)


def limits_of(report: Report) -> dict[str, float]:
    """Return the limits that rules set to the accuracies of the run's own net, by attack; ``clean`` is one."""
    found: dict[str, float] = {}
    for rule in report.rules:
        own = rule.subject is None or subject_from(rule.subject.replace("*", "x").replace("?", "x")).net != DENSE
        if own and rule.at_least is not None and rule.metric in ("clean_accuracy", "robust_accuracy"):
            label = rule.attack or "clean"
            # Of several limits the highest decides.
            found[label] = max(rule.at_least, found.get(label, 0.0))
    return found


def _own(report: Report, metric: str, attack: str | None) -> Measurement | None:
    """Return the row of the run's own net on the target where it is worst; the reference where none is deployed."""
    rows = [row for row in report.measurements if (row.metric, row.attack) == (metric, attack)]
    deployed = [row for row in rows if selects(None, row.subject, report.net)]
    worst: Callable[..., Measurement | None] = min if METRICS[metric].higher_is_better else max
    return worst(deployed, key=lambda row: row.value, default=None)


def _tile(
    report: Report, title: str, metric: str, attack: str | None, past: Callable[[Past], float | None] | None
) -> Tile | None:
    row = _own(report, metric, attack)
    if row is None:
        return None
    rule, outcome = _rule(report, row)
    limit = _limit(rule, row) if rule else None
    earlier = [(each, value) for each in report.history if past and (value := past(each)) is not None]
    several = len(report.deployed) > 1
    counted = _counts(row) if metric == "ops_fraction" else ""
    return Tile(
        title=title,
        value=quantity(row.value, row.unit, 1 if row.unit in SHARES else 2),
        detail=counted or (f"{interval(row, 1 if row.unit in SHARES else 2)} · n = {row.n:,}".lstrip(" ·")),
        limit="" if rule is None or limit is None else f"{_word(rule)} {_short(limit, row.unit)}",
        margin="" if rule is None or limit is None else _margin(rule, row, limit),
        outcome=outcome,
        subject=row.subject if several else "",
        trend=(*(value for _, value in earlier), row.value) if earlier else (),
        before=f"{quantity(earlier[-1][1], row.unit)} in {earlier[-1][0].name}" if earlier else "",
    )


def _counts(row: Measurement) -> str:
    macs, dense = (row.conditions.get(name) for name in ("macs", "dense_macs"))
    return f"{macs:,} of {dense:,} MACs" if isinstance(macs, int) and isinstance(dense, int) else ""


def _rule(report: Report, row: Measurement) -> tuple[Rule | None, Outcome | None]:
    """Return the first rule with a limit on a row, and the worst outcome of all rules on it."""
    about = {r.id: r for r in report.rules if (r.metric, r.attack, r.class_name) == (row.metric, row.attack, None)}
    lines = [line for line in report.verdict.rules if line.rule in about and line.subject == row.subject]
    limiting = [about[line.rule] for line in lines if about[line.rule].no_worse_than_baseline is None]
    found = {line.outcome for line in lines}
    worst = next((each for each in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS) if each in found), None)
    return next(iter(limiting), None), worst


def _limit(rule: Rule, row: Measurement) -> float | None:
    if rule.at_least is not None:
        return rule.at_least
    found = row.conditions.get("budget") if rule.by_budget else rule.at_most
    return float(found) if isinstance(found, int | float) else None


def _word(rule: Rule) -> str:
    return "at least" if rule.at_least is not None else "at most"


def _short(limit: float, unit: str) -> str:
    if unit in SHARES:
        return f"{100 * limit:.4g} %"
    return f"{limit:g} {unit}"


def _margin(rule: Rule, row: Measurement, limit: float) -> str:
    """Say by how much what is judged meets its limit, or misses it."""
    floor = rule.at_least is not None
    low, high = bounds_of(row)
    judged = row.value if rule.on == "value" else low if floor else high
    margin = judged - limit if floor else limit - judged
    size = f"{100 * abs(margin):.1f} points" if row.unit in SHARES else quantity(abs(margin), row.unit, 1)
    what = "the value" if judged == row.value else f"the {'lower' if floor else 'upper'} bound"
    return f"{what} has {size} to spare" if margin >= 0 else f"{what} misses it by {size}"


def _cost(report: Report) -> Tile | None:
    """Tell what the way from the dense net to the target cost in the worst case."""
    own = _own(report, "robust_accuracy", "worst")
    dense = _found(report.measurements, _DENSE, "robust_accuracy", "worst")
    if own is None or dense is None or subject_from(own.subject).net == DENSE:
        return None
    apart = own.value - dense.value
    (low, high), (dense_low, dense_high) = bounds_of(own), bounds_of(dense)
    touch = "intervals overlap" if low <= dense_high and dense_low <= high else "intervals lie apart"
    clean, dense_clean = (
        _own(report, "clean_accuracy", None),
        _found(report.measurements, _DENSE, "clean_accuracy", None),
    )
    beside = f"clean {100 * (clean.value - dense_clean.value):+.1f}; " if clean and dense_clean else ""
    return Tile(
        title="Against the dense net",
        value=points(apart),
        detail=f"{beside}{touch}".replace("-", "−"),
        margin=f"dense: {quantity(dense.value, dense.unit)} in the worst case",
        subject=own.subject if len(report.deployed) > 1 else "",
    )


def _found(rows: Sequence[Measurement], subject: str, metric: str, attack: str | None) -> Measurement | None:
    fits = (row for row in rows if (row.subject, row.metric, row.attack) == (subject, metric, attack))
    return next(fits, None)


def _latency(report: Report) -> Tile | None:
    """Tell the time that a rule bounds; without a rule the highest percentile that was measured."""
    asked = [rule.metric for rule in report.rules if rule.metric in METRICS and rule.metric.endswith(_ENDINGS)]
    for metric in dict.fromkeys([*asked, *_WHOLE_MS]):
        past = (lambda each: each.p99_ms) if metric == "latency_ms.p99" else None
        kind, _, which = metric.partition("_ms.")
        if (tile := _tile(report, f"{kind.capitalize()}, {which}", metric, None, past)) is not None:
            return tile
    return None


_ENDINGS = tuple(f"_ms.{which}" for which in ("p50", "p90", "p99", "p99.9", "mean"))
