import json
from types import SimpleNamespace

from robustdeploy.report.course import course_of


def trained(folder, records, name="metrics.jsonl"):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return SimpleNamespace(folder=folder, manifest=SimpleNamespace(outputs={name: ""}))


def epoch(number, **more):
    return {"epoch": number, "train_loss": 1 / number, "ops": 1.0, "train_mask_gradient_norm": 0.0, **more}


def test_the_course_of_a_training_has_its_freeze_and_its_rollbacks(tmp_path):
    records = [epoch(1, train_mask_gradient_norm=0.1), epoch(2, train_mask_gradient_norm=0.2), epoch(3), epoch(4)]
    records[1] |= {"collapses": 0, "validation_clean": 0.9, "validation_pgd10": 0.5}
    records[3] |= {"collapses": 1, "ops": 0.3}
    found = course_of(trained(tmp_path, records))
    assert [each.epoch for each in found.epochs] == [1, 2, 3, 4]
    assert (found.epochs[1].clean, found.epochs[1].attacked) == (0.9, 0.5)
    assert (found.epochs[0].clean, found.epochs[3].ops) == (None, 0.3)
    assert found.frozen == 3
    assert found.rollbacks == (4,)


def test_a_long_training_is_thinned_and_keeps_its_last_epoch(tmp_path):
    found = course_of(trained(tmp_path, [epoch(number) for number in range(1, 1002)]))
    assert len(found.epochs) <= 252
    assert found.epochs[-1].epoch == 1001
    assert (found.frozen, found.rollbacks) == (None, ())


def test_a_net_that_was_not_trained_here_has_no_course(tmp_path):
    assert course_of(trained(tmp_path, [epoch(1)], "other.json")) is None
    assert course_of(trained(tmp_path, [])) is None


def test_a_number_that_is_not_finite_does_not_end_the_report(tmp_path):
    made = trained(tmp_path, [epoch(1), epoch(2, train_loss=float("nan")), epoch(3)])
    assert [each.epoch for each in course_of(made).epochs] == [1, 3]
