import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.report import Diagnostic, Measurement, Omission, SubjectEvidence
from robustdeploy.report.judge import judge

BOARD = "pruned/fp32@host-cpu"
PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def rule(**changes):
    fields = {"id": "RD-ROB-01", "metric": "robust_accuracy", "attack": "worst", "at_least": 0.45}
    return Rule(**fields | changes)


def row(**changes):
    fields = {"metric": "robust_accuracy", "subject": BOARD, "attack": "worst", "kind": "worst", "unit": "fraction"}
    fields |= {"value": 0.49, "low": 0.46, "high": 0.52, "n": 1000}
    return Measurement(**fields | changes)


def latency(**changes):
    fields = {"metric": "latency_ms.p99", "attack": None, "kind": None, "unit": "ms", "n": 7000}
    return row(**fields | {"value": 8.0, "low": 7.5, "high": 8.6} | changes)


def exact(**changes):
    fields = {"metric": "ops_fraction", "attack": None, "kind": None, "low": None, "high": None, "n": 0}
    return row(**fields | {"value": 0.3, "conditions": {"exact": True}} | changes)


def one(a_rule, *rows):
    verdict = judge(rows, (), (a_rule,))
    assert verdict.outcome == verdict.rules[0].outcome
    assert verdict.rules[0].rule == a_rule.id
    return verdict.outcome, verdict.rules[0].text


@pytest.mark.parametrize(
    ("limit", "expected"), [(0.45, PASS), (0.46, PASS), (0.47, INCONCLUSIVE), (0.52, INCONCLUSIVE), (0.521, FAIL)]
)
def test_at_least_is_judged_on_the_lower_bound(limit, expected):
    assert one(rule(at_least=limit), row())[0] is expected


@pytest.mark.parametrize(("limit", "expected"), [(8.6, PASS), (8.5, INCONCLUSIVE), (7.5, INCONCLUSIVE), (7.4, FAIL)])
def test_at_most_is_judged_on_the_upper_bound(limit, expected):
    a_rule = rule(metric="latency_ms.p99", attack=None, at_least=None, at_most=limit)
    assert one(a_rule, latency())[0] is expected


@pytest.mark.parametrize(("limit", "expected"), [(0.49, PASS), (0.4901, FAIL)])
def test_on_value_the_estimate_alone_decides(limit, expected):
    assert one(rule(at_least=limit, on="value"), row())[0] is expected
    assert one(rule(at_least=limit, on="value"), row(low=None, high=None))[0] is expected


def test_the_text_holds_the_evidence():
    text = one(rule(), row())[1]
    assert text == (
        "robust_accuracy under worst of pruned/fp32@host-cpu must be at least 45.0 %: found 49.0 % on 1,000 images, "
        "95 % interval 46.0 to 52.0 %; even the lower bound, 46.0 %, meets it"
    )


def test_in_between_says_how_many_images_would_decide():
    outcome, text = one(rule(at_least=0.47), row())
    assert outcome is INCONCLUSIVE
    assert "the limit lies inside the interval; about 2,4" in text
    assert "no number of images would decide" in one(rule(at_least=0.49), row())[1]
    a_rule = rule(metric="latency_ms.p99", attack=None, at_least=None, at_most=8)
    assert "more samples are needed" in one(a_rule, latency())[1]


def test_a_near_miss_does_not_read_like_a_tie():
    text = one(rule(at_least=0.4900004, on="value"), row())[1]
    assert "at least 49.00004 %: found 49.00000 %" in text


@pytest.mark.parametrize(
    ("a_rule", "a_row", "words"),
    [
        (rule(n_at_least=1001), row(), "only 1,000 images where 1,001 are required"),
        (rule(), row(low=None, high=None), "no interval"),
        (rule(), row(n=0), "no sample"),
        (rule(on="value"), row(n=0), "no sample"),
        (rule(), row(low=0.5, value=0.49), "contradicts itself"),
        (rule(), row(high=0.48), "contradicts itself"),
        (rule(metric="robust_acuracy"), row(), "the closest is robust_accuracy"),
        (rule(attack="pgd-50"), row(), "only under worst"),
        (rule(subject="pruned/*@torch"), row(), "no subject is pruned/*@torch, only pruned/fp32@host-cpu"),
        (rule(), exact(metric="robust_accuracy", attack="worst", unit="ms"), "no sample"),
        (rule(), exact(metric="robust_accuracy", attack="worst", n=9, conditions={"exact": "yes"}), "no interval"),
    ],
)
def test_evidence_that_is_missing_or_thin_is_inconclusive(a_rule, a_row, words):
    outcome, text = one(a_rule, a_row)
    assert outcome is INCONCLUSIVE
    assert words in text


def test_without_rows_or_rules_nothing_passes():
    assert judge((), (), (rule(),)).outcome is INCONCLUSIVE
    verdict = judge((row(),), (), ())
    assert verdict.outcome is INCONCLUSIVE
    assert "no rule" in verdict.reasons[0]


@pytest.mark.parametrize(("limit", "expected"), [(0.3, PASS), (0.29, FAIL)])
def test_an_exact_count_needs_no_interval(limit, expected):
    a_rule = rule(metric="ops_fraction", attack=None, at_least=None, at_most=limit)
    assert one(a_rule, exact())[0] is expected


def test_a_single_bound_decides_only_what_it_can():
    assert one(rule(), row(high=None))[0] is PASS
    assert one(rule(at_least=0.47), row(high=None))[0] is INCONCLUSIVE
    assert one(rule(at_least=0.6), row(low=None))[0] is FAIL
    assert one(rule(), row(low=None))[0] is INCONCLUSIVE


def test_of_two_matching_rows_the_worse_is_judged():
    good, bad = row(), row(value=0.3, low=0.28, high=0.32, kind="query")
    for rows in ((good, bad), (bad, good)):
        outcome, text = one(rule(), *rows)
        assert outcome is FAIL
        assert "30.0 %" in text
        assert "the worst of 2 rows" in text
    assert one(rule(), good, row(n=3, low=None, high=None))[0] is INCONCLUSIVE
    better = row(value=0.8, low=0.78, high=0.82)
    assert "49.0 %" in one(rule(), better, good)[1]


def test_a_rule_without_an_attack_means_the_clean_row_or_else_the_worst():
    clean = row(metric="top1_agreement", attack=None, kind=None, value=0.999, low=0.99, high=1.0)
    attacked = row(metric="top1_agreement", attack="fgsm", value=0.9, low=0.88, high=0.92)
    a_rule = rule(metric="top1_agreement", attack=None, at_least=0.98)
    assert one(a_rule, attacked, clean)[0] is PASS
    assert one(a_rule, attacked)[0] is FAIL


def test_a_blocking_diagnostic_with_metrics_speaks_of_the_rules_on_these_alone():
    weak = Diagnostic(id="weak", level="block", text="The attacks are weak.", metrics=("robust_accuracy",))
    fast = rule(id="RD-LAT-01", metric="latency_ms.p99", attack=None, at_least=None, at_most=9)
    verdict = judge([row(), latency()], [weak], [rule(), fast])
    assert [line.outcome for line in verdict.rules] == [INCONCLUSIVE, PASS]
    assert verdict.rules[0].text.endswith("it cannot count, because of this: The attacks are weak.")
    assert (verdict.outcome, verdict.reasons) == (INCONCLUSIVE, ())
    assert judge([row(), latency()], [weak], [fast]).outcome is PASS
    assert judge([row()], [weak.model_copy(update={"level": "warn"})], [rule()]).outcome is PASS


def test_a_number_that_fails_though_it_is_flattered_stays_a_fail():
    weak = Diagnostic(id="weak", level="block", text="The attacks are weak.", metrics=("robust_accuracy",))
    flattering = weak.model_copy(update={"flatters": True})

    def outcome(limit, *doubts, **more):
        return judge([row()], doubts, [rule(at_least=limit, **more)]).outcome

    assert outcome(0.9) is FAIL
    assert outcome(0.9, flattering) is FAIL
    assert outcome(0.9, flattering, flattering) is FAIL
    # The limit inside the interval, and one that is met: the doubt decides.
    assert outcome(row().value, flattering) is INCONCLUSIVE
    assert outcome(0.1, flattering) is INCONCLUSIVE
    # What may as well make the number too low leaves the failure open, beside the other kind too.
    assert outcome(0.9, weak) is INCONCLUSIVE
    assert outcome(0.9, weak, flattering) is INCONCLUSIVE
    # A number that should be small may be above its limit by flattery alone.
    assert outcome(None, flattering, at_most=0.1) is INCONCLUSIVE
    told = judge([row()], [flattering], [rule(at_least=0.9)]).rules[0].text
    assert told.endswith("misses it; if anything it is worse, because of this: The attacks are weak.")


def test_a_blocking_diagnostic_rules_over_every_rule():
    diagnostics = [Diagnostic(id="a", level="ok", text="fine"), Diagnostic(id="b", level="block", text="throttled")]
    for a_rule in (rule(), rule(at_least=0.9)):
        verdict = judge((row(),), diagnostics, (a_rule,))
        assert verdict.outcome is INCONCLUSIVE
        assert verdict.reasons == ("throttled",)
        assert verdict.rules == judge((row(),), (), (a_rule,)).rules


def test_one_failure_outweighs_one_doubt():
    rules = (rule(), rule(id="RD-B-1", at_least=0.5), rule(id="RD-C-1", at_least=0.9))
    assert judge((row(),), (), rules).outcome is FAIL
    assert judge((row(),), (), rules[:2]).outcome is INCONCLUSIVE
    assert judge((row(),), (), rules[:1]).outcome is PASS


shares = st.floats(0, 1, allow_nan=False)
rows = st.builds(
    lambda bounds, n, gone: row(
        low=None if "low" in gone else bounds[0],
        value=bounds[1],
        high=None if "high" in gone else bounds[2],
        n=n,
    ),
    st.tuples(shares, shares, shares).map(sorted),
    st.integers(0, 5000),
    st.sets(st.sampled_from(["low", "high"])),
)
ORDER = {FAIL: 0, INCONCLUSIVE: 1, PASS: 2}


@given(rows, shares, shares, st.sampled_from(["bound", "value"]), st.sampled_from(["at_least", "at_most"]))
def test_a_harder_limit_never_gives_a_better_outcome(a_row, one_limit, other_limit, on, side):
    easy, hard = sorted((one_limit, other_limit), reverse=side == "at_most")

    def outcome(limit):
        return one(rule(**{"at_least": None, side: limit}, on=on), a_row)[0]

    assert ORDER[outcome(hard)] <= ORDER[outcome(easy)]


@given(rows, shares, st.integers(0, 3000))
def test_a_pass_always_has_the_bound_and_the_samples_behind_it(a_row, limit, n):
    outcome, _ = one(rule(at_least=limit, n_at_least=n), a_row)
    if outcome is PASS:
        assert a_row.low >= limit
        assert a_row.n >= max(n, 1)
    if outcome is FAIL:
        assert a_row.high < limit


@given(
    st.lists(st.tuples(rows, shares), max_size=4),
    st.lists(st.sampled_from(["ok", "warn", "block"]), max_size=3),
)
def test_nothing_doubtful_ever_passes(pairs, levels):
    rules = [rule(id=f"RD-X-{i}", attack=f"a{i}", at_least=limit) for i, (_, limit) in enumerate(pairs)]
    found = [r.model_copy(update={"attack": f"a{i}"}) for i, (r, _) in enumerate(pairs)]
    diagnostics = [Diagnostic(id=f"d{i}", level=level, text="t") for i, level in enumerate(levels)]
    verdict = judge(found, diagnostics, rules)
    if verdict.outcome is PASS:
        assert rules
        assert "block" not in levels
        assert {line.outcome for line in verdict.rules} == {PASS}
        assert verdict.reasons == ()
    assert bool(verdict.reasons) == ("block" in levels or not rules)


def cost(metric, value, **conditions):
    conditions = {"exact": True, **conditions}
    return Measurement(metric=metric, subject=BOARD, value=value, unit="fraction", n=1, conditions=conditions)


@pytest.mark.parametrize(("value", "expected"), [(0.4997, PASS), (0.5, PASS), (0.5001, FAIL)])
def test_a_rule_may_refer_to_the_budget(value, expected):
    a_rule = rule(metric="ops_fraction", attack=None, at_least=None, at_most="budget")
    outcome, text = one(a_rule, cost("ops_fraction", value, budget=0.5))
    assert outcome is expected
    assert "must be at most 50" in text
    assert ", the budget: found " in text


def test_without_a_limit_the_budget_decides_nothing():
    a_rule = rule(metric="ops_fraction", attack=None, at_least=None, at_most="budget")
    outcome, text = one(a_rule, cost("ops_fraction", 0.2))
    assert outcome is INCONCLUSIVE
    assert text == "ops_fraction of pruned/fp32@host-cpu must be at most the budget: no budget limits it"


def test_where_no_channel_is_removed_the_budget_is_for_what_is_not_zero():
    a_rule = rule(metric="ops_fraction", attack=None, at_least=None, at_most="budget")
    rows = [cost("ops_fraction", 1.0), cost("nonzero_ops_fraction", 0.3, budget=0.3)]
    (line,) = judge(rows, [], [a_rule]).rules
    assert line.outcome is PASS
    assert line.text.startswith("nonzero_ops_fraction of pruned/fp32@host-cpu must be at most 30.0 %, the budget")


def warning(text="it is warm", **fields):
    return Diagnostic(id="warm", level="warn", text=text, **fields)


LEFT_OUT = Omission(id="eps-curve", text="no curve")


@pytest.mark.parametrize(
    ("warnings", "omissions", "headline"),
    [
        ([], [], "PASS"),
        ([warning()], [], "PASS, with 1 warning"),
        ([warning("a"), warning("b")], [], "PASS, with 2 warnings"),
        ([], [LEFT_OUT], "PASS; 1 thing was not checked"),
        ([warning("a"), warning("b")], [LEFT_OUT, LEFT_OUT], "PASS, with 2 warnings; 2 things were not checked"),
    ],
)
def test_an_outcome_is_never_told_without_its_warnings_and_omissions(warnings, omissions, headline):
    rules = [
        rule(),
        rule(id="RD-ACC-01", metric="clean_accuracy", attack=None),
        rule(id="RD-LAT-01", metric="latency_ms.p99", attack=None, at_least=None, at_most=99),
    ]
    rows = [row(), row(metric="clean_accuracy", attack=None), latency()]
    verdict = judge(rows, warnings, rules, omissions)
    assert (verdict.outcome, verdict.headline) == (PASS, headline)
    assert verdict.warnings == tuple(each.text for each in warnings)
    assert verdict.unchecked == tuple(each.text for each in omissions)


def test_what_no_rule_asks_for_is_not_checked():
    verdict = judge([row()], [], [rule()])
    assert verdict.unchecked == ("no rule asks for clean accuracy", "no rule asks for latency")
    assert verdict.outcome is PASS


def test_a_doubt_about_a_metric_that_no_rule_asks_for_is_a_warning():
    doubt = Diagnostic(id="throttled", level="block", text="the clocks fell", metrics=("latency_ms.p99",))
    assert judge([row()], [doubt], [rule()]).warnings == ("the clocks fell",)
    asked = rule(metric="latency_ms.p99", attack=None, at_least=None, at_most=99)
    assert judge([latency()], [doubt], [asked]).warnings == ()


HOST_CPU, BOARD_7, DENSE_TORCH = BOARD, "pruned/fp32@board-7", "dense/fp32@torch"


def on(subject, *rows):
    return [each.model_copy(update={"subject": subject}) for each in rows]


def test_every_deployed_subject_of_the_own_net_must_meet_a_rule_that_names_none():
    rows = [*on(HOST_CPU, row()), *on(BOARD_7, row(value=0.3, low=0.27, high=0.33)), *on(DENSE_TORCH, row(value=0.0))]
    verdict = judge(rows, [], [rule()])
    assert [(line.subject, line.outcome) for line in verdict.rules] == [(HOST_CPU, PASS), (BOARD_7, FAIL)]
    assert [(each.subject, each.outcome) for each in verdict.subjects] == [(HOST_CPU, PASS), (BOARD_7, FAIL)]
    assert verdict.outcome is FAIL


@pytest.mark.parametrize(
    ("pattern", "selected"),
    [
        (None, [HOST_CPU, BOARD_7]),
        ("pruned/*@*", [HOST_CPU, BOARD_7]),
        ("*/*@*", [HOST_CPU, BOARD_7]),
        ("pruned/fp32@board-*", [BOARD_7]),
        ("dense/*@torch", [DENSE_TORCH]),
        ("*/fp32@torch", [DENSE_TORCH]),
        ("dense/*@*", [None]),
        ("pruned/int8@*", [None]),
    ],
)
def test_a_pattern_selects_subjects_and_one_that_selects_none_never_passes(pattern, selected):
    rows = [*on(HOST_CPU, row()), *on(BOARD_7, row()), *on(DENSE_TORCH, row())]
    verdict = judge(rows, [], [rule(subject=pattern)])
    assert [line.subject for line in verdict.rules] == selected
    assert verdict.outcome is (INCONCLUSIVE if selected == [None] else PASS)


def test_the_own_net_of_a_run_that_pruned_nothing_is_the_dense_one():
    rows = on("dense/fp32@host-cpu", row())
    assert judge(rows, [], [rule()], net="dense").outcome is PASS
    assert judge(rows, [], [rule()], net="pruned").outcome is INCONCLUSIVE


def test_a_target_that_was_lost_is_inconclusive_and_the_others_keep_their_outcome():
    subjects = (
        SubjectEvidence(subject=HOST_CPU, evaluation="boards/pruned/fp32@host-cpu"),
        SubjectEvidence(subject=BOARD_7, lost="no answer"),
    )
    verdict = judge([row()], [], [rule()], (), subjects)
    assert [each.outcome for each in verdict.subjects] == [PASS, INCONCLUSIVE]
    assert verdict.outcome is INCONCLUSIVE
    assert verdict.rules[1].text.endswith("pruned/fp32@board-7 must be at least 0.45: not measured: no answer")


def test_a_check_that_blocks_one_subject_leaves_the_others():
    blocked = Diagnostic(id="d", level="block", text="the clocks fell", subject=BOARD_7)
    verdict = judge([*on(HOST_CPU, row()), *on(BOARD_7, row())], [blocked], [rule()])
    assert [each.outcome for each in verdict.subjects] == [PASS, INCONCLUSIVE]
    assert verdict.reasons == ("pruned/fp32@board-7: the clocks fell",)
    # Where no rule speaks of that subject, the doubt is still told.
    other = judge([*on(HOST_CPU, row()), *on(BOARD_7, row())], [blocked], [rule(subject=HOST_CPU)])
    assert (other.outcome, other.reasons) == (PASS, ())
    assert other.warnings == ("pruned/fp32@board-7: the clocks fell",)


@pytest.mark.parametrize("text", ["pruned@host", "pruned/fp32", "pruned/fp32@", "Pruned/fp32@host", "a/b@c d"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(ValueError, match="selects no subject"):
        rule(subject=text)


def test_a_rule_of_the_first_schema_is_read():
    assert rule(where="board").subject is None
    assert rule(where="host").subject == "pruned/fp32@torch"
    dense = rule(metric="dense_robust_accuracy", where="host")
    assert (dense.metric, dense.subject) == ("robust_accuracy", "dense/fp32@torch")
