"""The table: what must be equal is checked, pairs are of the same image, and the renderings say what was found."""

import re
from dataclasses import replace

import numpy as np
import pytest

from robustdeploy.comparing.alike import differences
from robustdeploy.comparing.found import Found, Spent
from robustdeploy.comparing.going import checked
from robustdeploy.comparing.results import cells_of, head_of, write_results
from robustdeploy.comparing.table import Beside, Line, Pair, Table, _pairs, _protocol_differences, track_of
from robustdeploy.core.comparison import Comparison
from robustdeploy.core.gate import Outcome, Verdict
from robustdeploy.core.published import Protocol, PublishedRow
from robustdeploy.core.recipe import Threat
from robustdeploy.core.records import NetRecord
from robustdeploy.core.report import BudgetLine, Diagnostic, Measurement, Report
from robustdeploy.evaluate.intervals import clopper_pearson

SUBJECT = "pruned/fp32@host-cpu"
ROWS = (
    {"name": "dense", "prune": None},
    {"name": "ours", "prune": "masks"},
    {"name": "other", "prune": "masks"},
    {"name": "sparse", "prune": "weights"},
)
COMPARISON = Comparison.model_validate(
    {"name": "x", "recipe": "digits-resnet8", "budget": {"ops": 0.3}, "rows": ROWS, "against": ["ours"]}
)
RUNS = {run.row: run for run in checked(COMPARISON)[1]}


def measured(bits, attack, **conditions):
    low, high = clopper_pearson(int(bits.sum()), len(bits))
    metric = "clean_accuracy" if attack is None else "robust_accuracy"
    given = {"metric": metric, "subject": SUBJECT, "attack": attack, "unit": "fraction", "conditions": conditions}
    return Measurement(value=float(bits.mean()), n=len(bits), low=low, high=high, **given)


def found(row, robust=60, passes=1000.0, alpha=0.025, eps=0.1, diagnostics=(), **more):
    clean = np.ones(100, bool)
    bits = np.arange(100) < robust
    rows = {
        "clean": measured(clean, None),
        "pgd-10": measured(bits, "pgd-10", steps=10, alpha=alpha),
        "worst": measured(bits, "worst"),
    }
    net = RUNS[row].net
    report = Report(
        name=row,
        net=net,
        subjects=(),
        created="2026-01-01T00:00:00+00:00",
        producer="robustdeploy",
        threat=Threat(eps=eps),
        budget=BudgetLine(ops_target=0.3, dense_macs=100, macs=30, params=40, dense_params=100),
        measurements=tuple(rows.values()),
        diagnostics=diagnostics,
        verdict=Verdict(outcome=Outcome.PASS),
    )
    data = {"name": "digits", "train": 900, "validation": 100, "split_sha256": "ab" * 32}
    record = NetRecord(
        macs=30, params=40, memory_bytes=1, dense_macs=100, dense_params=100, dense_memory_bytes=1, data=data,
        nonzero_macs=30 if row == "sparse" else None,
    )  # fmt: skip
    made = Found(
        run=RUNS[row],
        report=report,
        record=record,
        subject=SUBJECT,
        measured=rows,
        right={"clean": clean, "pgd-10": bits, "worst": bits},
        test_images="12" * 32,
        file_kib=9.0,
        nonzero_macs=30,
        nonzero_params=40,
        spent=Spent(passes, 60.0, "15"),
        p50=None,
    )
    return replace(made, **more)


def line(one, **more):
    given = {"differs": (), "to_dense": {}, "against": {}, "published": ()}
    row = COMPARISON.row(one.run.row)
    return Line(row, one, COMPARISON.budget_of(row), track_of(one), **(given | more))


def test_rows_that_are_alike_differ_in_nothing():
    assert differences([found(row) for row in RUNS]) == {}
    # Batches and epochs come in whole numbers, so two per cent of the passes are none.
    assert differences([found("dense"), found("ours"), found("other", passes=1019.0)]) == {}


def record_of(one, **more):
    return one.record.model_copy(update={"data": {**one.record.data, **more}})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: replace(one, record=record_of(one, split_sha256="cd" * 32)), "images: .*split cdcdcdcdcdcd"),
        (lambda one: replace(one, record=record_of(one, name="mnist")), "images: mnist"),
        (lambda one: replace(one, test_images="34" * 32), "test images: 100, 343434"),
        (lambda one: found("other", eps=0.2), r"threat: linf 51/255, the others linf 0\.1"),
        (lambda one: found("other", alpha=0.05), r"attacks: pgd-10 \(10 steps, alpha 0\.05\)"),
        (lambda one: replace(one, measured={"clean": one.measured["clean"]}), "attacks: none"),
        (lambda one: replace(one, subject="pruned/fp32@elsewhere"), "target: elsewhere"),
        (lambda one: replace(one, record=one.record.model_copy(update={"dense_macs": 101})), "net: .*101 MACs"),
        (lambda one: found("other", passes=1021.0), r"image passes: 1,021, the others 1,000, \+2\.1%"),
        (lambda one: found("other", passes=500.0), r"image passes: 500, the others 1,000, -50\.0%"),
        (lambda one: found("other", passes=None), "image passes: not recorded"),
    ],
)
def test_what_must_be_equal_and_is_not_is_told(change, told):
    others = [found("dense"), found("ours"), found("sparse")]
    strange = change(found("other"))
    ((name, texts),) = differences([strange, *others]).items()
    assert name == strange.run.name
    assert len(texts) == 1
    assert re.search(told, texts[0])


def test_a_pair_is_of_the_same_images():
    pairs = dict(_pairs(found("other", robust=50), found("ours", robust=60)))
    assert pairs["worst"].difference == pytest.approx(-0.1)
    assert pairs["worst"].p == pytest.approx(2 * 0.5**10)
    assert pairs["worst"].low < -0.1 < pairs["worst"].high < 0
    assert pairs["clean"].p == 1
    assert dict(_pairs(found("other"), found("ours", test_images="34" * 32))) == {}


def test_tracks_are_what_is_removed_and_how_much_may_stay():
    assert [track_of(found(row)) for row in RUNS] == [
        "dense",
        "channels, operations 0.3",
        "channels, operations 0.3",
        "weights, operations 0.3",
    ]
    table = Table(("pgd-10",), tuple(line(found(row)) for row in ("sparse", "ours", "dense")), {}, ())
    assert list(table.tracks) == ["dense", "weights, operations 0.3", "channels, operations 0.3"]


def test_a_row_that_is_not_alike_is_in_no_track():
    table = Table((), (line(found("ours")), line(found("other"), differs=("images: other",))), {}, ())
    assert [each.row.name for each in table.apart] == ["other"]
    assert [[each.row.name for each in lines] for lines in table.tracks.values()] == [["ours"]]


def test_flags_are_of_the_robust_accuracies_alone_and_the_worst_come_first():
    checks = [
        Diagnostic(id="raw-scores", level="warn", text=".", value=1.0),
        Diagnostic(id="zero-gradient", level="block", text=".", value=1.0),
        Diagnostic(id="memory-limit", level="block", text=".", value=1.0),
        Diagnostic(id="latency-valid", level="warn", text=".", value=1.0),
        Diagnostic(id="repeatable", level="ok", text=".", value=0.0),
        Diagnostic(id="falls-with-eps", level="block", text=".", value=1.0, subject="dense/fp32@host-cpu"),
    ]
    one = found("ours", diagnostics=tuple(checks))
    assert one.flags == ("VOID: zero-gradient", "SUSPECT: raw-scores")
    told = Table(("pgd-10",), (line(one), line(found("other"))), {}, ())
    column = head_of(told).index("credibility")
    assert [cells_of(told, each)[column] for each in told.lines] == ["; ".join(one.flags), "CREDIBLE"]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, []),
        ({"data": "mnist"}, ["images mnist"]),
        ({"eps": None}, ["ε not stated"]),
        ({"eps": 8 / 255}, ["ε 8/255"]),
        ({"norm": "l2"}, ["norm l2"]),
        ({"attack": None}, ["attack not stated"]),
        ({"attack": "pgd-40"}, ["attack pgd-40"]),
        ({"alpha": 0.01}, ["step 0.01"]),
        ({"note": "best on test"}, ["best on test"]),
    ],
)
def test_what_of_a_published_protocol_is_not_ours_is_told(change, differs):
    protocol = Protocol(**({"data": "digits", "eps": 0.1, "attack": "pgd-10", "alpha": 0.025} | change))
    row = PublishedRow(name="t/r", where="", net="resnet8", protocol="p", values={"clean": 1.0})
    assert list(_protocol_differences(found("ours"), row, protocol)) == differs
    other = row.model_copy(update={"net": "vgg16_bn"})
    assert list(_protocol_differences(found("ours"), other, protocol)) == ["net vgg16_bn", *differs]


def test_the_page_needs_no_network_and_greys_what_is_of_another_protocol(tmp_path):
    from robustdeploy.comparing.folder import TableFolder
    from robustdeploy.core.load import load_target

    pair = Pair("ours", -0.1, -0.2, -0.01, 0.002)
    row = PublishedRow(name="t/r", where="", net="resnet8", protocol="p", values={"clean": 72.88, "robust": 34.33})
    protocol = Protocol(data="digits")
    lines = (
        line(found("dense")),
        line(found("ours"), published=(Beside(row, protocol, ()),)),
        line(found("other"), against={"worst": pair}, published=(Beside(row, protocol, ("net vgg",)),)),
        line(found("sparse"), differs=("image passes: 500, the others <b>1,000</b>",)),
    )
    table = Table(("pgd-10",), lines, {"gone-1": "the loss is nan"}, ())
    folder = TableFolder(tmp_path, COMPARISON, load_target("host-cpu"), tuple(RUNS.values()))
    page = write_results(folder, table, at_once=2).read_text()
    assert not re.search(r'(src|href)="(?!data:|[a-z0-9-]+/report\.html)', page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<svg role="img"') == 2
    assert "prefers-color-scheme: dark" in page
    assert re.search(r'<small class="soft">72\.88 / 34\.33 \(t/r, p; other: net vgg\)', page)
    assert re.search(r"<small>72\.88 / 34\.33 \(t/r, p\)", page)
    assert "&lt;b&gt;" in page
    told = (tmp_path / "table.md").read_text()
    assert "-10.0 [-20.0, -1.0], p 0.002 (ours)" in told
    assert "- sparse: image passes: 500" in told
    assert "- gone-1 has no row: the loss is nan" in told
    assert "2 runs were made side by side" in told


def test_distances_have_a_column_where_a_row_has_one():
    far = Measurement(
        metric="r2_deepfool",
        subject="pruned/fp32@torch",
        attack="deepfool",
        value=0.5,
        unit="l2",
        n=90,
        low=0.4,
        high=0.6,
    )
    without, one = line(found("ours")), line(found("other", distances={"deepfool": far}))
    table = Table(("pgd-10",), (without, one), {}, ())
    column = head_of(table).index("deepfool")
    assert [cells_of(table, each)[column] for each in table.lines] == ["-", "0.500 [0.400, 0.600] l2, n = 90"]
    assert "deepfool" not in head_of(Table(("pgd-10",), (without,), {}, ()))


def test_vulnerability_has_a_column_for_each_attack_and_channels_tell_of_the_units():
    moved = Measurement(
        metric="vulnerability", subject="pruned/fp32@torch", attack="pgd-10", value=0.02, unit="change", n=100,
        low=0.01, high=0.03,
    )  # fmt: skip
    one = line(found("other", vulnerability={"pgd-10": moved}))
    table = Table(("pgd-10",), (line(found("ours")), one), {}, ())
    column = head_of(table).index("vulnerability, pgd-10")
    shown = [cells_of(table, each)[column] for each in table.lines]
    assert shown == ["-", "0.0200 [0.0100, 0.0300] change, n = 100"]
    units = Measurement(metric="units_fraction", subject=SUBJECT, value=0.25, unit="fraction", n=1)
    report = one.found.report
    counted = report.model_copy(update={"measurements": (*report.measurements, units)})
    less = replace(one, found=replace(one.found, report=counted))
    removed = head_of(table).index("removed")
    assert [cells_of(table, each)[removed] for each in (one, less)] == ["channels", "channels, 75.0 % of the units"]
