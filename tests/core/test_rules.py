"""Rules: those that mean nothing, those that nothing could meet, and the sentences that say so."""

import re
from dataclasses import replace

import pytest

from robustdeploy.core.gate import Rule
from robustdeploy.core.load import gate_problems, load_recipe, load_target, prospect_of
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.recipe import Budget, Choice, Evaluate, Recipe
from robustdeploy.core.rules import Prospect, contradictions, meaning_problems, unmet_problems
from robustdeploy.core.target import LatencyPlan
from robustdeploy.errors import RecipeError
from robustdeploy.evaluate.intervals import clopper_pearson


def rule(**fields):
    return Rule(**{"id": "RD-A-1", **fields})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"metric": "robust_acuracy", "at_least": 0.5}, "there is no metric 'robust_acuracy'; did you mean 'robust_a"),
        ({"metric": "latency_ms_p99", "at_most": 5}, "did you mean 'latency_ms.p99'"),
        ({"metric": "latency", "at_most": 5}, "did you mean 'latency_ms.p99'"),
        ({"metric": "latency_ms", "at_most": 5}, "did you mean 'latency_ms.p99'"),
        ({"metric": "latency_ms.p99", "at_most": 0}, "above 0 whatever the board does"),
        ({"metric": "latency_ms.mean", "at_most": "0 us"}, "above 0 whatever the board does"),
        ({"metric": "clean_accuracy", "at_least": 95}, r"95 is none; did you mean 0.95 \(95 %\)\?"),
        ({"metric": "clean_accuracy", "at_least": 950}, r"from 0 to 1, and 950 is none$"),
        ({"metric": "robust_accuracy", "attack": "worst", "at_least": -0.1}, "from 0 to 1, and -0.1 is none"),
        ({"metric": "ops_fraction", "at_most": 30}, r"did you mean 0.3 \(30 %\)"),
        ({"metric": "ops", "at_most": 0.3}, "counts MACs from 1, so 0.3 is no limit; did you mean ops_fraction?"),
        ({"metric": "clean_accuracy", "at_most": 0.9}, "better the higher it is, so at_most .*; say at_least"),
        ({"metric": "latency_ms.p99", "at_least": 3}, "better the lower it is, so at_least .*; say at_most"),
        ({"metric": "clean_accuracy", "at_least": 0.0}, "could never fail"),
        ({"metric": "clean_accuracy", "at_least": 1}, "no number of images puts the lower bound at 1"),
        ({"metric": "clean_accuracy", "attack": "worst", "at_least": 0.5}, "did you mean 'robust_accuracy'"),
        ({"metric": "latency_ms.p99", "attack": "fgsm", "at_most": 5}, "measured without an attack; remove the attack"),
        ({"metric": "top1_agreement", "attack": "worst", "at_least": 0.9}, "no row under 'worst'"),
        ({"metric": "balanced_robust_accuracy", "attack": "fgsm", "at_least": 0.5}, "say `attack: worst`"),
        ({"metric": "dense_clean_accuracy", "at_least": 0.5}, "there is no metric 'dense_clean_accuracy'"),
        ({"metric": "r2_deepfool", "at_least": 0.5}, "in torch alone; say `subject: .*/fp32@torch`"),
        ({"metric": "r2", "at_most": 0.5, "subject": "pruned/fp32@torch"}, "better the higher it is"),
        ({"metric": "parity_max_abs", "at_most": 1, "on": "value"}, "in torch alone; say `subject: .*/fp32@torch`"),
        (
            {"metric": "latency_ms.p99", "subject": "pruned/fp32@torch", "at_most": 5},
            "measured on targets, never in torch; leave `subject` out",
        ),
        (
            {"metric": "clean_accuracy", "subject": "prunned/*@*", "at_least": 0.5},
            "no run has a net .* did you mean 'pruned'",
        ),
        ({"metric": "clean_accuracy", "subject": "pruned/fp23@*", "at_least": 0.5}, "precision 'fp23'; did you mean"),
        ({"metric": "latency_ms.cv", "at_most": 0.1}, "no interval .*; say `on: value`"),
        ({"metric": "ops_fraction", "at_most": 0.3, "n_at_least": 300}, "n is 1; remove n_at_least"),
        ({"metric": "latency_ms.p99", "at_most": "budget"}, "no budget limits latency_ms.p99; give a number"),
    ],
)
def test_a_rule_that_means_nothing_is_told_in_one_sentence(fields, sentence):
    told = [text for _, text in meaning_problems(rule(**fields))]
    assert len(told) == 1
    assert re.search(sentence, told[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "clean_accuracy", "at_least": "95 %"},
        {"metric": "clean_accuracy", "at_least": 1, "on": "value"},
        {"metric": "robust_accuracy", "at_least": 0.3},
        {"metric": "robust_accuracy", "attack": "worst", "subject": "pruned/*@torch", "at_least": 0.3},
        {"metric": "robust_accuracy_at_eps", "at_most": 0.9},
        {"metric": "robust_accuracy", "subject": "dense/fp32@torch", "attack": "worst", "at_least": 0.3},
        {"metric": "latency_ms.cv", "at_most": 1.5, "on": "value"},
        {"metric": "activation_memory", "at_most": "64KiB"},
        {"metric": "ops_fraction", "at_most": "budget"},
        {"metric": "checks_skipped", "at_most": 0},
    ],
)
def test_a_rule_with_a_meaning_is_left_alone(fields):
    assert list(meaning_problems(rule(**fields))) == []


@pytest.mark.parametrize(
    ("metric", "side", "text", "number"),
    [
        ("clean_accuracy", "at_least", "95 %", 0.95),
        ("clean_accuracy", "at_least", "99.5%", 0.995),
        ("clean_accuracy", "at_least", "1/2", 0.5),
        ("latency_ms.p99", "at_most", "20 ms", 20),
        ("latency_ms.p99", "at_most", "0.02 s", 20),
        ("latency_ms.p99", "at_most", "500us", 0.5),
        ("ops", "at_most", "12.2M", 12_200_000),
        ("activation_memory", "at_most", "64KiB", 65536),
    ],
)
def test_a_limit_may_have_its_unit(metric, side, text, number):
    assert getattr(rule(metric=metric, **{side: text}), side) == pytest.approx(number)


@pytest.mark.parametrize(
    ("metric", "side", "text", "sentence"),
    [
        ("latency_ms.p99", "at_most", "20 %", "20 % is a share, and the rule's metric is in ms"),
        ("clean_accuracy", "at_least", "20 ms", "20 ms is a time, and the rule's metric is in fraction"),
        ("clean_accuracy", "at_least", "high", "must be a number such as 0.95 or 95 %, not 'high'"),
        ("clean_accuracy", "at_least", "budget", "must be a number such as 0.95 or 95 %, not 'budget'"),
        ("clean_accuracy", "at_least", True, "must be a number such as 0.95 or 95 %, not true"),
        ("ops", "at_most", "12 stone", "must be a number such as"),
        ("clean_accuracy", "at_least", float("nan"), "must be a finite number, not nan"),
    ],
)
def test_a_limit_of_another_kind_is_refused(metric, side, text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        rule(metric=metric, **{side: text})


RECIPE = Recipe(
    name="t",
    budget=Budget(ops=0.5),
    evaluate=Evaluate(attacks=(Choice(name="fgsm"), Choice(name="pgd", options={"steps": 5})), curve_limit=30),
)


def told(fields, recipe=RECIPE, **known):
    recipe = recipe.model_copy(update={"gate": (rule(**fields),)})
    return [text for _, text in gate_problems(replace(prospect_of(recipe), **known))]


def changed(**parts):
    return RECIPE.model_copy(update=parts)


FEW = changed(evaluate=RECIPE.evaluate.model_copy(update={"limit": 64}))
HOST = load_target("host-cpu")
QUICK = HOST.model_copy(update={"latency": LatencyPlan(min_samples=100)})
PACED = HOST.model_copy(
    update={"latency": LatencyPlan(scenarios=("paced", "offline"), period_ms=33.3, min_samples=700)}
)
FAR = changed(
    evaluate=Evaluate(
        distances=(Choice(name="deepfool", options={"limit": 50}), Choice(name="deepfool", options={"box": True}))
    )
)
SQUARE = Choice(name="square", options={"queries": 9})
ASKED = changed(evaluate=Evaluate(attacks=(SQUARE,), vulnerability=True))
MOVED = changed(evaluate=Evaluate(attacks=(SQUARE, Choice(name="pgd", options={"steps": 5})), vulnerability=True))
FOGGY = changed(
    evaluate=Evaluate(corruptions=(Choice(name="fog", options={"severities": [1, 3]}), Choice(name="jpeg")))
)
MASKED = changed(prune=Choice(name="weights"))


@pytest.mark.parametrize(
    ("fields", "recipe", "known", "sentence"),
    [
        (
            {"metric": "ops_fraction", "at_most": 0.2},
            RECIPE,
            {},
            "budget.ops 0.5 ends above 97% of it, and 0.2 is less",
        ),
        ({"metric": "ops_fraction", "at_most": 0.485}, RECIPE, {}, "and 0.485 is less; say `at_most: budget`"),
        ({"metric": "ops", "at_most": 400}, RECIPE, {"dense": lambda: {"ops": 1000}}, "and 400 is less"),
        ({"metric": "params", "at_most": "budget"}, RECIPE, {}, "sets no budget.params"),
        ({"metric": "ops_fraction", "at_most": 0.9}, changed(budget=Budget()), {}, "no budget asks for pruning"),
        ({"metric": "ops_fraction", "at_most": 0.5}, MASKED, {}, "stays 1; did you mean 'nonzero_ops_fraction'"),
        ({"metric": "nonzero_ops_fraction", "at_most": 0.5}, RECIPE, {}, "did you mean 'ops_fraction'"),
        ({"metric": "robust_accuracy", "attack": "pgd-10", "at_least": 0.5}, RECIPE, {}, "did you mean 'pgd-5'"),
        ({"metric": "robust_accuracy", "attack": "square", "at_least": 0.5}, RECIPE, {}, "fgsm, pgd-5, worst"),
        ({"metric": "robust_accuracy_at_eps", "attack": "pgd-5", "at_least": 0.5}, RECIPE, {}, "'pgd-10'"),
        (
            {"metric": "class_clean_accuracy", "class_name": "catt", "at_least": 0.5},
            RECIPE,
            {"classes": ("cat", "dog")},
            "has no class 'catt'; did you mean 'cat'",
        ),
        ({"metric": "attack_queries", "at_least": 5, "on": "value"}, RECIPE, {}, "holds no query attack"),
        ({"metric": "clean_accuracy", "at_least": 0.5, "n_at_least": 65}, FEW, {}, "needs 65 where .* has 64 test"),
        ({"metric": "clean_accuracy", "at_least": 0.5, "n_at_least": 99}, RECIPE, {"test_images": 98}, "has 98 test"),
        ({"metric": "robust_accuracy_at_eps", "at_least": 0.1, "n_at_least": 31}, RECIPE, {}, "has 30 of the curve"),
        ({"metric": "r2_deepfool", "at_least": 0.1}, RECIPE, {}, "no entry of evaluate.distances measures it"),
        ({"metric": "r2", "at_least": 0.1}, FAR, {}, "no entry of evaluate.distances measures it"),
        (
            {"metric": "vulnerability", "at_most": 0.1, "subject": "pruned/fp32@torch"},
            RECIPE,
            {},
            "evaluate.vulnerability is false",
        ),
        (
            {"metric": "vulnerability", "at_most": 0.1, "subject": "pruned/fp32@torch"},
            ASKED,
            {},
            "evaluate.attacks holds no gradient attack",
        ),
        (
            {"metric": "vulnerability", "attack": "square-9", "at_most": 0.1, "subject": "pruned/fp32@torch"},
            MOVED,
            {},
            r"runs no attack 'square-9' \(its attacks: pgd-5\)",
        ),
        ({"metric": "accuracy_corrupted", "at_least": 0.1}, RECIPE, {}, "evaluate.corruptions is empty"),
        (
            {"metric": "accuracy_corrupted", "attack": "fog-2", "at_least": 0.1},
            FOGGY,
            {},
            r"runs no corruption 'fog-2'; did you mean 'fog-[13]'\? \(its corruptions: fog-1, fog-3, jpeg-1, ",
        ),
        (
            {"metric": "mean_corruption_accuracy", "attack": "severity-6", "at_least": 0.1},
            FOGGY,
            {},
            "runs no corruption 'severity-6'; did you mean 'severity-",
        ),
        (
            {"metric": "mean_corruption_error", "at_most": 1.1},
            FOGGY.model_copy(update={"baseline": False}),
            {},
            "`baseline` is false, so there is no dense net to divide by",
        ),
        (
            {"metric": "r2_deepfool", "attack": "deepfool-bx", "at_least": 0.1},
            FAR,
            {},
            "runs no distance 'deepfool-bx'; did you mean 'deepfool-box'",
        ),
        ({"metric": "r2_deepfool", "at_least": 0.1, "n_at_least": 51}, FAR, {}, "has 50 images to measure it on"),
        ({"metric": "clean_accuracy", "at_least": 0.95}, FEW, {}, "64 test images, all of them right, .* 94.40%"),
        (
            {"metric": "latency_ms.p99.9", "at_most": 5},
            RECIPE,
            {"targets": (QUICK,)},
            "p99.9 needs 6,636 samples, .* 100",
        ),
        (
            {"metric": "response_ms.p99", "at_most": 5},
            RECIPE,
            {"targets": (HOST,)},
            "is of the scenario 'paced', and host-cpu takes single-stream; add it to latency.scenarios",
        ),
        (
            {"metric": "latency_ms.mean", "at_most": 5},
            RECIPE,
            {"targets": (PACED,)},
            "'single-stream', and host-cpu takes paced, offline",
        ),
        (
            {"metric": "response_ms.p99.9", "at_most": 5},
            RECIPE,
            {"targets": (PACED,)},
            "p99.9 needs 6,636 samples, .* 700",
        ),
        (
            {"metric": "throughput_images_s", "at_least": 5},
            RECIPE,
            {"targets": (HOST,)},
            "scenario 'offline'",
        ),
        (
            {"metric": "latency_ms.p99", "at_most": 5},
            RECIPE,
            {"targets": (HOST.model_copy(update={"emulated": True}),)},
            "host-cpu is emulated, so its latency is never taken",
        ),
        (
            {"metric": "clean_accuracy", "subject": "dense/*@torch", "at_least": 0.5},
            changed(baseline=False),
            {},
            "`baseline` is false",
        ),
        (
            {"metric": "latency_fraction", "at_most": 0.7},
            changed(baseline=False),
            {},
            "`baseline` is false, so there is no dense net to take turns with",
        ),
        (
            {"metric": "latency_fraction", "at_most": 0.7},
            RECIPE,
            {"targets": (HOST.model_copy(update={"latency": LatencyPlan(scenarios=("paced",), period_ms=5)}),)},
            "host-cpu takes none; add single-stream to latency.scenarios",
        ),
        (
            {"metric": "latency_ms.p99", "subject": "dense/fp32@host-cpu", "at_most": 5},
            RECIPE,
            {"targets": (HOST,)},
            "the dense net is not deployed; say `subject: dense/fp32@torch`, or set `baseline: deploy`",
        ),
        (
            {"metric": "robust_accuracy_at_eps", "at_least": 0.1},
            changed(evaluate=Evaluate(eps_curve=())),
            {},
            "evaluate.eps_curve is empty",
        ),
    ],
)
def test_a_rule_that_nothing_could_meet_is_told(fields, recipe, known, sentence):
    found = told(fields, recipe, **known)
    assert len(found) == 1
    assert found[0].startswith("RD-A-1 can never hold: ")
    assert re.search(sentence, found[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "deadline_miss_fraction", "at_most": 0.01},
        {"metric": "overrun_fraction", "at_most": 0.01},
        {"metric": "response_ms.p99", "at_most": 20},
        {"metric": "throughput_images_s", "at_least": 30},
        {"metric": "peak_memory_mib", "at_most": 512},
        {"metric": "energy_mj", "at_most": 9},
        {"metric": "load_ms", "at_most": 900},
        {"metric": "compute_ms", "at_most": 9},
    ],
)
def test_what_the_target_takes_may_be_asked_for(fields):
    assert told(fields, RECIPE, targets=(PACED,)) == []


def test_a_dense_net_that_is_deployed_may_be_asked_about():
    rules = [
        {"metric": "latency_ms.p99", "subject": "dense/*@*", "at_most": 5},
        {"metric": "ops_fraction", "subject": "dense/*@host-cpu", "at_most": 0.2},  # no budget is the dense net's
    ]
    for fields in rules:
        assert told(fields, changed(baseline="deploy"), targets=(HOST,)) == []


@pytest.mark.parametrize(
    ("fields", "recipe", "known"),
    [
        ({"metric": "ops_fraction", "at_most": "budget"}, RECIPE, {}),
        ({"metric": "ops_fraction", "at_most": 0.49}, RECIPE, {}),
        ({"metric": "ops", "at_most": 500}, RECIPE, {"dense": lambda: {"ops": 1000}}),
        ({"metric": "params_fraction", "at_most": 0.4}, RECIPE, {}),
        ({"metric": "ops_fraction", "at_most": "budget"}, MASKED, {}),
        ({"metric": "nonzero_ops_fraction", "at_most": 0.5}, MASKED, {}),
        ({"metric": "robust_accuracy", "attack": "worst", "at_least": 0.5, "n_at_least": 64}, FEW, {}),
        ({"metric": "clean_accuracy", "at_least": 0.943}, FEW, {}),
        ({"metric": "clean_accuracy", "at_least": 0.99, "on": "value"}, FEW, {}),
        ({"metric": "latency_ms.p99.9", "at_most": 5}, RECIPE, {"targets": (HOST,)}),
        ({"metric": "ops_fraction", "at_most": 0.2}, changed(budget=Budget(ops=0.5, params=0.2)), {}),
    ],
)
def test_a_rule_that_may_hold_is_let_through(fields, recipe, known):
    assert told(fields, recipe, **known) == []


@pytest.mark.parametrize("n", [1, 7, 64, 300])
def test_the_best_bound_is_that_of_the_intervals(n):
    best = clopper_pearson(n, n)[0]
    recipe = changed(evaluate=RECIPE.evaluate.model_copy(update={"limit": n}))
    assert told({"metric": "clean_accuracy", "at_least": best - 1e-9}, recipe) == []
    assert len(told({"metric": "clean_accuracy", "at_least": best + 1e-9}, recipe)) == 1


def test_two_rules_that_exclude_each_other_are_told():
    rules = (
        rule(metric="robust_accuracy_at_eps", at_least=0.5),
        rule(id="RD-A-2", metric="robust_accuracy_at_eps", at_most=0.4),
        rule(id="RD-A-3", metric="robust_accuracy_at_eps", attack="pgd-10", at_most=0.4),
    )
    assert list(contradictions(rules)) == [
        (1, "RD-A-2 contradicts RD-A-1: no net has at least 0.5 and at most 0.4 of robust_accuracy_at_eps")
    ]


def test_all_that_is_wrong_with_a_gate_is_told_at_once_with_its_place(write):
    path = write(
        "name: t\ngate:\n"
        "  - {id: A-1, metric: robust_acuracy, at_least: 0.5}\n"
        "  - {id: A-2, metric: clean_accuracy, at_least: 95}\n"
        "  - {id: A-3, metric: top1_agreement, at_least: a lot}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = str(caught.value).splitlines()
    assert [line.rpartition("yaml:")[2].split(":")[0] for line in lines] == ["3", "4", "5"]


def test_a_recipe_is_foreseen_only_where_that_is_asked_for(write):
    path = write("name: t\nevaluate: {limit: 5}\ngate: [{id: A-1, metric: clean_accuracy, at_least: 0.9}]\n")
    assert load_recipe(path).evaluate.limit == 5
    with pytest.raises(RecipeError, match=r"gate\[0\].at_least: A-1 can never hold: 5 test images"):
        load_recipe(path, foresee=True)


def test_the_list_of_metrics_is_sound():
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.meaning
        assert metric.places
        assert not metric.is_share or metric.high == 1


def test_the_dense_cost_is_the_limit_of_a_net_that_is_not_pruned():
    rule = Rule(id="RD-OPS-01", metric="ops_fraction", at_most="budget")
    dense = changed(budget=Budget())
    assert not list(unmet_problems(rule, Prospect(dense, {}, pruned=False)))
    assert list(unmet_problems(rule, Prospect(changed(budget=Budget(params=0.5)), {}, pruned=True)))


@pytest.mark.parametrize(
    ("asked", "targets", "subject", "told"),
    [
        ((), ("host-cpu",), "pruned/int8@*", "this run computes in fp32; add --precision int8"),
        (("fp32", "int8"), ("host-cpu",), "pruned/int8@*", None),
        (("int8",), ("host-cpu",), "pruned/fp32@host-cpu", "this run computes in int8; add --precision fp32"),
        (("int8",), ("host-cpu",), "pruned/fp32@torch", None),
        ((), ("host-cpu",), "pruned/int8@torch", "this run computes in fp32"),
        ((), ("host-cpu", "host-cpu-int8"), "pruned/int8@host-cpu-int8", None),
        ((), ("host-cpu", "host-cpu-int8"), "pruned/int8@host-cpu", "this run computes in fp32"),
        # Without a target nobody knows what its first precision will be.
        ((), (), "pruned/int8@*", None),
        (("fp16",), (), "pruned/int8@*", "this run computes in fp16"),
    ],
)
def test_a_rule_on_a_precision_that_nothing_is_computed_in_is_refused(asked, targets, subject, told):
    recipe = changed(precisions=tuple(Choice(name=each) for each in asked))
    prospect = Prospect(recipe, {}, targets=tuple(load_target(name) for name in targets))
    found = [text for _, text in unmet_problems(rule(metric="clean_accuracy", at_least=0.5, subject=subject), prospect)]
    assert len(found) == (told is not None)
    assert not found or told in found[0]
