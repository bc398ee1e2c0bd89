"""Rules that cannot mean anything, and rules that no evaluation of a recipe could ever meet: found before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import combinations

from robustdeploy.core.amount import absolute
from robustdeploy.core.complaint import Place, did_you_mean
from robustdeploy.core.corruptions import severity_label
from robustdeploy.core.gate import Rule
from robustdeploy.core.margin import held_by, margin_problem
from robustdeploy.core.metrics import LATENCY_FRACTION, METRICS, Metric
from robustdeploy.core.percentiles import samples_needed
from robustdeploy.core.precisions import precisions_on
from robustdeploy.core.recipe import DEPLOY, Recipe
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.core.subject import DENSE, FP32, IMPORTED, PRUNED, TORCH, overlap, parts_of
from robustdeploy.core.target import Scenario, Target

Problem = tuple[Place, str]
"""The place inside a rule, and one sentence."""

BUDGET_WINDOW = 0.97
"""Pruned channels use more than this share of their budget; a limit at or below it cannot be met."""
CURVE_ATTACK = "pgd-10"
_ROW = ("metric", "attack")
_NETS = (PRUNED, DENSE, IMPORTED)
USUAL_LATENCY = "latency_ms.p99"
_BESIDE_DENSE = {LATENCY_FRACTION: "to take turns with", "mean_corruption_error": "to divide by"}
"""Metrics that need the dense net, and what for."""
_SCENARIO_OF: Mapping[str, Scenario] = {
    "latency_ms": "single-stream",
    **dict.fromkeys(("response_ms", "deadline_miss_fraction", "overrun_fraction"), "paced"),
    "throughput_images_s": "offline",
}
"""Which scenario gives the rows of a metric; what is not here comes with any."""
_TAIL = 0.025
_MOST_SAMPLES = 1_000_000


def scenario_of(metric: Metric) -> Scenario | None:
    """Return the scenario that gives the rows of a metric; None where any does, or none."""
    return _SCENARIO_OF.get(metric.name.partition(".")[0])


def meaning_problems(rule: Rule) -> Iterator[Problem]:
    """Say what is wrong with a rule whatever it is asked of: its metric, place, attack, direction and limit."""
    metric = METRICS.get(rule.metric)
    if metric is None:
        # Of several latencies the one that a limit is usually set on.
        begun = USUAL_LATENCY.startswith(rule.metric)
        near = f"; did you mean '{USUAL_LATENCY}'?" if begun else did_you_mean(rule.metric, METRICS)
        yield ("metric",), f"there is no metric '{rule.metric}'{near} (`robustdeploy ls metrics` lists all)"
        return
    yield from _subject_problems(rule, metric)
    if rule.class_name is not None and not metric.by_class:
        told = [name for name in METRICS if name.startswith("class_")]
        yield ("class_name",), f"{metric.name} is not measured class by class; {' and '.join(told)} are"
    yield from _attack_problems(rule, metric)
    if rule.no_worse_than_baseline is not None:
        yield from _margin_problems(rule, metric)
        return
    yield from _limit_problems(rule, metric)
    if rule.on == "bound" and not metric.bounded:
        yield ("on",), f"{metric.name} has no interval whose bound could be judged; say `on: value`"
    if metric.support == "count" and rule.n_at_least > 1:
        yield ("n_at_least",), f"{metric.name} is counted and not sampled, so n is 1; remove n_at_least"


def _subject_problems(rule: Rule, metric: Metric) -> Iterator[Problem]:
    net, precision, place = parts_of(rule.subject)
    in_torch = place == TORCH
    if ("torch" if in_torch else "target") not in metric.places:
        if in_torch:
            yield ("subject",), f"{metric.name} is measured on targets, never in torch; leave `subject` out"
        else:
            yield ("subject",), f"{metric.name} is measured in torch alone; say `subject: {net}/fp32@{TORCH}`"
    if not any(fnmatchcase(each, net) for each in _NETS):
        yield ("subject",), f"no run has a net '{net}'{did_you_mean(net, _NETS)} ({', '.join(_NETS)})"
    known = PRECISIONS.names()
    if not any(fnmatchcase(each, precision) for each in known):
        near = did_you_mean(precision, known)
        yield ("subject",), f"no net has the precision '{precision}'{near} ({', '.join(known)})"


def _attack_problems(rule: Rule, metric: Metric) -> Iterator[Problem]:
    if rule.attack is None:
        return
    if metric.attacked == "never":
        robust = metric.name.replace("clean", "robust")
        other = f"did you mean '{robust}'" if robust in METRICS and robust != metric.name else "remove the attack"
        yield ("attack",), f"{metric.name} is measured without an attack; {other}?".replace("attack?", "attack")
    elif rule.attack == "worst" and not metric.worst:
        yield ("attack",), f"{metric.name} has no row under 'worst'; name one of the recipe's attacks"
    elif rule.attack != "worst" and not metric.by_attack:
        yield ("attack",), f"{metric.name} is measured under 'worst' alone; say `attack: worst`"


def _margin_problems(rule: Rule, metric: Metric) -> Iterator[Problem]:
    margin, place = str(rule.no_worse_than_baseline), ("no_worse_than_baseline",)
    if held_by(metric) is None:
        known = ", ".join(name for name, each in METRICS.items() if held_by(each))
        yield ("metric",), f"{metric.name} cannot be held against a baseline; these can: {known}"
    elif problem := margin_problem(metric, margin):
        yield place, problem
    if held_by(metric) == "images" and parts_of(rule.subject)[2] == TORCH:
        yield ("subject",), "accuracies are held against a baseline on targets, never in torch; leave `subject` out"
    if held_by(metric) == "counts" and rule.n_at_least > 1:
        yield ("n_at_least",), f"{metric.name} is counted and not sampled, so n is 1; remove n_at_least"


def _limit_problems(rule: Rule, metric: Metric) -> Iterator[Problem]:
    side = "at_least" if rule.at_least is not None else "at_most"
    better = {True: "higher", False: "lower", None: ""}[metric.higher_is_better]
    if better and (side == "at_least") != (better == "higher"):
        other = "at_least" if side == "at_most" else "at_most"
        yield (side,), f"{metric.name} is better the {better} it is, so {side} asks for a worse net; say {other}"
    if rule.by_budget:
        if metric.limited_by is None:
            yield (side,), f"no budget limits {metric.name}; give a number"
        return
    limit = float(rule.at_least if rule.at_least is not None else rule.at_most or 0.0)
    if metric.is_share and not 0 <= limit <= 1:
        meant = f"; did you mean {limit / 100:g} ({limit:g} %)?" if 1 < limit <= 100 else ""
        yield (side,), f"{metric.name} is a fraction from 0 to 1, and {limit:g} is none{meant}"
    elif limit < metric.low:
        share = f"{metric.name}_fraction"
        meant = f"; did you mean {share}?" if share in METRICS and 0 < limit <= 1 else ""
        yield (side,), f"{metric.name} counts {metric.unit} from {metric.low:g}, so {limit:g} is no limit{meant}"
    elif side == "at_most" and limit == 0 and metric.unit == "ms":
        yield (side,), f"{metric.name} is above 0 whatever the board does, so no net could meet this rule"
    elif side == "at_least" and limit == 0:
        yield (side,), f"{metric.name} is at least 0 whatever the net does, so this rule could never fail"
    elif side == "at_least" and metric.is_share and limit == 1 and rule.on == "bound":
        yield (side,), "no number of images puts the lower bound at 1; ask for less, or say `on: value`"


def contradictions(rules: Sequence[Rule]) -> Iterator[tuple[int, str]]:
    """Find pairs of rules on one row of which only one can hold; the place is the second one's."""
    for (_, one), (index, other) in combinations(enumerate(rules), 2):
        if any(getattr(one, field) != getattr(other, field) for field in _ROW):
            continue
        if not overlap(one.subject, other.subject):
            continue
        if None not in (one.class_name, other.class_name) and one.class_name != other.class_name:
            continue
        floors = [float(rule.at_least) for rule in (one, other) if rule.at_least is not None]
        tops = [float(rule.at_most) for rule in (one, other) if isinstance(rule.at_most, float)]
        if floors and tops and max(floors) > min(tops):
            told = f"at least {max(floors):g} and at most {min(tops):g} of {one.metric}"
            yield index, f"{other.id} contradicts {one.id}: no net has {told}"


@dataclass(frozen=True)
class Prospect:
    """What is known of an evaluation before anything is trained."""

    recipe: Recipe
    attacks: Mapping[str, bool]
    """Labels of the recipe's attacks, and whether each asks what is deployed."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """How those that follow a twin and ask the engine find their images, by label."""
    distances: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Labels of the recipe's distances, each with its metric and how many images it looks at."""
    patches: tuple[str, ...] = ()
    """Labels of the recipe's patch attacks, and of the random patches beside them."""
    corruptions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The recipe's corruptions by name, each with its severities."""
    removes_channels: bool = True
    """Whether the pruner makes the net smaller; else its budget counts what is not zero."""
    pruned: bool = True
    targets: tuple[Target, ...] = ()
    """Where it will be deployed, as far as that is known."""
    test_images: int | None = None
    classes: tuple[str, ...] = ()
    """Names of the data set's classes, where they are known."""
    dense: Callable[[], Mapping[str, float]] | None = None
    """Costs of the dense net by the names of Budget, worked out where they are needed."""

    @property
    def images(self) -> int | None:
        """How many test images the evaluation can use, where that is known."""
        known = [n for n in (self.recipe.evaluate.limit, self.test_images) if n is not None]
        return min(known, default=None)


def unmet_problems(rule: Rule, prospect: Prospect) -> Iterator[Problem]:
    """Say why no evaluation of the recipe can meet a rule that has a meaning in itself."""
    metric = METRICS[rule.metric]
    yield from _missing_rows(rule, metric, prospect)
    if rule.no_worse_than_baseline is not None and prospect.recipe.gate_baseline is None:
        told = "set gate_baseline, or put the rule into a file for `robustdeploy gate --rules FILE --baseline RUN`"
        yield ("no_worse_than_baseline",), f"the recipe names no baseline; {told}"
    yield from too_few_problems(rule, prospect)
    # A dense net beside the pruned one is held to no budget.
    about_dense = rule.subject is not None and parts_of(rule.subject)[0] == DENSE and prospect.pruned
    if metric.limited_by is not None and not about_dense:
        yield from _against_budget(rule, metric, prospect)


def too_few_problems(rule: Rule, prospect: Prospect) -> Iterator[Problem]:
    """Say why there will be too few images, or samples on a target; no attack and no pruner is asked, so no torch."""
    metric = METRICS[rule.metric]
    yield from _too_few(rule, metric, prospect)
    if metric.support == "samples":
        for target in prospect.targets:
            yield from _against_target(rule, metric, target)


def _missing_rows(rule: Rule, metric: Metric, prospect: Prospect) -> Iterator[Problem]:
    recipe = prospect.recipe
    place: Place = ("metric",)
    yield from _missing_subjects(rule, prospect)
    if metric.name in _BESIDE_DENSE and not (prospect.pruned and recipe.baseline):
        why = "`baseline` is false" if prospect.pruned else "no budget asks for pruning"
        yield place, f"{metric.name} is never measured: {why}, so there is no dense net {_BESIDE_DENSE[metric.name]}"
    if why := _never(metric, prospect):
        yield place, f"{metric.name} is never measured: {why}"
        return
    if rule.class_name is not None and prospect.classes and rule.class_name not in prospect.classes:
        near = did_you_mean(rule.class_name, prospect.classes)
        yield ("class_name",), f"the data set has no class '{rule.class_name}'{near}"
    if rule.attack in (None, "worst"):
        return
    noun, labels = _labels(metric, prospect)
    if rule.attack not in labels:
        near = did_you_mean(str(rule.attack), labels)
        yield (
            ("attack",),
            f"the recipe runs no {noun} '{rule.attack}'{near} (its {noun}s: {', '.join(labels) or 'none'})",
        )


def _never(metric: Metric, prospect: Prospect) -> str:
    """Say why a recipe's evaluation never gives a metric; nothing where it does."""
    evaluate = prospect.recipe.evaluate
    if metric.support == "curve":
        return "" if evaluate.eps_curve else "evaluate.eps_curve is empty"
    if metric.support == "distances":
        measured = {name for name, _ in prospect.distances.values()}
        return "" if metric.name in measured else "no entry of evaluate.distances measures it"
    if metric.support == "patches":
        return "" if prospect.patches else "evaluate.patches is empty"
    if metric.support == "corruptions":
        return "" if prospect.corruptions else "evaluate.corruptions is empty"
    if metric.support == "features" and not evaluate.vulnerability:
        return "evaluate.vulnerability is false"
    # Under `worst` there is a row even without attacks: it is then the clean one.
    if metric.attacked == "always" and not (_able(metric, prospect) or metric.worst):
        kind = "gradient" if metric.support == "features" else metric.found_by or "query"
        return f"evaluate.attacks holds no {kind} attack"
    return ""


def _labels(metric: Metric, prospect: Prospect) -> tuple[str, list[str]]:
    """Return what the rows of a metric are told apart by, and what there will be of it."""
    if metric.support == "curve":
        return "attack", [CURVE_ATTACK]
    if metric.support == "distances":
        return "distance", [label for label, (name, _) in prospect.distances.items() if name == metric.name]
    if metric.support == "patches":
        return "patch attack", list(prospect.patches)
    if metric.support == "corruptions":
        return "corruption", _corruption_labels(metric, prospect.corruptions)
    return "attack", [*_able(metric, prospect), *(["worst"] if metric.worst else [])]


def _corruption_labels(metric: Metric, corruptions: Mapping[str, tuple[int, ...]]) -> list[str]:
    if metric.attacked == "always":
        return [f"{name}-{severity}" for name, severities in corruptions.items() for severity in severities]
    severities = sorted({severity for its in corruptions.values() for severity in its})
    return [*corruptions, *map(severity_label, severities)]


def _able(metric: Metric, prospect: Prospect) -> list[str]:
    """Return the labels of the attacks that give rows of a metric."""
    attacks = prospect.attacks
    if metric.found_by:
        return [label for label in attacks if prospect.kinds.get(label) == metric.found_by]
    if metric.queried:
        return [label for label, is_query in attacks.items() if is_query]
    return [label for label, is_query in attacks.items() if not is_query or metric.support != "features"]


def _missing_subjects(rule: Rule, prospect: Prospect) -> Iterator[Problem]:
    """Say why no subject of the run will be one that the rule selects."""
    if rule.subject is None:
        return
    place: Place = ("subject",)
    own = PRUNED if prospect.pruned else DENSE
    baseline = prospect.recipe.baseline if prospect.pruned else False
    nets = [own, *([DENSE] if baseline and own != DENSE else [])]
    net, precision, where = parts_of(rule.subject)
    selected = [each for each in nets if fnmatchcase(each, net)]
    if not selected:
        why = "`baseline` is false" if prospect.pruned else "no budget asks for pruning"
        yield place, f"{rule.subject} is never measured: {why}, so this run has the net {own} alone"
    elif where != TORCH and selected == [DENSE] and own != DENSE and baseline != DEPLOY:
        yield (
            place,
            f"{rule.subject} is never measured: the dense net is not deployed; say `subject: dense/fp32@torch`, or set "
            "`baseline: deploy`",
        )
    elif where != TORCH and prospect.targets:
        names = [target.name for target in prospect.targets]
        if not any(fnmatchcase(name, where) for name in names):
            yield place, f"{rule.subject} is on no target of this run ({', '.join(names)})"
            return
    yield from _missing_precision(rule, precision, where, prospect)


def _missing_precision(rule: Rule, precision: str, where: str, prospect: Prospect) -> Iterator[Problem]:
    """Say that nothing is computed in the precision that a rule selects."""
    asked = prospect.recipe.precisions
    among = [target for target in prospect.targets if where == TORCH or fnmatchcase(target.name, where)]
    # Without a target nobody knows yet what will be its first.
    names = {each.name for each in asked} | {each.name for target in among for each in precisions_on(target, asked)}
    if where == TORCH:
        names.add(FP32)  # the net itself is always told of
    if (asked or among) and not any(fnmatchcase(name, precision) for name in names):
        told = ", ".join(sorted(names))
        yield (
            ("subject",),
            f"{rule.subject} is never measured: this run computes in {told}; add --precision {precision}",
        )


def _too_few(rule: Rule, metric: Metric, prospect: Prospect) -> Iterator[Problem]:
    n, of = prospect.images, "test images"
    if metric.support == "curve":
        n, of = min(prospect.recipe.evaluate.curve_limit, n or prospect.recipe.evaluate.curve_limit), "of the curve"
    elif metric.support == "distances":
        its = [most for name, most in prospect.distances.values() if name == metric.name]
        # At most: of those that are labelled wrong already no distance is told.
        n, of = min([*its, *([] if n is None else [n])], default=None), "images to measure it on"
    elif metric.support == "samples":
        n, of = _MOST_SAMPLES, "timed runs"
    elif metric.support == "count" or metric.unit == "logits":
        return
    if n is None:
        return
    if rule.n_at_least > n:
        yield ("n_at_least",), f"needs {rule.n_at_least:,} where the evaluation has {n:,} {of}"
    # All n right: the lower end of Clopper and Pearson's interval is then the n-th root of the tail.
    best = _TAIL ** (1 / n)
    if metric.is_share and rule.on == "bound" and rule.at_least is not None and rule.at_least > best:
        yield (
            ("at_least",),
            f"{n:,} {of}, all of them right, put the lower bound at {best:.2%}, below {rule.at_least:.6g}; use more",
        )


def _against_budget(rule: Rule, metric: Metric, prospect: Prospect) -> Iterator[Problem]:
    part, budget = str(metric.limited_by), prospect.recipe.budget
    amount, nonzero = budget.amounts.get(part), metric.name.startswith("nonzero_")
    pruner = prospect.recipe.prune.name
    if rule.by_budget:
        # Of a net that is not pruned the dense cost is the limit, so shipped recipes train without a budget as well.
        if amount is None and prospect.pruned:
            yield ("at_most",), f"the recipe sets no budget.{part}, so `at_most: budget` has no limit"
        return
    if not isinstance(rule.at_most, float):
        return
    is_share = metric.unit == "fraction"
    if nonzero and prospect.removes_channels:
        yield ("metric",), f"'{pruner}' sets no weight to zero; did you mean '{metric.name.removeprefix('nonzero_')}'?"
    elif not nonzero and not (prospect.pruned and prospect.removes_channels):
        if is_share and rule.at_most < 1:
            yield ("at_most",), _stays_whole(metric, pruner, prospect)
    elif amount is not None and len(budget.amounts) == 1:
        limit, reached = rule.at_most, amount
        if is_share != (amount <= 1):
            if prospect.dense is None:
                return
            dense = prospect.dense()[part]
            limit, reached = (limit * dense if is_share else limit), absolute(amount, dense)
        # Channels go in whole groups, so a net ends a little below its budget and never far below.
        if prospect.removes_channels and limit <= BUDGET_WINDOW * reached:
            given = f"{amount:g}" if amount <= 1 else f"{amount:,.0f}"
            yield (
                ("at_most",),
                f"pruning to budget.{part} {given} ends above {BUDGET_WINDOW:.0%} of it, and {rule.at_most:g} is less; "
                "say `at_most: budget`",
            )


def _stays_whole(metric: Metric, pruner: str, prospect: Prospect) -> str:
    if not prospect.pruned:
        return f"no budget asks for pruning, so {metric.name} stays 1; set budget.{metric.limited_by}"
    other = f"nonzero_{metric.name}"
    advice = f"; did you mean '{other}'?" if other in METRICS else ""
    return f"'{pruner}' removes no channel, so {metric.name} stays 1{advice}"


def _against_target(rule: Rule, metric: Metric, target: Target) -> Iterator[Problem]:
    if target.emulated:
        yield ("metric",), f"{target.name} is emulated, so its latency is never taken; remove the rule or its target"
        return
    plan, (_, _, percent) = target.latency, metric.name.partition(".p")
    scenario = scenario_of(metric)
    if scenario is not None and scenario not in plan.scenarios:
        taken = ", ".join(plan.scenarios)
        yield (
            ("metric",),
            f"{metric.name} is of the scenario '{scenario}', and {target.name} takes {taken}; add it to "
            "latency.scenarios",
        )
        return
    if metric.name == LATENCY_FRACTION and set(plan.scenarios) == {"paced"}:
        told = f"{metric.name} is of calls that follow each other at once, and {target.name} takes none"
        yield ("metric",), f"{told}; add single-stream to latency.scenarios"
        return
    if not percent:
        return
    needed, fewest = samples_needed(float(percent)), plan.min_samples
    if fewest < needed:
        yield (
            ("metric",),
            f"p{percent} needs {needed:,} samples, and {target.name} may stop at latency.min_samples, {fewest:,}",
        )
