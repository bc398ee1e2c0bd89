"""Accuracy class by class, and answers that one class explains."""

import numpy as np
import pytest

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.subject import subject_from
from robustdeploy.evaluate.classes import class_rows, one_class_diagnostic
from robustdeploy.evaluate.intervals import balanced_share, clopper_pearson
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.rows import accuracy_rows
from robustdeploy.report.judge import judge

SUBJECT = subject_from("pruned/fp32@host-cpu")

CLASSES = ("no sign", "stop", "yield")


def outcomes(labels, clean, attacked):
    """``clean`` and ``attacked``: the answers to the images, and to them under one attack."""
    labels, clean, attacked = (np.asarray(part, np.int64) for part in (labels, clean, attacked))
    images = np.zeros((len(labels), 1, 2, 2), np.uint8)
    attack = AttackOutcome("pgd-20", "transfer", images, attacked, attacked)
    return Outcomes(np.arange(len(labels)), images, labels, board_clean=clean, host_clean=clean, attacks=(attack,))


def rows_of(made, classes=CLASSES):
    rows = [*accuracy_rows(made, {"pgd-20": {}}, SUBJECT), *class_rows(made, classes, SUBJECT)]
    return {(row.metric, row.attack, row.conditions.get("class")): row for row in rows if row.subject == str(SUBJECT)}


UNBALANCED = np.repeat([0, 1], [500, 10])
EVEN = np.arange(300) % 3


def test_a_constant_answer_looks_robust_and_is_found_out():
    made = outcomes(UNBALANCED, np.zeros(510), np.zeros(510))
    rows = rows_of(made)
    assert rows["robust_accuracy", "worst", None].value == pytest.approx(0.98, abs=0.001)
    assert rows["balanced_clean_accuracy", None, None].value == 0.5
    assert rows["balanced_robust_accuracy", "worst", None].value == 0.5
    assert rows["majority_baseline", None, "no sign"].value == pytest.approx(0.98, abs=0.001)
    assert rows["class_robust_accuracy", "worst", "no sign"].value == 1
    assert rows["class_robust_accuracy", "worst", "stop"].value == 0
    assert rows["class_robust_accuracy", "worst", "stop"].n == 10
    assert ("class_clean_accuracy", None, "yield") not in rows  # no image of it
    found = one_class_diagnostic(made, CLASSES)
    assert found.level == "block"
    assert {"clean_accuracy", "robust_accuracy"} <= set(found.metrics)
    assert "worst-case accuracy is explained by the class no sign alone" in found.text
    rules = [
        Rule(id="T-ROB-01", metric="robust_accuracy", attack="worst", at_least=0.9),
        Rule(id="T-ACC-01", metric="clean_accuracy", at_least=0.9),
        Rule(id="T-BAL-01", metric="balanced_robust_accuracy", attack="worst", at_least=0.9),
    ]
    verdict = judge(list(rows.values()), [found], rules)
    assert [line.outcome for line in verdict.rules] == [Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE, Outcome.FAIL]


@pytest.mark.parametrize(
    ("labels", "clean", "attacked", "metrics"),
    [
        # An attack that leaves only the large class standing.
        (UNBALANCED, UNBALANCED, np.zeros(510), {"robust_accuracy"}),
        # The same on classes of equal size: 1 in 3 stands, all of one class.
        (EVEN, EVEN, np.zeros(300), {"robust_accuracy"}),
        # A few of the others right by luck.
        (EVEN, np.where(np.arange(300) < 6, EVEN, 0), np.zeros(300), {"clean_accuracy", "robust_accuracy"}),
        # As many answers of each class as there are, but not for its images.
        (UNBALANCED, np.roll(UNBALANCED, 20), np.roll(UNBALANCED, 20), {"clean_accuracy", "robust_accuracy"}),
        # One image of another class shows nothing.
        (np.repeat([0, 1], [63, 1]), np.repeat([0, 1], [63, 1]), np.repeat([0, 1], [63, 1]), {"robust_accuracy"}),
        # All images are of one class.
        (np.zeros(50), np.zeros(50), np.zeros(50), {"clean_accuracy", "robust_accuracy"}),
    ],
)
def test_answers_that_one_class_explains(labels, clean, attacked, metrics):
    assert metrics <= set(one_class_diagnostic(outcomes(labels, clean, attacked), CLASSES).metrics)


@pytest.mark.parametrize(
    ("labels", "attacked"),
    [
        (UNBALANCED, UNBALANCED),  # right on both, though of unequal size
        (EVEN, (EVEN + 1) % 3),  # nothing stands, so nothing is to be explained
        (EVEN, np.where(np.arange(300) < 9, EVEN, (EVEN + 1) % 3)),  # 3 % stand, of all classes
        (EVEN, np.where(EVEN < 2, EVEN, 0)),  # two of three classes
    ],
)
def test_honest_answers_are_not_blamed(labels, attacked):
    assert one_class_diagnostic(outcomes(labels, labels, attacked), CLASSES).level == "ok"


def test_a_rule_speaks_of_one_class_or_of_every_class():
    labels = np.repeat([0, 1, 2], 100)
    attacked = labels.copy()
    attacked[200:250] = 0
    rows = list(rows_of(outcomes(labels, labels, attacked)).values())

    def verdict(**more):
        return judge(rows, [], [Rule(id="T-CLS-01", metric="class_robust_accuracy", at_least=0.8, **more)]).rules[0]

    assert verdict(class_name="stop").outcome is Outcome.PASS
    assert verdict(class_name="yield").outcome is Outcome.FAIL
    assert (
        "class_robust_accuracy of class yield under worst of pruned/fp32@host-cpu" in verdict(class_name="yield").text
    )
    assert verdict().outcome is Outcome.FAIL
    assert verdict().text.endswith("(the worst of 3 rows)")
    missing = verdict(class_name="yeild")
    assert missing.outcome is Outcome.INCONCLUSIVE
    assert missing.text.endswith("there is no such class among the test images; did you mean 'yield'?")


def test_classes_that_are_numbers_may_be_written_as_numbers():
    assert Rule(id="T-CLS-01", metric="class_robust_accuracy", at_least=0.5, class_name=3).class_name == "3"


def test_of_one_group_the_balanced_interval_is_that_of_the_group():
    assert balanced_share([7], [20])[1:] == pytest.approx(clopper_pearson(7, 20))
    assert balanced_share([0, 10], [10, 10])[0] == 0.5


def test_the_balanced_interval_covers_what_it_should():
    rng, truth, counts = np.random.default_rng(0), np.array([0.95, 0.6, 0.1]), np.array([200, 20, 10])
    held = 0
    for _ in range(300):
        _, low, high = balanced_share(rng.binomial(counts, truth).tolist(), counts.tolist())
        held += low <= truth.mean() <= high
    assert held >= 0.95 * 300
