"""Compare: two reports row by row, what was done differently, and what keeps their numbers from being compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.metrics import AFTER_QUERIES, BY_CLOCK, METRICS
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Measurement, Report, SubjectEvidence
from robustdeploy.core.subject import Subject, subject_from

_REPLAYED = ("replays", "left_out_of_other_images", "left_out_outside_the_box")
_FOUND = frozenset({"judged_in_batches_of", "stood_before", "fell", "agreement", "gradients_of", *_REPLAYED})
"""Conditions of robust accuracies that say what came of an attack or where it ran, not how it was made."""
Key = tuple[str, str, str, str, str, str, str]
"""Metric, role of the subject, attack, multiple of eps, queries, images, class: what makes two rows the same one."""
_OF_THE_NUMBERS = ("data.", "threat.norm", "evaluate.")
"""Parts of a recipe that decide what is measured, not on what."""
_TOLD_BY_THE_REPORT = ("threat.eps", "budget.ops", "budget.params", "budget.memory", "data.name")
_NO_DIFFERENCE = ("name", "description", "gate", "train.device", "train.checkpoint_every_s", *_TOLD_BY_THE_REPORT)


@dataclass(frozen=True)
class Row:
    """One row of both reports; a side that lacks it has None."""

    label: str
    metric: str
    subjects: tuple[str, ...]
    """Whose the two sides are; one where both are the same subject's."""
    attack: str | None
    unit: str
    before: float | None
    after: float | None
    n: tuple[int | None, int | None]
    apart: bool | None
    """Whether the two intervals do not even touch; None where one is missing."""
    other_conditions: list[str]
    """Conditions that the two rows do not share."""
    attacked_alike: bool = True
    """Whether the two are of the same images, threat and attacks; always true of what is timed or counted."""
    key: Key = ("",) * 7
    """The same for this row of any report."""

    @property
    def change(self) -> float | None:
        """After less before, where both are there."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class Comparison:
    """What two reports say together."""

    not_alike: list[str]
    """What was measured differently, so that the numbers do not compare."""
    differs: list[str]
    """What was made differently: the reason to compare."""
    rows: list[Row]
    attacked_alike: bool
    """Whether accuracies are of the same images, threat and attacks."""


def compared(before: Report, after: Report, recipes: tuple[Recipe | None, Recipe | None] = (None, None)) -> Comparison:
    """Compare two reports; the recipes of their runs, where they are at hand, tell what was made differently."""
    fields = _recipe_differences(*recipes)
    # What decides how the numbers were taken is told apart from what decides the net: only the latter may differ.
    measured = [text for name, text in fields.items() if name.startswith(_OF_THE_NUMBERS)]
    made = [text for name, text in fields.items() if not name.startswith(_OF_THE_NUMBERS)]
    attacked_alike = not measured and not _unequal(_attacked(before), _attacked(after))
    return Comparison(
        not_alike=[*_unequal(_attacked(before) | _placed(before), _attacked(after) | _placed(after)), *measured],
        differs=[*_unequal(_made(before), _made(after)), *made],
        rows=_rows(before, after, attacked_alike),
        attacked_alike=attacked_alike,
    )


def _attacked(report: Report) -> dict[str, Any]:
    """What makes two accuracies incomparable: other images, another threat, other attacks."""
    worst = [row for row in report.measurements if row.metric == "robust_accuracy" and row.attack == "worst"]
    counted = {row.n for row in report.measurements if row.metric == "clean_accuracy"}
    return {
        "threat": ("" if report.threat.norm == "linf" else f"{report.threat.norm} ") + f"eps {report.threat.eps:g}",
        "data": report.data.get("name"),
        "test images": ", ".join(f"{n:,}" for n in sorted(counted)),
        "split": str(report.data.get("split_sha256", ""))[:12],
        "replay set": ", ".join(sorted(_replayed(report))),
        "attacks behind worst": ", ".join(worst[-1].conditions.get("attacks", ())) if worst else None,
    }


def _replayed(report: Report) -> set[str]:
    """Digests of the replay sets that were tried."""
    rows = (row for row in report.measurements if row.metric == "robust_accuracy" and "replays" in row.conditions)
    return {str(row.conditions.get("source_sha256", ""))[:12] for row in rows}


def attacked_differences(before: Report, after: Report) -> list[str]:
    """Say what makes accuracies of two reports incomparable: images, classes, threat, attacks or their settings."""
    told = _unequal(
        _attacked(before) | {"classes": before.data.get("classes")},
        _attacked(after) | {"classes": after.data.get("classes")},
    )
    sides = [{(role(row.subject, of), row.attack): row for row in _robust(of)} for of in (before, after)]
    for key in (each for each in sides[0] if each in sides[1] and each[1] != "worst"):  # told above
        one, other = (side[key].conditions for side in sides)
        names = sorted(set(_other(one, other)) - _FOUND)
        told += _unequal(*({f"{key[1]} {name}": held.get(name) for name in names} for held in (one, other)))
    return list(dict.fromkeys(told))


def _robust(report: Report) -> Iterator[Measurement]:
    return (r for r in report.measurements if r.metric == "robust_accuracy" and subject_from(r.subject).deployed)


def _placed(report: Report) -> dict[str, Any]:
    """What makes two times incomparable: another board, another toolchain."""
    return {
        "targets": ", ".join(report.targets),
        "processors": _of_boards(report, "cpu_model"),
        "toolchains": _of_boards(report, "backend", "backend_version"),
    }


def _of_boards(report: Report, *facts: str) -> str:
    told = (" ".join(str(each.board[fact]) for fact in facts if each.board.get(fact)) for each in report.deployed)
    return ", ".join(filter(None, told))


def _made(report: Report) -> dict[str, Any]:
    """What a report alone tells of how its net was made."""
    budget = report.budget
    limits = {"ops": budget.ops_target, "params": budget.params_target, "memory": budget.memory_target}
    return {
        "budget": ", ".join(f"{name} {limit:.4g}" for name, limit in limits.items() if limit < 1),
        "dense MACs": f"{budget.dense_macs:,}",
        "tool": report.producer,
    }


def _unequal(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {_shown(before[name])} against {_shown(after[name])}"
        for name in before
        if before[name] != after[name]
    ]


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "", ()) else str(value)


def _recipe_differences(before: Recipe | None, after: Recipe | None) -> dict[str, str]:
    """Return a sentence for each field in which two recipes differ, by its dotted name; gates judge and are no part."""
    if before is None or after is None:
        return {}
    sides = [dict(_flat(plain(recipe))) for recipe in (before, after)]
    names = [name for name in dict.fromkeys([*sides[0], *sides[1]]) if not name.startswith(_NO_DIFFERENCE)]
    return {
        name: f"{name}: {_shown(sides[0].get(name))} against {_shown(sides[1].get(name))}"
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    }


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # A plug-in with options is still called by its name: ``net: resnet8`` and ``net.width: 24``.
            its_name = key == "name" and name not in ("", "data")
            yield from _flat(inner, name if its_name else f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{index}]")
    else:
        yield name, value


def _rows(before: Report, after: Report, attacked_alike: bool) -> list[Row]:
    """Return every row that either has, ordered as metrics are listed, targets before the reference."""
    sides = [{_key(row, report): row for row in report.measurements} for report in (before, after)]
    order = {name: index for index, name in enumerate(METRICS)}
    # A key and not a position: one of the reports may have rows that the other lacks.
    placed = {key: index for index, key in enumerate(dict.fromkeys([*sides[0], *sides[1]]))}

    def place(key: Key) -> tuple[int, str, bool, bool, int]:
        # Attacks and multiples of eps keep the report's own order, but for ``worst``, which sums them up.
        in_torch = not subject_from(key[1]).deployed
        return (order.get(key[0], len(order)), key[0], in_torch, key[2] == "worst", placed[key])

    keys = sorted(placed, key=place)
    return [_row(key, sides[0].get(key), sides[1].get(key), attacked_alike) for key in keys]


def _key(row: Measurement, report: Report) -> Key:
    multiple, images = row.conditions.get("multiple", ""), row.conditions.get("images", "")
    # Other metrics note a class for information, e.g. the largest one, which may differ between the two.
    of_class = row.conditions.get("class", "") if row.metric.startswith("class_") else ""
    queries = row.conditions.get("queries", "") if row.metric == AFTER_QUERIES else ""
    what = row.metric, role(row.subject, report), row.attack or ""
    return (*what, str(multiple), str(queries), str(images), str(of_class))


def counterparts(before: Report, after: Report) -> Iterator[tuple[SubjectEvidence, SubjectEvidence]]:
    """Return deployed subjects that are the same to both reports, e.g. their own nets on their single targets."""
    others = {role(each.subject, after): each for each in after.deployed if not each.lost}
    for each in before.deployed:
        if not each.lost and (other := others.get(role(each.subject, before))) is not None:
            yield each, other


def role(subject: str, report: Report) -> str:
    """Name a subject by what it is to its report, so that the nets and the single targets of two stand side by side."""
    its = subject_from(subject)
    place = "target" if its.deployed and len(report.targets) == 1 else its.place
    return str(Subject("own" if its.net == report.net else its.net, its.precision, place))


def _row(key: Key, before: Measurement | None, after: Measurement | None, attacked_alike: bool) -> Row:
    metric, _, attack, multiple, queries, images, of_class = key
    one = before or after
    assert one is not None
    subjects = dict.fromkeys(side.subject for side in (before, after) if side)
    radius = f"eps × {float(multiple):g}" if multiple else ""
    asked = f"{int(queries):,} queries" if queries.isdecimal() else queries
    on = f"on {images} images" if images else ""
    words = (metric, of_class, attack, radius, asked, on, f"({' against '.join(subjects)})")
    conditions = [] if before is None or after is None else sorted(_other(before.conditions, after.conditions))
    return Row(
        label=" ".join(word for word in words if word),
        metric=metric,
        subjects=tuple(subjects),
        attack=attack or None,
        unit=one.unit,
        before=None if before is None else before.value,
        after=None if after is None else after.value,
        n=(None if before is None else before.n, None if after is None else after.n),
        apart=None if before is None or after is None else _apart(before, after),
        other_conditions=conditions,
        attacked_alike=attacked_alike or (metric in METRICS and METRICS[metric].support in ("samples", "count")),
        key=key,
    )


def _other(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    # What the engine took is measured, and never the same.
    return (name for name in (before.keys() | after.keys()) - BY_CLOCK if before.get(name) != after.get(name))


def _apart(row: Measurement, other: Measurement) -> bool | None:
    if row.low is None or row.high is None or other.low is None or other.high is None:
        return None
    # Intervals that touch prove nothing either way. A report holds no outcome per image, so no paired test is possible.
    return row.high < other.low or other.high < row.low
