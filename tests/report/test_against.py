"""What became of each row since a baseline: by image, by intervals, by run, by counts; and what is refused."""

import numpy as np
import pytest

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.recipe import Threat
from robustdeploy.core.report import Diagnostic, Measurement, SubjectEvidence
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.intervals import paired_difference
from robustdeploy.report.against import held_against, judged_against
from robustdeploy.report.judge import judged_by
from robustdeploy.report.sides import Side

BOARD = "pruned/fp32@board"
PLACE = "boards/pruned/fp32@board"
N = 200


def rules(*asked):
    return [Rule(id=f"RG-A-{n}", **each) for n, each in enumerate(asked)]


CLEAN = {"metric": "clean_accuracy", "no_worse_than_baseline": "1 pp"}
WORST = {"metric": "robust_accuracy", "attack": "worst", "no_worse_than_baseline": "1 pp"}
CLASSES = {"metric": "class_clean_accuracy", "no_worse_than_baseline": "1 pp"}
OPS = {"metric": "ops", "no_worse_than_baseline": "5 %"}
TIME = {"metric": "latency_ms.p50", "no_worse_than_baseline": "5 %"}


def test_accuracies_are_paired_by_image_and_share_the_error(planted_side):
    (now, clean, robust), (then, old_clean, old_robust) = planted_side("now", 1), planted_side("then", 2)
    rows = held_against(now, then, rules(CLEAN, WORST, {**WORST, "no_worse_than_baseline": "2 pp"}, OPS)).rows
    assert [row.how for row in rows] == ["paired", "paired", "counts"]  # two rules on one row ask one question
    for row, new, old in zip(rows, (clean, robust), (old_clean, old_robust), strict=False):
        assert (row.change, row.low, row.high) == paired_difference(new, old, 0.975)
        assert (row.lost, row.gained, row.n) == ((old & ~new).sum(), (new & ~old).sum(), N)


def test_a_class_is_paired_by_its_own_images(planted_side):
    (now, clean, _), (then, old, _) = planted_side("now", 1), planted_side("then", 2)
    rows = held_against(now, then, rules(CLASSES)).rows
    assert [row.class_name for row in rows] == ["0", "1", "2"]
    its = np.arange(N) % 3 == 2
    assert rows[2].change == pytest.approx(clean[its].mean() - old[its].mean())
    assert rows[2].confidence == pytest.approx(1 - 0.05 / 3)


def test_of_a_report_alone_the_interval_is_wider_and_holds_whatever_is_shared(planted_side):
    (now, *_), (then, *_) = planted_side("now", 1), planted_side("then", 2)
    paired = held_against(now, then, rules(CLEAN, TIME)).rows
    alone = held_against(now, Side(then.report, sha256=then.sha256), rules(CLEAN, TIME)).rows
    assert (alone[0].how, alone[0].change) == ("unpaired", pytest.approx(paired[0].change))
    assert alone[0].low < paired[0].low < paired[0].high < alone[0].high
    assert alone[1].change is None
    assert "a report alone holds no times" in alone[1].why


def test_times_are_compared_by_runs_and_noise_takes_a_bound_away(planted_side):
    (now, *_), (then, *_), (noisy, *_) = (
        planted_side("now", quartile=1100),
        planted_side("then"),
        planted_side("noisy", disturbed=True),
    )
    row = held_against(now, then, rules(TIME)).rows[0]
    assert (row.how, row.n) == ("runs", 8)
    assert 1.05 < row.low < row.change < row.high < 1.15
    assert held_against(now, noisy, rules(TIME)).rows[0].high is None
    assert held_against(noisy, now, rules(TIME)).rows[0].low is None


def test_times_of_other_processors_or_too_short_runs_are_not_compared(planted_side):
    other = (SubjectEvidence(subject=BOARD, evaluation=PLACE, board={"cpu_model": "Y"}),)
    (now, *_), (then, *_) = planted_side("now"), planted_side("then", subjects=other)
    assert "different processors, Y and X" in held_against(now, then, rules(TIME)).rows[0].why
    tail = Measurement(metric="latency_ms.p99", subject=BOARD, value=1.0, unit="ms", n=900, low=0.9, high=1.1)
    sides = [
        Side(each.report.model_copy(update={"measurements": (*each.report.measurements, tail)}), None, each.root, "ab")
        for each in (now, now)
    ]
    row = held_against(*sides, rules({**TIME, "metric": "latency_ms.p99"})).rows[0]
    assert "30 calls does not support p99" in row.why


def test_counts_are_compared_exactly(planted_side):
    (now, *_), (then, *_) = planted_side("now", macs=105), planted_side("then", macs=100)
    assert held_against(now, then, rules(OPS)).rows[0].change == 1.05
    assert judged(now, then, OPS).outcome is Outcome.PASS
    assert judged(now, then, {**OPS, "no_worse_than_baseline": "4.9 %"}).outcome is Outcome.FAIL


def judged(now, then, rule):
    asked = rules(rule)
    report = now.report.model_copy(update={"baseline": held_against(now, then, asked)})
    return judged_by(report, asked).verdict.rules[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": {"name": "four", "classes": ["0", "1", "2"]}}, "data: four against three"),
        ({"data": {"name": "three", "classes": ["0", "1"]}}, "classes: "),
        ({"data": {"name": "three", "classes": ["0", "1", "2"], "split_sha256": "5"}}, "split: 5 against nothing"),
        ({"threat": Threat(eps=4 / 255)}, "threat: "),
    ],
)
def test_a_baseline_that_was_measured_otherwise_is_refused_and_the_difference_named(planted_side, change, told):
    (now, *_), (then, *_) = planted_side("now"), planted_side("then", **change)
    with pytest.raises(ArtifactError, match=told):
        held_against(now, then, rules(OPS))


def test_other_steps_or_attacks_or_images_are_refused(planted_side):
    (now, *_), (then, *_) = planted_side("now"), planted_side("then")

    def with_row(attack, **conditions):
        def changed(row):
            its = conditions if row.attack == attack else {}
            return row.model_copy(update={"conditions": {**row.conditions, **its}})

        rows = tuple(map(changed, then.report.measurements))
        return Side(then.report.model_copy(update={"measurements": rows}), None, then.root, "ab")

    with pytest.raises(ArtifactError, match="pgd-10 steps: 20 against 10"):
        held_against(now, with_row("pgd-10", steps=20), rules(CLEAN))
    with pytest.raises(ArtifactError, match="attacks behind worst: fgsm against pgd-10"):
        held_against(now, with_row("worst", attacks=["fgsm"]), rules(CLEAN))
    path = then.root / PLACE / "outcomes.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "ids": arrays["ids"] + 1})
    with pytest.raises(ArtifactError, match="not of the same test images"):
        held_against(now, then, rules(CLEAN))


def test_what_the_baseline_lacks_is_told(planted_side):
    elsewhere = (
        SubjectEvidence(subject="pruned/int8@board", evaluation="boards/pruned/int8@board"),
        SubjectEvidence(subject=BOARD, lost="its board did not answer"),
    )
    (now, *_), (then, *_) = planted_side("now"), planted_side("then", subjects=elsewhere)
    assert held_against(now, then, rules(OPS)).rows[0].why == (
        "the baseline has no numbers of it: its board did not answer"
    )
    (other, *_) = planted_side("other", subjects=elsewhere[:1])
    assert "only pruned/int8@board" in held_against(now, other, rules(OPS)).rows[0].why


def test_a_baseline_in_doubt_says_so(planted_side):
    block = Diagnostic(id="one-class", level="block", text="x", metrics=("clean_accuracy",), subject=BOARD)
    (now, *_), (then, *_) = planted_side("now"), planted_side("then", diagnostics=(block,))
    assert [row.doubt for row in held_against(now, then, rules(CLEAN, OPS)).rows] == ["one-class", ""]


def test_a_baseline_that_no_rule_asks_for_is_refused(planted_side, tmp_path):
    with pytest.raises(UsageError, match="no rule asks for the baseline"):
        judged_against(planted_side("now")[0], rules({"metric": "ops", "at_most": 5}), tmp_path / "then", tmp_path)
