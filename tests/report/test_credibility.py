"""Credibility: what speaks against a robust accuracy, what does not matter, and what the gate makes of it."""

import pytest

from robustdeploy.core.gate import Credibility, Outcome, Rule
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.report.credibility import credibility_of
from robustdeploy.report.judge import judge

BOARD = "pruned/fp32@host-cpu"
CREDIBLE, SUSPECT, VOID = Credibility.CREDIBLE, Credibility.SUSPECT, Credibility.VOID
PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
ROBUST = Rule(id="RD-ROB-01", metric="robust_accuracy", attack="worst", at_least=0.4)
BY_PGD = Rule(id="RD-ROB-02", metric="robust_accuracy", attack="pgd-10", at_least=0.4)
CLEAN = Rule(id="RD-ACC-01", metric="clean_accuracy", at_least=0.8)


def row(metric, value, attack=None):
    given = {"metric": metric, "subject": BOARD, "attack": attack, "unit": "fraction", "n": 400}
    return Measurement(**given, value=value, low=max(0, value - 0.01), high=min(1, value + 0.01))


def rows(worst):
    return [
        row("clean_accuracy", 0.95),
        row("robust_accuracy", 0.7, "pgd-10"),
        row("robust_accuracy", worst, "worst"),
        row("majority_baseline", 0.1),
    ]


def check(name, level="block", value=1.0, **more):
    return Diagnostic(id=name, level=level, text=f"{name} speaks.", value=value, subject=BOARD, **more)


MASKED = check("zero-gradient", flatters=True)
STEPS = check("iterative-beats-single-step", flatters=True)


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], CREDIBLE),
        ([check("zero-gradient", "ok")], CREDIBLE),
        ([MASKED], VOID),
        ([check("zero-gradient", "warn", flatters=True)], SUSPECT),
        ([STEPS], SUSPECT),
        ([STEPS, MASKED], VOID),
        ([check("least-strength", flatters=True)], SUSPECT),
        # What could not be checked is open, and a warning of it says nothing yet.
        ([check("query-beats-transfer", value=None)], SUSPECT),
        ([check("attack-ladder", "warn", value=None)], CREDIBLE),
        # A repeated image, a slow board and another net's checks say nothing of this net's robustness.
        ([check("train-test-overlap", "warn")], CREDIBLE),
        ([check("latency-valid"), check("memory-limit")], CREDIBLE),
        ([MASKED.model_copy(update={"subject": "dense/fp32@other"})], CREDIBLE),
        ([MASKED.model_copy(update={"subject": None})], VOID),
    ],
)
def test_each_check_has_its_say(checks, expected):
    found = credibility_of(BOARD, rows(0.5), checks)
    assert found.credibility is expected
    assert bool(found.doubts) == (expected is not CREDIBLE)
    assert all(doubt.next and doubt.check in found.text and doubt.next in found.text for doubt in found.doubts)


@pytest.mark.parametrize(("worst", "expected"), [(0.0, CREDIBLE), (0.1, CREDIBLE), (0.12, VOID)])
def test_a_net_that_keeps_nothing_hides_nothing(worst, expected):
    found = credibility_of(BOARD, rows(worst), [MASKED, STEPS])
    assert found.credibility is expected
    assert {doubt.check for doubt in found.doubts} == {"zero-gradient", "iterative-beats-single-step"}
    if expected is CREDIBLE:
        assert "so little of it is left" in found.text
    # What may make a figure too low as well is no matter of weak attacks.
    assert credibility_of(BOARD, rows(worst), [MASKED, check("repeatable")]).credibility is VOID


def test_where_nobody_attacked_nothing_is_said():
    assert credibility_of(BOARD, rows(0.5)[:1], [MASKED]) is None
    assert judge(rows(0.5)[:1], [], [CLEAN]).robustness == ()


def outcomes(worst, checks, *rules):
    verdict = judge(rows(worst), checks, rules)
    return verdict.outcome, [line.outcome for line in verdict.rules]


def test_a_suspect_or_void_robustness_is_inconclusive_and_the_rule_says_what_to_try():
    for doubt in (STEPS, MASKED, check("attack-ladder", "warn", flatters=True)):
        verdict = judge(rows(0.5), [doubt], [ROBUST])
        assert (verdict.outcome, verdict.rules[0].outcome) == (INCONCLUSIVE, INCONCLUSIVE)
        assert f"{doubt.id} speaks." in verdict.rules[0].text
        assert verdict.rules[0].text.endswith(verdict.robustness[0].doubts[0].next)
    assert outcomes(0.5, [], ROBUST) == (PASS, [PASS])
    # Clean accuracy needs no attack; a check that blocks the whole evaluation blocks it all the same.
    warning = check("attack-ladder", "warn", flatters=True)
    assert outcomes(0.5, [warning], CLEAN) == (PASS, [PASS])
    assert outcomes(0.5, [MASKED], CLEAN) == (INCONCLUSIVE, [PASS])


def test_a_rule_that_fails_in_spite_of_what_flatters_stays_a_fail():
    assert outcomes(0.3, [MASKED, STEPS], ROBUST, CLEAN) == (FAIL, [FAIL, PASS])
    assert outcomes(0.3, [check("repeatable")], ROBUST) == (INCONCLUSIVE, [INCONCLUSIVE])


def test_an_undefended_net_is_judged_but_not_by_an_attack_that_it_blinds():
    assert outcomes(0.0, [MASKED], CLEAN) == (PASS, [PASS])
    assert outcomes(0.0, [MASKED], CLEAN, ROBUST) == (FAIL, [PASS, FAIL])
    assert outcomes(0.0, [MASKED], BY_PGD) == (INCONCLUSIVE, [INCONCLUSIVE])
