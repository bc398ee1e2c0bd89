"""Two reports side by side: what both have, what one lacks, and what makes their numbers incomparable."""

from dataclasses import replace

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.report import SubjectEvidence
from robustdeploy.core.subject import subject_from
from robustdeploy.report.compare import compared

BOARD = "pruned/fp32@jetson-orin"


def test_a_report_is_like_itself(report):
    found = compared(report, report)
    assert (found.not_alike, found.differs) == ([], [])
    assert len(found.rows) == len(report.measurements)
    assert all(row.change == 0 and row.other_conditions == [] for row in found.rows)


def test_rows_that_one_side_lacks_are_shown_as_such(report):
    left_out = [row for row in report.measurements if row.attack == "worst"]
    assert left_out
    fewer = report.model_copy(update={"measurements": tuple(r for r in report.measurements if r.attack != "worst")})
    missing = [row for row in compared(report, fewer).rows if row.after is None]
    assert {(row.metric, *row.subjects) for row in missing} == {(row.metric, row.subject) for row in left_out}
    assert all(row.change is None and row.before is not None for row in missing)
    assert len([row for row in compared(fewer, report).rows if row.before is None]) == len(left_out)


def test_the_worst_case_comes_after_the_attacks_behind_it_and_targets_before_the_reference(report):
    rows = compared(report, report.model_copy(update={"measurements": report.measurements[::-1]})).rows
    robust = [(row.subjects[0].partition("@")[2], row.attack) for row in rows if row.metric == "robust_accuracy"]
    places = [place for place, _ in robust]
    assert places == sorted(places)  # jetson-orin, torch
    assert [attack for place, attack in robust if place == "jetson-orin"][-1] == "worst"
    assert rows[0].metric == "clean_accuracy"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {
                "subjects": (
                    SubjectEvidence(subject="pruned/fp32@elsewhere", evaluation="boards/pruned/fp32@elsewhere"),
                )
            },
            "targets: ",
        ),
        ({"data": {"name": "other"}}, "data: "),
        (
            {"subjects": (SubjectEvidence(subject=BOARD, evaluation="d", board={"cpu_model": "Another"}),)},
            "processors: ",
        ),
    ],
)
def test_what_was_measured_differently_is_not_alike(report, change, told):
    assert any(each.startswith(told) for each in compared(report, report.model_copy(update=change)).not_alike)


def test_fewer_images_and_other_attacks_behind_the_worst_case_are_not_alike(report):
    def fewer(row):
        if row.attack == "worst":
            return row.model_copy(update={"conditions": {**row.conditions, "attacks": ["fgsm"]}})
        return row.model_copy(update={"n": 7}) if row.metric == "clean_accuracy" else row

    other = report.model_copy(update={"measurements": tuple(map(fewer, report.measurements))})
    told = compared(report, other).not_alike
    assert any(each.startswith("test images: ") and each.endswith(" against 7") for each in told)
    assert any(each.startswith("attacks behind worst: ") and each.endswith(" against fgsm") for each in told)


def moved(report, net, place):
    """The same report of another net on another target, as a run of its own would have it."""

    def named(subject):
        its = subject_from(subject)
        its = its.of(net) if its.net == report.net else its
        return str(replace(its, place=place) if its.deployed else its)

    rows = (row.model_copy(update={"subject": named(row.subject)}) for row in report.measurements)
    subjects = (each.model_copy(update={"subject": named(each.subject)}) for each in report.subjects)
    return report.model_copy(update={"net": net, "measurements": tuple(rows), "subjects": tuple(subjects)})


def test_the_own_nets_of_two_runs_stand_side_by_side_on_whatever_target(report):
    plain = [row for row in report.measurements if not row.subject.startswith("dense/")]
    report = report.model_copy(update={"measurements": tuple(plain)})
    found = compared(report, moved(report, "dense", "board-7"))
    assert len(found.rows) == len(plain)
    assert all(row.change == 0 for row in found.rows)
    first = next(row for row in found.rows if row.metric == "clean_accuracy")
    assert first.subjects == (BOARD, "dense/fp32@board-7")
    assert first.label == f"clean_accuracy ({BOARD} against dense/fp32@board-7)"


def test_the_recipes_tell_what_was_made_differently(report):
    first = load_recipe("digits-resnet8")
    second = load_recipe("digits-resnet8", ["train.epochs=3", "seed=5", "net=lenet", "evaluate.attacks.1.steps=3"])
    found = compared(report, report, (first, second))
    for told in (f"train.epochs: {first.train.epochs} against 3", "seed: 0 against 5", "net: resnet8 against lenet"):
        assert told in found.differs
    assert "evaluate.attacks[1].steps: 10 against 3" in found.not_alike
    assert compared(report, report, (first, None)).differs == []
