"""Judge: rows, diagnostics and rules in, a verdict out. A pure function, so that anyone can do it again.

Three outcomes, and the doubtful one never passes: a bound that meets the limit is PASS, the other bound missing it
too is FAIL, anything between, and any evidence that is missing or thin, is INCONCLUSIVE.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from robustdeploy.core.baseline import Baseline
from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.gate import Credibility, Outcome, Rule, RuleVerdict, SubjectVerdict, Verdict
from robustdeploy.core.metrics import METRICS, ROBUST_METRICS
from robustdeploy.core.report import Diagnostic, Measurement, Omission, Report, SubjectEvidence
from robustdeploy.core.subject import PRUNED, selects, subject_from
from robustdeploy.evaluate.intervals import samples_needed
from robustdeploy.report.credibility import credibilities, doubt_of
from robustdeploy.report.quantity import SHARES, apart, confidence, interval, quantity, samples
from robustdeploy.report.regression import judged_since, merit_since

# FAIL before INCONCLUSIVE: what is known to be missed stays missed, however doubtful the rest is.
_WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
_COUNTED = SHARES | {"count", "counts", "macs", "params", "bytes", "queries", "channels", "checks"}
_USUAL = {
    "robust accuracy": ("robust_accuracy", "balanced_robust_accuracy", "class_robust_accuracy"),
    "clean accuracy": ("clean_accuracy", "balanced_clean_accuracy", "class_clean_accuracy"),
    "latency": tuple(name for name in METRICS if name.startswith(("latency_ms.", "response_ms."))),
}
_NOISE_DECIDES = (
    "noise decides: the quietest run meets the limit and the most disturbed one does not; stop what else runs on "
    "the board and evaluate again"
)
_DISTURBED = (
    "noise decides: the most disturbed run does not meet the limit, and no run was undisturbed; stop what else runs on "
    "the board and evaluate again"
)
NO_RULES = "no rule was given, so there is nothing that could pass"


def judge_report(report: Report, rules: Sequence[Rule] | None = None) -> Verdict:
    """Judge a report by its own rules, or by others."""
    chosen = report.rules if rules is None else rules
    return judge(
        report.measurements,
        report.diagnostics,
        chosen,
        report.omissions,
        report.subjects,
        report.net,
        report.baseline,
    )


def judged_by(report: Report, rules: Sequence[Rule]) -> Report:
    """Return a report as it would be with other rules."""
    return report.model_copy(update={"rules": tuple(rules), "verdict": judge_report(report, rules)})


def judge(
    rows: Sequence[Measurement],
    diagnostics: Sequence[Diagnostic],
    rules: Sequence[Rule],
    omissions: Sequence[Omission] = (),
    subjects: Sequence[SubjectEvidence] = (),
    net: str = PRUNED,
    baseline: Baseline | None = None,
) -> Verdict:
    """Judge every rule on every subject that it selects; the whole is as good as the subject that comes out worst.

    A blocking diagnostic makes its subject INCONCLUSIVE. One that names metrics speaks of these alone: rules on them
    become INCONCLUSIVE, the others keep what they found. So do rules on robustness where that is SUSPECT or VOID. What
    can only flatter leaves a FAIL as it is. Other warnings and omissions decide nothing; they stand in the verdict, so
    that it is never told without them. Without ``subjects``, those of the rows count.
    """
    # Reports of the first schema carry no list of subjects.
    known = {each.subject: each.lost for each in subjects} or dict.fromkeys((row.subject for row in rows), "")
    robustness = tuple(credibilities(list(known), rows, diagnostics))
    sound = {each.subject for each in robustness if each.credibility is Credibility.CREDIBLE}
    lines = tuple(
        _with_reason(line, rule, rows, diagnostics)
        for rule in rules
        for line in _lines(rule, rows, known, net, diagnostics, baseline)
    )
    judged = [each for each in known if any(line.subject == each for line in lines)]
    whole_blocks = {each: _stopping(each, lines, diagnostics, sound) for each in judged or known}
    outcomes = {each: _outcome_of(each, lines, whole_blocks[each]) for each in judged}
    every = [*outcomes.values(), *(line.outcome for line in lines if line.subject is None)]
    by_name = sum(subject_from(each).deployed for each in known) > 1
    stopping = [d for d in diagnostics if any(d in blocks for blocks in whole_blocks.values())]
    reasons = tuple(_named(d.text, d.subject, by_name) for d in stopping)
    reasons += () if rules else (NO_RULES,)
    # Without any rule there is no PASS: a gate that asks for nothing has shown nothing.
    whole = min(every, key=_WORST_FIRST.index, default=Outcome.INCONCLUSIVE)
    return Verdict(
        outcome=whole if rules else Outcome.INCONCLUSIVE,
        subjects=tuple(SubjectVerdict(subject=each, outcome=outcome) for each, outcome in outcomes.items()),
        robustness=robustness,
        reasons=reasons,
        rules=lines,
        warnings=tuple(_warnings(diagnostics, rules, stopping, by_name)),
        unchecked=(*(_named(each.text, each.subject, by_name) for each in omissions), *_unasked(rules)),
    )


def _lines(
    rule: Rule,
    rows: Sequence[Measurement],
    known: Mapping[str, str],
    net: str,
    diagnostics: Sequence[Diagnostic],
    baseline: Baseline | None,
) -> Iterator[RuleVerdict]:
    """Judge one rule on each subject that it selects; one of which there are no numbers is INCONCLUSIVE."""
    selected = [each for each in known if selects(rule.subject, each, net)]
    # A misspelt subject would otherwise pass, as it has no row that misses.
    if not selected:
        wanted = rule.subject or f"{net}/*@*"
        text = f"{_about(rule)} {_demand(rule)}: no subject is {wanted}, only {_listed(known) or 'none at all'}"
        yield RuleVerdict(rule=rule.id, outcome=Outcome.INCONCLUSIVE, text=text)
    for each in selected:
        if known[each]:
            text = f"{_about(rule, subject=each)} {_demand(rule)}: not measured: {known[each]}"
            yield RuleVerdict(rule=rule.id, subject=each, outcome=Outcome.INCONCLUSIVE, text=text)
        else:
            found = _rule_verdict(rule, each, [row for row in rows if row.subject == each], baseline)
            yield _doubted(rule, found, [doubt for doubt in diagnostics if doubt.subject in (None, each)])


def _stopping(
    subject: str, lines: Sequence[RuleVerdict], diagnostics: Sequence[Diagnostic], sound: Collection[str]
) -> list[Diagnostic]:
    """Return the checks that make a subject INCONCLUSIVE as a whole."""
    blocks = [d for d in diagnostics if d.level == "block" and not d.metrics and d.subject in (None, subject)]
    # What can only flatter changes nothing for a net that fails all the same, or that has no robustness to hide.
    settled = subject in sound or any(line.outcome is Outcome.FAIL for line in lines if line.subject == subject)
    return [] if settled and all(each.flatters for each in blocks) else blocks


def _outcome_of(subject: str, lines: Sequence[RuleVerdict], stopping: Sequence[Diagnostic]) -> Outcome:
    if stopping:
        return Outcome.INCONCLUSIVE
    return min((line.outcome for line in lines if line.subject == subject), key=_WORST_FIRST.index)


def _named(text: str, subject: str | None, by_name: bool) -> str:
    """Say whose it is where there are several."""
    return f"{subject}: {text}" if subject and by_name else text


def _warnings(
    diagnostics: Sequence[Diagnostic], rules: Sequence[Rule], stopping: Sequence[Diagnostic], by_name: bool
) -> Iterator[str]:
    """Warnings, and doubts that decide no rule, which would be told nowhere else."""
    asked = {rule.metric for rule in rules}
    for diagnostic in diagnostics:
        unasked = diagnostic.metrics and not asked & set(diagnostic.metrics)
        unheard = diagnostic.level == "block" and (unasked or not (diagnostic.metrics or diagnostic in stopping))
        if diagnostic.level == "warn" or unheard:
            yield _named(diagnostic.text, diagnostic.subject, by_name)


def _unasked(rules: Sequence[Rule]) -> Iterator[str]:
    """What a net is held to everywhere, and these rules do not ask for."""
    for name, metrics in _USUAL.items():
        if rules and not any(rule.metric in metrics for rule in rules):
            yield f"no rule asks for {name}"


def _doubted(rule: Rule, found: RuleVerdict, diagnostics: Sequence[Diagnostic]) -> RuleVerdict:
    """What a rule comes to when a check has found that its metric cannot be believed.

    A number that is too low even while it is flattered fails the rule all the same.
    """
    # Only rules on what the check doubts: a weak attack says nothing against a latency.
    doubts = [each for each in diagnostics if each.level == "block" and rule.metric in each.metrics]
    nexts: list[str] = []
    if rule.metric in ROBUST_METRICS and found.subject is not None:
        against = [(each, doubt) for each in diagnostics if (doubt := doubt_of(each, found.subject))]
        doubts += [each for each, _ in against if each not in doubts]
        nexts = [doubt.next for _, doubt in against]
    if not doubts:
        return found
    told = " ".join(diagnostic.text for diagnostic in doubts)
    # Evidence that can only be too good and is still too low needs no more images.
    falls = rule.no_worse_than_baseline is not None and METRICS[rule.metric].higher_is_better
    floor = rule.at_least is not None or falls
    if found.outcome is Outcome.FAIL and floor and all(each.flatters for each in doubts):
        return found.model_copy(update={"text": f"{found.text}; if anything it is worse, because of this: {told}"})
    text = f"{found.text}; it cannot count, because of this: {told}"
    text += f"; next: {'; '.join(nexts)}" if nexts else ""
    return found.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "text": text})


def _with_reason(
    line: RuleVerdict, rule: Rule, rows: Sequence[Measurement], diagnostics: Sequence[Diagnostic]
) -> RuleVerdict:
    """Say why there is no timing to judge, in place of what is there instead of it."""
    metric = METRICS.get(rule.metric)
    about_energy = rule.metric == "energy_mj" and any(row.metric == "load_ms" for row in rows)
    which = "energy" if about_energy else "latency-valid"
    told = {each.subject: each.text for each in diagnostics if each.id == which}
    absent = not any(row.metric == rule.metric and row.subject == line.subject for row in rows)
    if metric is None or metric.support != "samples" or not absent or line.subject not in told:
        return line
    about = f"{_about(rule, subject=line.subject)} {_demand(rule)}"
    return line.model_copy(update={"text": f"{about}: {told[line.subject]}"})


def _rule_verdict(rule: Rule, subject: str, rows: Sequence[Measurement], baseline: Baseline | None) -> RuleVerdict:
    """Judge one rule on the rows of one subject."""
    found = matching(rule, rows)
    if not found:
        text = f"{_about(rule, subject=subject)} {_demand(rule)}: {_absence(rule, rows)}"
        return RuleVerdict(rule=rule.id, subject=subject, outcome=Outcome.INCONCLUSIVE, text=text)
    # One rule may speak of several rows (classes, attacks), and it holds only where it holds for all.
    judged = [(*_judge_row(rule, row, baseline), row) for row in found]
    outcome, text, _ = min(judged, key=lambda one: (_WORST_FIRST.index(one[0]), _merit(rule, one[2], baseline)))
    several = f" (the worst of {len(found)} rows)" if len(found) > 1 else ""
    return RuleVerdict(rule=rule.id, subject=subject, outcome=outcome, text=text + several)


def matching(rule: Rule, rows: Sequence[Measurement]) -> list[Measurement]:
    """Rows a rule speaks of. Without an attack that is the clean row, or every row where there is no clean one."""
    here = [row for row in rows if row.metric == rule.metric]
    here = [row for row in here if rule.class_name in (None, row.conditions.get("class"))]
    if rule.by_budget:
        return _budgeted(rule, rows) or here
    exact = [row for row in here if row.attack == rule.attack]
    return exact or (here if rule.attack is None else [])


def _budgeted(rule: Rule, rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows that the budget limits. Where no channel is removed, that is what is not zero."""
    names = (rule.metric, f"nonzero_{rule.metric}")
    return [row for row in rows if row.metric in names and "budget" in row.conditions]


def _limit(rule: Rule, row: Measurement) -> float | None:
    """What a row is held against; None where the budget is asked for and sets no limit on it."""
    limit = rule.at_least if rule.at_least is not None else rule.at_most
    if rule.by_budget:
        limit = row.conditions.get("budget")
    return limit if isinstance(limit, float) else None


def _merit(rule: Rule, row: Measurement, baseline: Baseline | None) -> float:
    if rule.no_worse_than_baseline is not None:
        return merit_since(row, baseline)
    bound = row.low if rule.at_least is not None else row.high
    number = row.value if rule.on == "value" or bound is None else bound
    return number if rule.at_least is not None else -number


def _about(rule: Rule, row: Measurement | None = None, subject: str | None = None) -> str:
    """Name what a rule asks for: the metric, the class, the attack and whose it is."""
    attack = row.attack if row else rule.attack
    metric = row.metric if row else rule.metric
    name = row.conditions.get("class") if row else rule.class_name
    of_class = f" of class {name}" if name and metric.startswith("class_") else ""
    whose = row.subject if row else subject
    return f"{metric}{of_class}{f' under {attack}' if attack else ''}{f' of {whose}' if whose else ''}"


def _demand(rule: Rule, limit: str | None = None) -> str:
    if rule.no_worse_than_baseline is not None:
        way = "below" if rule.metric in METRICS and METRICS[rule.metric].higher_is_better else "above"
        return f"must be no more than {rule.no_worse_than_baseline} {way} the baseline's"
    word, number = ("at least", rule.at_least) if rule.at_least is not None else ("at most", rule.at_most)
    if rule.by_budget:
        return f"must be at most {f'{limit}, ' if limit else ''}the budget"
    return f"must be {word} {limit or f'{number:g}'}"


def _absence(rule: Rule, rows: Sequence[Measurement]) -> str:
    """Say what is there instead of the row that was asked for."""
    here = [row for row in rows if row.metric == rule.metric]
    names = [str(row.conditions.get("class")) for row in here if "class" in row.conditions]
    if rule.class_name is not None and rule.class_name not in names:
        return f"there is no such class among the test images{did_you_mean(rule.class_name, names)}"
    if here:
        return f"not measured under that attack, only under {_listed(str(row.attack or 'none') for row in here)}"
    known = sorted({row.metric for row in rows})
    if not known:
        return "the report holds no measurement of it"
    near = difflib.get_close_matches(rule.metric, known, n=1, cutoff=0)[0]
    return f"not measured there; the closest is {near}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def is_exact(row: Measurement) -> bool:
    """A count that was made, not sampled: nothing about it is uncertain."""
    # All three: an edited row that merely claims to be exact must not lose its interval by that.
    without_interval = row.low is None and row.high is None
    return without_interval and row.unit.lower() in _COUNTED and row.conditions.get("exact") is True


def _unfit(rule: Rule, row: Measurement) -> str | None:
    """Why a row cannot carry a verdict, or None if it can."""
    if row.n < rule.n_at_least:
        return f"only {samples(row)} where {rule.n_at_least:,} are required"
    if is_exact(row):
        return None
    if row.n == 0:
        return "the row rests on no sample"
    bounds = [bound for bound in (row.low, row.value, row.high) if bound is not None]
    # Such a row was edited or computed wrongly; its better bound would pass the rule.
    if bounds != sorted(bounds):
        return f"the interval {interval(row)} does not hold the value, so the row contradicts itself"
    if rule.on == "bound" and row.low is None and row.high is None:
        return "the row has no interval to judge"
    return None


def _judge_row(rule: Rule, row: Measurement, baseline: Baseline | None) -> tuple[Outcome, str]:
    if rule.no_worse_than_baseline is not None:
        outcome, why = judged_since(rule, row, baseline)
        return outcome, f"{_about(rule, row)} {_demand(rule)}: {why}"
    floor = rule.at_least is not None
    limit = _limit(rule, row)
    if limit is None:
        return Outcome.INCONCLUSIVE, f"{_about(rule, row)} {_demand(rule)}: no budget limits it"
    noisy = row.conditions.get("steady") is False  # then the value alone is what the noise made it
    by_value = (rule.on == "value" and not noisy) or is_exact(row)
    # The bound that is worse for the net must meet the limit. A limit inside the interval is not decided.
    near, far = (row.value, row.value) if by_value else (row.low, row.high) if floor else (row.high, row.low)
    reason = _unfit(rule, row)
    if reason:
        outcome, why = Outcome.INCONCLUSIVE, reason
    elif near is not None and _meets(near, limit, floor):
        outcome, why = Outcome.PASS, _because(rule, by_value, "meets", near, limit, row.unit)
    elif far is not None and not _meets(far, limit, floor):
        outcome, why = Outcome.FAIL, _because(rule, by_value, "misses", far, limit, row.unit)
    elif noisy:
        disturbed = row.conditions.get("undisturbed_runs") == 0
        outcome, why = Outcome.INCONCLUSIVE, _DISTURBED if disturbed else _NOISE_DECIDES
    else:
        outcome, why = Outcome.INCONCLUSIVE, f"the limit lies inside the interval; {_more(row, limit)}"
    shown = apart(row.value, limit, row.unit)
    return outcome, f"{_about(rule, row)} {_demand(rule, shown[1])}: found {shown[0]}{_support(row)}; {why}"


def _meets(number: float, limit: float, floor: bool) -> bool:
    if math.isnan(number):
        return False
    return number >= limit if floor else number <= limit


def _because(rule: Rule, by_value: bool, verb: str, number: float, limit: float, unit: str) -> str:
    if by_value:
        return f"the value itself {verb} it"
    worse, better = ("lower", "upper") if rule.at_least is not None else ("upper", "lower")
    if verb == "meets":
        return f"even the {worse} bound, {apart(number, limit, unit)[0]}, meets it"
    return f"even the {better} bound, {apart(number, limit, unit)[0]}, misses it"


def _support(row: Measurement) -> str:
    if is_exact(row):
        return " (counted exactly)"
    bounds = f", {quantity(confidence(row), 'fraction', 0)} interval {interval(row)}" if interval(row) else ""
    return f" on {samples(row)}{bounds}"


def _more(row: Measurement, limit: float) -> str:
    """How many images would settle it, should the share stay what it is."""
    if row.unit not in SHARES or not (0 <= row.value <= 1 and 0 <= limit <= 1):
        return "more samples are needed to decide"
    needed = samples_needed(row.value, limit, confidence(row))
    if needed is None:
        return "the estimate is on the limit, so no number of images would decide"
    return f"about {max(needed, row.n + 1):,} images would decide if the share stays"
