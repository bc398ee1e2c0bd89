"""Evidence: a report's rows put in the order in which a reader asks for them. Every row lands in exactly one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robustdeploy.core.metrics import AFTER_QUERIES, METRICS
from robustdeploy.core.report import Measurement, Report, SubjectEvidence
from robustdeploy.core.subject import subject_from
from robustdeploy.report.quantity import confidence, number, quantity
from robustdeploy.report.words import conditions_text, listed

Rows = tuple[Measurement, ...]

_ACCURACY = ("clean_accuracy", "robust_accuracy")
BALANCE = ("balanced_clean_accuracy", "balanced_robust_accuracy", "majority_baseline")
"""Rows that show what a large class hides."""
_AGREEMENT = ("top1_agreement", "parity_max_abs")
_WORST_CORRUPTION = ("worst_corruption_accuracy", "mean_corruption_error")
_TIMES = ("latency_ms", "response_ms")
_PERCENTILES = ("p50", "p90", "p99", "p99.9")
_TIMING = ("clock", "governor", "mhz", "khz", "throttl", "temp", "thermal", "power", "boot", "load")
_NOT_BUDGET = {"confidence", "exact", "interval", "worst_of", "stood_before", "fell"}


@dataclass(frozen=True)
class AttackLine:
    """One attack, and what each subject kept of its accuracy under it."""

    label: str
    kinds: str
    budget: str
    rows: Mapping[str, Measurement]
    """By subject."""


@dataclass(frozen=True)
class Curve:
    """Robust accuracy of one subject over the attack's radius, or over its queries."""

    subject: str
    """Or the query attack on it."""
    points: tuple[tuple[float, Measurement], ...]


@dataclass(frozen=True)
class Radius:
    """One radius of the curve, and what each subject kept of its accuracy there."""

    eps: float
    multiple: str
    attacks: str
    rows: Mapping[str, Measurement]


@dataclass(frozen=True)
class ClassLine:
    """One class, and how its images stand."""

    name: str
    subject: str
    clean: Measurement | None = None
    worst: Measurement | None = None


@dataclass(frozen=True)
class ClassPair:
    """One class of a subject beside the same of the dense net, as shares of its images."""

    name: str
    n: int
    clean: float
    worst: float
    dense_clean: float | None = None
    dense_worst: float | None = None

    @property
    def cost(self) -> float:
        """What pruning cost in the worst case; 0 where no dense net is beside it."""
        return 0.0 if self.dense_worst is None else self.dense_worst - self.worst

    def __str__(self) -> str:
        shares = [quantity(share, "fraction") for share in (self.clean, self.worst)]
        dense = "" if self.dense_worst is None else f", dense {quantity(self.dense_worst, 'fraction')} under attack"
        return f"{self.name}: clean {shares[0]}, under attack {shares[1]}{dense}"


@dataclass(frozen=True)
class Evidence:
    """The rows of a report by what they are about; ``other`` holds whatever no section knows."""

    subjects: tuple[str, ...]
    """Those with accuracies, in the order in which they stand side by side everywhere."""
    accuracy: tuple[AttackLine, ...]
    curves: tuple[Curve, ...]
    radii: tuple[Radius, ...]
    queries: Rows
    """What stood after how many queries, by subject and attack."""
    distances: Rows
    """How far the nearest wrong image is, in torch."""
    patches: tuple[AttackLine, ...]
    """Accuracy under each patch attack."""
    corruptions: tuple[AttackLine, ...]
    """Mean accuracy under each corruption, then under all."""
    severities: tuple[Curve, ...]
    """The same under all of them, over their severity."""
    worst_corruption: Rows
    """Where that is lowest, and how errors are beside the dense net's."""
    corrupted: Rows
    """Accuracy under each corruption at each severity."""
    balance: Rows
    classes: tuple[ClassLine, ...]
    """From the class of lowest accuracy in the worst case on."""
    percentiles: Rows
    latency: Rows
    agreement: Rows
    other: Rows

    @property
    def query_curves(self) -> tuple[Curve, ...]:
        """The same as curves, one for each attack on each subject."""
        several = len({row.subject for row in self.queries}) > 1
        found: dict[str, list[tuple[float, Measurement]]] = {}
        for row in self.queries:
            name = f"{row.attack}{f' on {row.subject}' if several else ''}"
            found.setdefault(name, []).append((float(row.conditions["queries"]), row))
        return tuple(Curve(name, tuple(points)) for name, points in found.items())

    @property
    def accuracy_intervals(self) -> str:
        """How the intervals of accuracy were made."""
        return intervals_text(row for line in self.accuracy for row in line.rows.values())

    @property
    def latency_intervals(self) -> str:
        """How the intervals of latency were made."""
        return intervals_text(self.percentiles)


QUERIES_NOTE = "Share still right after so many queries per image, asked of what runs on the target."
SECONDS_NOTE = "Device seconds are the time that the engine itself took for them, over all images."
DISTANCES_NOTE = (
    "Mean distance to the nearest wrong image that was found, of images labelled right: in torch, in pixels of [0, 1], "
    "not rounded to grey levels. It is an upper bound: a stronger search may find a nearer one."
)


PATCHES_NOTE = (
    "Share of images right as they are and with a square of them filled by the attack, which may hold anything; all "
    "else is unchanged. It is a threat of its own and no part of the ℓ∞ ball. Noise in such a square says what hiding "
    "so much of an image costs."
)
CORRUPTIONS_NOTE = (
    "Share of images labelled right once weather, optics, sensors or storage have changed them (Hendrycks and "
    "Dietterich 2019), mean over the severities. No attacker is in it, and it says nothing of one."
)


def evidence_from(report: Report) -> Evidence:
    """Sort the rows of ``report`` into the sections of the page."""
    # Sections take their rows out of this list. What is left is shown as well, so that no row can get lost.
    left = list(report.measurements)
    subjects = subjects_in_order(report)
    queries = _take(left, lambda row: row.metric == "attack_queries" and row.attack is not None)
    accuracy = _accuracy(left, queries, subjects)
    told = {line.label for line in accuracy}
    # A count of queries without its attack's accuracy still has to stand somewhere.
    left += [row for row in queries if row.attack not in told]
    curves, radii = _curves(left, subjects)
    after = _take(left, _after_queries)
    by_class = _take(left, lambda row: row.metric in ("class_clean_accuracy", "class_robust_accuracy"))
    percentiles = _take(left, lambda row: row.metric in [f"{kind}.{p}" for kind in _TIMES for p in _PERCENTILES])
    means, severities = _corruptions(left, subjects)
    return Evidence(
        subjects=subjects,
        accuracy=accuracy,
        curves=curves,
        radii=radii,
        queries=tuple(sorted(after, key=lambda row: (row.subject, row.attack or "", row.conditions["queries"]))),
        distances=_take(left, lambda row: row.metric in METRICS and METRICS[row.metric].support == "distances"),
        patches=_patches(left),
        corruptions=means,
        severities=severities,
        worst_corruption=_take(left, lambda row: row.metric in _WORST_CORRUPTION),
        corrupted=_take(left, lambda row: row.metric == "accuracy_corrupted"),
        balance=_take(left, lambda row: row.metric in BALANCE),
        classes=_classes(by_class),
        percentiles=tuple(sorted(percentiles, key=_percentile)),
        latency=_take(left, lambda row: row.metric in METRICS and METRICS[row.metric].support == "samples"),
        agreement=_take(left, lambda row: row.metric in _AGREEMENT),
        other=tuple(left),
    )


def _after_queries(row: Measurement) -> bool:
    asked = row.conditions.get("queries")
    return row.metric == AFTER_QUERIES and type(asked) is int and asked > 0


def subjects_in_order(report: Report) -> tuple[str, ...]:
    """Return the subjects with accuracies: the run's own net first, where it is deployed before the reference."""
    found = dict.fromkeys(row.subject for row in report.measurements if row.metric in _ACCURACY)

    def place(name: str) -> tuple[bool, bool]:
        its = subject_from(name)
        return (its.net != report.net, not its.deployed)

    return tuple(sorted(found, key=place))


def _classes(rows: Rows) -> tuple[ClassLine, ...]:
    cells: dict[tuple[str, str], dict[str, Measurement]] = {}
    for row in rows:
        side = "clean" if row.metric == "class_clean_accuracy" else "worst"
        cells.setdefault((str(row.conditions.get("class", "unnamed")), row.subject), {}).setdefault(side, row)
    lines = (ClassLine(name, its, found.get("clean"), found.get("worst")) for (name, its), found in cells.items())
    return tuple(sorted(lines, key=lambda line: line.worst.value if line.worst else 0.0))


def is_unbalanced(report: Report) -> bool:
    """Whether one class is clearly larger than it would be among equals, so that accuracy alone may deceive."""
    rows = {row.metric: row for row in report.measurements if row.metric in BALANCE}
    largest, balanced = rows.get("majority_baseline"), rows.get("balanced_clean_accuracy")
    if largest is None or balanced is None or largest.low is None:
        return False
    # Half more than an equal share: below that a constant answer gains little.
    return largest.low > 1.5 / max(1, int(balanced.conditions.get("classes", 1)))


def _percentile(row: Measurement) -> tuple[str, str, float]:
    kind, _, percent = row.metric.partition(".p")
    return row.subject, kind, float(percent)


def calls_of(subject: str, rows: Iterable[Measurement]) -> Rows:
    """Return a subject's percentiles of calls that follow each other at once, which its histogram is of."""
    return tuple(row for row in rows if row.subject == subject and row.metric.startswith("latency_ms."))


def _take(left: list[Measurement], wanted: Callable[[Measurement], bool]) -> Rows:
    """Move the wanted rows out of ``left``."""
    taken = tuple(row for row in left if wanted(row))
    left[:] = [row for row in left if not wanted(row)]
    return taken


def _accuracy(left: list[Measurement], queries: Rows, subjects: Sequence[str]) -> tuple[AttackLine, ...]:
    """One line per attack; a second row for the same subject, of another kind, opens a line of its own."""
    rows = _take(left, lambda row: row.metric in _ACCURACY)
    lines: list[tuple[str, str, dict[str, Measurement]]] = []
    # The deployed net's rows first: they define the lines that the others then join.
    for row in sorted(rows, key=lambda row: subjects.index(row.subject)):
        label = row.attack or ("clean" if "clean" in row.metric else "unnamed attack")
        # The same attack may have been found on several targets; their rows must not replace each other.
        home = next((cells for name, _, cells in lines if name == label and row.subject not in cells), None)
        if home is None:
            where = row.conditions.get("found_on") if any(name == label for name, *_ in lines) else None
            lines.append((label, f", of {where}" if where else "", home := {}))
        home[row.subject] = row
    lines.sort(key=lambda line: {"clean": 0, "worst": 2}.get(line[0], 1))
    made = ((of, _attack_line(label, cells, queries)) for label, of, cells in lines)
    return tuple(replace(line, label=line.label + of) for of, line in made)


def _attack_line(label: str, cells: Mapping[str, Measurement], queries: Rows) -> AttackLine:
    spent = [_spent(row) for row in queries if row.attack == label]
    every = "all attacks above" if label == "worst" else ""
    declared = conditions_text(_shared([row.conditions for row in cells.values()]))
    told = [declared or every, *_ladder(cells), *spent]
    return AttackLine(label, _kinds(cells), "; ".join(filter(None, told)), cells)


def _ladder(cells: Mapping[str, Measurement]) -> Iterator[str]:
    """What a part of an ensemble did, which is given only what those before it left."""
    for subject, row in cells.items():
        if "stood_before" in row.conditions:
            fell, stood = (number(row.conditions[key]) for key in ("fell", "stood_before"))
            yield f"of {stood} images of {subject} that stood so far {fell} fell"


def _kinds(cells: Mapping[str, Measurement]) -> str:
    """How the images were found, and for which subject otherwise: what is queried on a target is replayed in torch."""
    kinds = {subject: row.kind for subject, row in cells.items() if row.kind}
    usual = next(iter(kinds.values()), None)
    others = [f"{kind} for {subject}" for subject, kind in kinds.items() if kind != usual]
    return ", ".join(filter(None, [usual, *others]))


def _spent(row: Measurement) -> str:
    unit = "queries" if row.unit == "count" else row.unit
    details = conditions_text(row.conditions)
    return f"{number(row.value)} {unit} of {row.subject}{f' ({details})' if details else ''}"


def _shared(conditions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for one in conditions:
        merged |= {key: value for key, value in one.items() if key not in _NOT_BUDGET and key not in merged}
    return merged


def _curves(left: list[Measurement], subjects: Sequence[str]) -> tuple[tuple[Curve, ...], tuple[Radius, ...]]:
    """Take the first row of each subject and radius; a second one stays with the other measurements."""
    found: dict[float, dict[str, Measurement]] = {}
    taken = []
    for row in left:
        eps = row.conditions.get("eps")
        known = row.metric == "robust_accuracy_at_eps" and isinstance(eps, int | float) and row.subject in subjects
        if known and found.setdefault(float(eps or 0), {}).setdefault(row.subject, row) is row:
            taken.append(row)
    left[:] = [row for row in left if not any(row is one for one in taken)]
    radii = tuple(_radius(eps, found[eps]) for eps in sorted(found))
    series = {name: tuple((r.eps, r.rows[name]) for r in radii if name in r.rows) for name in subjects}
    return tuple(Curve(name, points) for name, points in series.items() if points), radii


def _patches(left: list[Measurement]) -> tuple[AttackLine, ...]:
    """One line per patch attack, with what each subject kept."""
    lines: dict[str, dict[str, Measurement]] = {}
    for row in _take(left, lambda row: row.metric == "patch_accuracy"):
        lines.setdefault(row.attack or "unnamed attack", {})[row.subject] = row
    return tuple(_attack_line(label, cells, ()) for label, cells in lines.items())


def _corruptions(left: list[Measurement], subjects: Sequence[str]) -> tuple[tuple[AttackLine, ...], tuple[Curve, ...]]:
    """Take mean accuracies under corruptions: a line for each and one for all, and a curve over the severity."""
    rows = _take(left, lambda row: row.metric == "mean_corruption_accuracy" and row.subject in subjects)
    lines: dict[str, dict[str, Measurement]] = {}
    points: dict[str, dict[float, Measurement]] = {name: {} for name in subjects}
    for row in rows:
        word, _, level = (row.attack or "").partition("-")
        if word == "severity" and level.isdecimal():
            points[row.subject].setdefault(float(level), row)
        else:
            lines.setdefault(row.attack or "all", {}).setdefault(row.subject, row)
    ordered = sorted(lines.items(), key=lambda line: line[0] == "all")
    curves = (Curve(name, tuple(sorted(its.items(), key=lambda point: point[0]))) for name, its in points.items())
    return tuple(AttackLine(name, "", "", its) for name, its in ordered), tuple(c for c in curves if c.points)


def _radius(eps: float, rows: Mapping[str, Measurement]) -> Radius:
    multiples = dict.fromkeys(row.conditions.get("multiple") for row in rows.values())
    attacks = dict.fromkeys(f"{row.attack or 'unnamed'}{f', {row.kind}' if row.kind else ''}" for row in rows.values())
    return Radius(eps, ", ".join(f"{m:g}" for m in multiples if isinstance(m, int | float)), "; ".join(attacks), rows)


def intervals_text(rows: Iterable[Measurement]) -> str:
    """Name how the intervals of ``rows`` were made, as their conditions state it; else their confidence alone."""
    held = [row for row in rows if row.low is not None or row.high is not None]
    made = (row.conditions.get("interval") or quantity(confidence(row), "fraction", 0) for row in held)
    return "; ".join(dict.fromkeys(map(str, made)))


def shared_conditions(rows: Rows) -> dict[str, Any]:
    """Conditions of all ``rows`` together; where two differ the first stands, and the others stay in their rows."""
    return _shared(row.conditions for row in rows)


def flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Write nested facts as ``clocks.governor`` and its text, in their order."""
    found: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            found += flat({str(index): item for index, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, list | tuple):
            found.append((name, listed(value)))
        else:
            found.append((name, _plain(value)))
    return found


def timing_facts(facts: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Split facts into those that a latency depends on (clocks, heat, throttling) and the rest."""
    every = list(facts)
    timing = [fact for fact in every if any(word in fact[0].lower() for word in _TIMING)]
    return timing, [fact for fact in every if fact not in timing]


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "not known", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def caveats(report: Report) -> tuple[str, ...]:
    """What a reader must know before believing the numbers of these targets."""
    # Several nets on one target share what is to be said of it.
    told = dict.fromkeys(text for evidence in report.deployed for text in _caveats(evidence))
    return (*_other_ball(report), *told)


def _other_ball(report: Report) -> Iterator[str]:
    if report.trained_within is not None:
        yield f"The attacks stay in an {report.threat}; the net was trained for an {report.trained_within}."


def _caveats(evidence: SubjectEvidence) -> Iterator[str]:
    facts, place = dict(flat(evidence.board)), subject_from(evidence.subject).place
    if evidence.lost:
        yield f"{evidence.subject} was not measured: {evidence.lost}"
    if any(key.endswith("status") and value == "contract-tested" for key, value in facts.items()):
        yield (
            f"The target {place} is contract-tested: its toolchain's interface was checked, "
            "but it has not been run on this hardware by the makers of this tool."
        )
    if any(key.rpartition(".")[2] == "emulated" and value == "yes" for key, value in facts.items()):
        yield f"The board {place} is emulated: its accuracy stands for that arithmetic only, its latency for nothing."
    if facts.get("backend", "") == "null" or facts.get("backend.name", "") == "null":
        yield f"The null backend ran on {place}: it exercises the chain and says nothing about the net."
