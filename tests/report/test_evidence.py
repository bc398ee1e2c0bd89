from hypothesis import given
from hypothesis import strategies as st

from robustdeploy.core.report import Measurement
from robustdeploy.report.evidence import caveats, evidence_from, flat, intervals_text
from robustdeploy.report.words import condition_text, conditions_text, time_text

BOARD, HOST, DENSE = "pruned/fp32@jetson-orin", "pruned/fp32@torch", "dense/fp32@torch"
METRICS = [
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_at_eps",
    "robust_accuracy_after_queries",
    "top1_agreement",
    "latency_ms.p99",
    "latency_ms.cv",
    "attack_queries",
    "something_new",
]
rows = st.builds(
    Measurement,
    metric=st.sampled_from(METRICS),
    subject=st.sampled_from([BOARD, HOST, DENSE]),
    attack=st.sampled_from([None, "fgsm", "worst"]),
    kind=st.sampled_from([None, "transfer", "query"]),
    value=st.integers(0, 10**9).map(float),
    unit=st.just("x"),
    n=st.just(1),
    conditions=st.sampled_from(
        [{}, {"eps": 0.03}, {"eps": 0.06, "multiple": 2}, {"eps": "wide"}, {"queries": 30}, {"queries": "many"}]
    ),
)


def shown(evidence):
    yield from (row for line in evidence.accuracy for row in line.rows.values())
    yield from (row for curve in evidence.curves for _, row in curve.points)
    yield from (row for curve in evidence.query_curves for _, row in curve.points)
    yield from evidence.percentiles + evidence.latency + evidence.agreement + evidence.other


@given(st.lists(rows, max_size=12, unique_by=lambda row: row.value))
def test_every_row_lands_in_exactly_one_place(found):
    from types import SimpleNamespace

    evidence = evidence_from(SimpleNamespace(measurements=tuple(found), net="pruned"))
    listed = [row.value for row in shown(evidence)]
    assert len(listed) == len(set(listed))
    attacked = {line.label for line in evidence.accuracy}
    told = {row.value for row in found if row.metric == "attack_queries" and row.attack in attacked}
    assert set(listed) | told == {row.value for row in found}
    in_radii = [row.value for r in evidence.radii for row in r.rows.values()]
    assert sorted(in_radii) == sorted(row.value for curve in evidence.curves for _, row in curve.points)


def test_rows_of_one_attack_share_a_line_and_twins_get_their_own(report):
    twin = next(r for r in report.measurements if (r.attack, r.subject) == ("pgd-10", BOARD) and r.n == 1000)
    twin = twin.model_copy(update={"kind": "straight-through", "value": 0.49})
    lines = evidence_from(report.model_copy(update={"measurements": (*report.measurements, twin)})).accuracy
    assert [line.label for line in lines] == [
        "clean",
        "fgsm",
        "pgd-10",
        "pgd-50-10",
        "square-1000",
        "pgd-10",
        "worst",
    ]
    assert set(lines[2].rows) == {BOARD, HOST, DENSE}
    assert set(lines[5].rows) == {BOARD}


def test_what_stood_after_queries_is_a_curve_for_each_attack(report):
    curves = evidence_from(report).query_curves
    assert [curve.subject for curve in curves] == ["rays-300", "square-1000"]
    assert [[x for x, _ in curve.points] for curve in curves] == [[10, 100, 300], [10, 100, 1000]]
    other = [
        row.model_copy(update={"subject": "pruned/fp32@host-cpu"})
        for row in report.measurements
        if row.metric == "robust_accuracy_after_queries"
    ]
    several = evidence_from(report.model_copy(update={"measurements": (*report.measurements, *other)})).query_curves
    assert [curve.subject for curve in several][:2] == [
        "rays-300 on pruned/fp32@host-cpu",
        "square-1000 on pruned/fp32@host-cpu",
    ]


def test_conditions_carry_their_units():
    assert condition_text("warmup_s", 0.2) == "warmup 0.2 s"
    assert condition_text("alpha", 2 / 255) == "alpha 2/255"
    assert condition_text("locked", True) == "locked"
    assert condition_text("locked", False) == "not locked"


def test_conditions_are_told_in_words():
    timed = {"batch": 1, "runs": 10, "clocks": "observe", "undisturbed_runs": 0, "cv": 0.8402, "drift": -0.3655}
    assert conditions_text(timed) == (
        "one image at a time, 10 runs, clocks as the board had them, no run undisturbed, "
        "samples vary by 84 % of their mean, they drift by -37 % over the runs"
    )
    assert conditions_text({"steps": 1, "restarts": 10, "queries": 1000}) == "1 step, 10 restarts, 1,000 queries"
    assert [time_text(seconds) for seconds in (38, 700, 12240)] == ["38 s", "12 min", "3.4 h"]


def test_facts_are_flattened():
    assert flat({"z": [{"t": 1}, {"t": 2}]}) == [("z.0.t", "1"), ("z.1.t", "2")]
    assert flat({"a": {"b": 1.5, "c": None}, "d": [1, 2], "e": [], "f": True}) == [
        ("a.b", "1.5"),
        ("a.c", "not known"),
        ("d", "1, 2"),
        ("e", "none"),
        ("f", "yes"),
    ]


def test_caveats_name_what_was_not_real(make_report):
    def words(board):
        return " ".join(caveats(make_report(board=board)))

    assert "contract-tested" in words({"status": "contract-tested"})
    assert "emulated" in words({"emulated": True})
    assert "null backend" in words({"backend": {"name": "null"}})
    assert words({"status": "tested", "emulated": False, "backend": "onnxruntime"}) == ""


def test_nested_and_unset_conditions_are_told_plainly():
    assert conditions_text({"a": {"steps": 3, "seed": None}, "b": None, "c": [1, 2]}) == "3 steps, c 1, 2"


def test_the_level_and_method_of_intervals_are_named(report):
    assert intervals_text(report.measurements) == "95 %"
    row = report.measurements[0]
    told = row.model_copy(update={"conditions": {"interval": "Clopper-Pearson, 95 %"}})
    sure = row.model_copy(update={"conditions": {"confidence": 0.99}})
    assert intervals_text([told, told, sure]) == "Clopper-Pearson, 95 %; 99 %"
    assert intervals_text([row.model_copy(update={"low": None, "high": None})]) == ""


def test_an_attack_that_reached_the_host_another_way_says_so(report):
    rows = [
        row.model_copy(update={"kind": "replay"}) if (row.attack, row.subject) == ("square-1000", HOST) else row
        for row in report.measurements
        if row.subject != DENSE
    ]
    lines = {line.label: line for line in evidence_from(report.model_copy(update={"measurements": rows})).accuracy}
    assert lines["square-1000"].kinds == "query, replay for pruned/fp32@torch"
    assert lines["pgd-10"].kinds == "transfer"


def test_queries_are_told_with_their_total(report):
    queries = next(row for row in report.measurements if row.metric == "attack_queries")
    queries = queries.model_copy(update={"value": 412.9, "unit": "queries per image", "conditions": {"total": 412873}})
    rows = [row for row in report.measurements if row.metric != "attack_queries"]
    lines = evidence_from(report.model_copy(update={"measurements": (*rows, queries)})).accuracy
    budget = next(line.budget for line in lines if line.label == "square-1000")
    assert budget.endswith("; 413 queries per image of pruned/fp32@jetson-orin (total 412,873)")
