"""Against a baseline: what became of each row that a rule asks for, by image, by run, or by the counts themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.archive import Arrays
from robustdeploy.core.baseline import Baseline, Since
from robustdeploy.core.gate import Credibility, Rule
from robustdeploy.core.margin import held_by
from robustdeploy.core.metrics import METRICS, ROBUST_METRICS, Metric
from robustdeploy.core.percentiles import samples_needed
from robustdeploy.core.report import Measurement, Report, SubjectEvidence
from robustdeploy.core.rules import scenario_of
from robustdeploy.core.subject import selects
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.comparison import ALPHA, Number, bounded, timed_runs
from robustdeploy.evaluate.intervals import clopper_pearson, paired_difference
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.evaluate.paired import (
    CLEAN,
    ERROR,
    array_in,
    not_of_the_same_images,
    parts_in,
    read_outcomes,
    right_in,
)
from robustdeploy.report.compare import attacked_differences, counterparts, role
from robustdeploy.report.judge import is_exact, judged_by, matching
from robustdeploy.report.regression import class_of
from robustdeploy.report.sides import Side, side_of

_OF_ANOTHER = "the baseline {} cannot be one of {}: {}; give one that was measured alike, or measure {} again"


def judged_against(side: Side, rules: Sequence[Rule], path: Path, runs: Path) -> Report:
    """Return a report as rules judge it that hold it against the run or ``report.json`` at ``path``.

    One over other data, images, threat or attacks is an ArtifactError. Rules of which none asks for a baseline are a
    UsageError.
    """
    if not any(rule.no_worse_than_baseline for rule in rules):
        raise UsageError(
            f"no rule asks for the baseline {path}; give one such as "
            "{id: RD-REG-01, metric: robust_accuracy, attack: worst, no_worse_than_baseline: 1 pp}, or leave it out"
        )
    then = side_of(path, runs)
    baseline = held_against(side, then, rules)
    return judged_by(side.report.model_copy(update={"baseline": baseline}), rules)


def held_against(now: Side, then: Side, rules: Sequence[Rule]) -> Baseline:
    """Hold each row that rules ask for against the baseline's; what was measured otherwise is an ArtifactError."""
    name, other = now.report.name, then.report.name
    if unlike := attacked_differences(then.report, now.report):
        raise ArtifactError(_OF_ANOTHER.format(other, name, "; ".join(unlike), other))
    asked = {
        _key(row): row
        for rule in rules
        if rule.no_worse_than_baseline is not None
        for row in _asked(rule, now.report)
        if held_by(METRICS[row.metric])
    }
    by_image = sum(held_by(METRICS[row.metric]) == "images" for row in asked.values())
    pairs = _Pairs(now, then, 1 - ERROR / max(1, by_image))
    return Baseline(
        run=other,
        sha256=then.sha256,
        created=then.report.created,
        outcome=then.report.verdict.outcome,
        rows=tuple(pairs.since(row) for row in asked.values()),
    )


def _asked(rule: Rule, report: Report) -> Iterator[Measurement]:
    for each in report.subjects:
        if selects(rule.subject, each.subject, report.net):
            yield from matching(rule, [row for row in report.measurements if row.subject == each.subject])


def _key(row: Measurement) -> tuple[str, str, str | None, Any]:
    return row.metric, row.subject, row.attack, class_of(row)


@dataclass(frozen=True)
class _Pairs:
    """Rows of two reports, and what their runs hold of them."""

    now: Side
    then: Side
    confidence: float
    """Of each interval of an accuracy, so that all together err in 5 % of cases at most (Bonferroni)."""

    def since(self, row: Measurement) -> Since:
        """Return what became of a row."""
        base = Since(metric=row.metric, subject=row.subject, attack=row.attack, class_name=class_of(row), now=row.value)
        found = self._counterpart(row.subject)
        if isinstance(found, str):
            return base.model_copy(update={"why": found})
        mine, theirs = found
        wanted = (row.metric, theirs.subject, row.attack, base.class_name)
        before = next(
            (each for each in self.then.report.measurements if each.metric in METRICS and _key(each) == wanted), None
        )
        if before is None:
            return base.model_copy(update={"why": "the baseline has no such row"})
        base = base.model_copy(update={"then": before.value, "doubt": self._doubt(before)})
        changed: dict[str, Any]
        how = held_by(METRICS[row.metric])
        if how == "counts":
            changed = _counted(before, row)
        elif how == "runs":
            changed = self._timed(METRICS[row.metric], mine, theirs)
        else:
            changed = self._by_image(before, row, mine, theirs)
        return base.model_copy(update=changed)

    def _counterpart(self, subject: str) -> tuple[SubjectEvidence, SubjectEvidence] | str:
        """Return the evidence of a subject and of what it is compared with, or why there is none."""
        for theirs, mine in counterparts(self.then.report, self.now.report):
            if mine.subject == subject:
                return mine, theirs
        wanted = role(subject, self.now.report)
        lost = [each for each in self.then.report.deployed if role(each.subject, self.then.report) == wanted]
        if lost:
            return f"the baseline has no numbers of it: {lost[0].lost}"
        told = ", ".join(each.subject for each in self.then.report.deployed)
        return f"the baseline has no such subject, only {told}"

    def _doubt(self, before: Measurement) -> str:
        """Name the checks that speak against the baseline's own number."""
        report = self.then.report
        blocks = [
            each.id
            for each in report.diagnostics
            if each.level == "block"
            and each.subject in (None, before.subject)
            and (not each.metrics or before.metric in each.metrics)
        ]
        if before.metric in ROBUST_METRICS:
            for each in report.verdict.robustness:
                if each.subject == before.subject and each.credibility is not Credibility.CREDIBLE:
                    blocks += [doubt.check for doubt in each.doubts]
        return ", ".join(dict.fromkeys(blocks))

    def _by_image(
        self, before: Measurement, row: Measurement, mine: SubjectEvidence, theirs: SubjectEvidence
    ) -> dict[str, Any]:
        if self.now.root is None or self.then.root is None:
            return self._by_intervals(before, row)
        paths = [
            root / each.evaluation / "outcomes.npz" for root, each in ((self.then.root, theirs), (self.now.root, mine))
        ]
        arrays = [read_outcomes(path) for path in paths]
        if told := not_of_the_same_images(arrays, paths):
            name, other = self.now.report.name, self.then.report.name
            raise ArtifactError(_OF_ANOTHER.format(other, name, told, other))
        sides = ((self.then.report, before), (self.now.report, row))
        old, new = (
            _right(held, report, its, str(path)) for held, path, (report, its) in zip(arrays, paths, sides, strict=True)
        )
        change, low, high = paired_difference(new, old, self.confidence)
        lost, gained = int((old & ~new).sum()), int((new & ~old).sum())
        told_of = {"how": "paired", "n": len(old), "lost": lost, "gained": gained, "confidence": self.confidence}
        return {**told_of, "change": change, "low": low, "high": high}

    def _by_intervals(self, before: Measurement, row: Measurement) -> dict[str, Any]:
        """Hold two shares against each other of which nobody knows which images they are right on.

        Each exact interval errs in half as many cases. Their ends then bound the difference, however the two depend
        on each other.
        """
        each = 1 - (1 - self.confidence) / 2
        old, new = (clopper_pearson(round(side.value * side.n), side.n, each) for side in (before, row))
        bounds = {"low": new[0] - old[1], "high": new[1] - old[0], "confidence": self.confidence}
        return {"how": "unpaired", "n": min(before.n, row.n), "change": row.value - before.value, **bounds}

    def _timed(self, metric: Metric, mine: SubjectEvidence, theirs: SubjectEvidence) -> dict[str, Any]:
        if self.now.root is None or self.then.root is None:
            return {"why": "a report alone holds no times of its runs; give the run's folder"}
        if mine.board.get("cpu_model") != theirs.board.get("cpu_model"):
            names = f"{theirs.board.get('cpu_model')} and {mine.board.get('cpu_model')}"
            return {"why": f"the two were timed on different processors, {names}"}
        percent = metric.name.partition(".p")[2]
        fewest = samples_needed(float(percent)) if percent else 1
        numbers: list[int] = []
        number = _number_of(percent, numbers)
        scenario, sides = str(scenario_of(metric)), []
        for root, each in ((self.then.root, theirs), (self.now.root, mine)):
            runs = timed_runs(root / each.evaluation / "timings.json", number)
            if isinstance(runs, str):
                return {"why": runs}
            if scenario not in runs:
                return {"why": f"one of the two was not timed in the scenario '{scenario}'"}
            sides.append(runs[scenario])
        if numbers and min(numbers) < fewest:
            told = f"a run of {min(numbers):,} calls does not support p{percent}, which takes {fewest:,}"
            return {"why": f"{told}; measure for longer (latency.min_s of the target)"}
        if metric.higher_is_better:  # images a second are as many more as their time is shorter
            sides.reverse()
        found = bounded(*sides)
        if isinstance(found, str):
            return {"why": found}
        noisy = "" if None not in (found.low, found.high) else "others kept the board busy, and noise only adds time"
        bounds = {"change": found.change.ratio, "low": found.low, "high": found.high, "confidence": 1 - ALPHA}
        return {"how": "runs", "n": found.n, "why": noisy, **bounds}


def _number_of(percent: str, counted: list[int]) -> Number:
    """Return what makes the metric's own number of a run's times; how many these are is noted in ``counted``."""

    def number(times: Any) -> float:
        counted.append(len(times))
        return float(np.percentile(times, float(percent)) if percent else np.mean(times))

    return number


def _counted(before: Measurement, row: Measurement) -> dict[str, Any]:
    if not (is_exact(before) and is_exact(row)):
        return {"why": "one of the two was not counted exactly"}
    # Of shares the difference, as of accuracies; of counts the ratio, which for two times nothing is 1.
    if METRICS[row.metric].is_share:
        change = row.value - before.value
    elif before.value == 0:
        change = 1.0 if row.value == 0 else float(row.value) + 1
    else:
        change = row.value / before.value
    return {"how": "counts", "n": 1, "change": change, "low": change, "high": change}


def _right(arrays: Arrays, report: Report, row: Measurement, where: str) -> Bits:
    """Return one bit per image behind a row's share."""
    if row.metric == "top1_agreement":
        under = f"{row.attack}/" if row.attack else ""
        names = (f"{under}predictions", f"{row.attack}/host_predictions" if row.attack else "host/predictions")
        ours, hosts = (array_in(arrays, name, where) for name in names)
        agreed: Bits = ours == hosts
        return agreed
    bits = right_in(arrays, parts_in(report.measurements, row.subject), where)[row.attack or CLEAN]
    if (name := class_of(row)) is None:
        return bits
    of_class: Bits = array_in(arrays, "labels", where) == list(report.data["classes"]).index(name)
    return bits[of_class]
