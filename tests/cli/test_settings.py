"""Evaluations under other settings stand beside the recipe's own, and never in its place."""

import json
import re

import pytest

from robustdeploy.core.recipe import Choice, Evaluate
from robustdeploy.core.settings import evaluation_name, is_own, label_of, overrides, target_of
from robustdeploy.engine.verify import verify_run


def test_the_label_follows_from_the_settings_alone():
    own = Evaluate(limit=5)
    assert label_of(own, Evaluate(limit=5)) == ""
    label = label_of(own, Evaluate(limit=6))
    assert re.fullmatch("[0-9a-f]{8}", label)
    assert label == label_of(Evaluate(), Evaluate(limit=6))
    assert label != label_of(own, Evaluate(limit=6, attacks=(Choice(name="fgsm"),)))
    assert evaluation_name("host-cpu", "") == "host-cpu"
    name = evaluation_name("host-cpu", label)
    assert (target_of(name), is_own(name), is_own("host-cpu")) == ("host-cpu", False, True)


def test_overrides_name_the_fields_and_both_values():
    used = {"limit": 6, "attacks": ["fgsm", {"name": "pgd", "steps": 5}], "curve_limit": 200}
    told = [str(each) for each in overrides(Evaluate(attacks=(Choice(name="fgsm"),)), used)]
    assert told == ["evaluate.limit is 6, in the recipe unset", "evaluate.attacks is fgsm, pgd, in the recipe fgsm"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("gate=[]", "would change what the run must meet; judge by other rules with `robustdeploy gate --rules FILE`"),
        ("gate.0.at_most=1", "would change what the run must meet"),
        ("train.epochs=1", "would change what was trained"),
        ("threat.eps=0.01", "would change what was trained"),
    ],
)
@pytest.mark.slow
def test_an_evaluation_changes_neither_rules_nor_training(desk, command, override, sentence):
    done = command(desk, "evaluate", "--target", "quick.yaml", "--set", override)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


NARROW = ["--attacks", "fgsm", "--limit", "31"]


def contents(run):
    kept = [*run.glob("boards/pruned/fp32@quick/*"), *run.glob("report.*"), run / "junit.xml", run / "recipe.yaml"]
    return {path: path.read_bytes() for path in kept}


@pytest.mark.slow
def test_a_narrowed_evaluation_stands_beside_the_recipes_own(desk, command):
    run = desk / "runs/tiny"
    before, verdict = contents(run), command(desk, "gate").out
    done = command(desk, "evaluate", "--target", "quick.yaml", *NARROW)
    assert done.code == 0, done.err
    assert "not the recipe's own evaluation: evaluate.limit is 31, in the recipe 60" in done.out
    (beside,) = run.glob("boards/pruned/fp32@quick@*")
    named = beside.name.removeprefix("fp32@")
    assert f"next: robustdeploy report runs/tiny --target {named}" in done.out
    assert contents(run) == before
    assert command(desk, "report").code == 0  # of the recipe's own, which was not the last to be made
    assert json.loads((run / "report.json").read_text())["subjects"][0]["evaluation"] == "boards/pruned/fp32@quick"
    before = contents(run)

    assert command(desk, "report", "--target", named).code == 0
    assert contents(run) == before
    written = json.loads((run / f"report-{named}.json").read_text())
    assert [each["field"] for each in written["overrides"]] == ["evaluate.limit", "evaluate.attacks"]
    assert written["verdict"]["unchecked"][0].startswith("this is not the recipe's own evaluation: evaluate.limit")
    for name in ("report-{}.html", "report-{}.md", "junit-{}.xml"):
        assert "not the recipe" in (run / name.format(named)).read_text()

    judged = command(desk, "gate")
    assert (judged.code, judged.out) == (0, verdict)
    assert f"this says nothing of {named}" in judged.err
    told = command(desk, "gate", "--target", named)
    assert told.code == 3
    assert "this is not the recipe's own evaluation" in told.out
    assert verify_run(run) == []

    again = command(desk, "evaluate", "--target", "quick.yaml", *NARROW)
    assert "skipped" in again.err
    assert len(list(run.glob("boards/pruned/*"))) == 2


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_targets_under_the_same_other_settings_come_into_one_report(desk, command):
    (desk / "twin.yaml").write_text("extends: quick.yaml\nname: twin\n")
    for target in ("quick.yaml", "twin.yaml"):
        assert command(desk, "evaluate", "--target", target, *NARROW).code == 0
    run = desk / "runs/tiny"
    names = sorted(path.name.removeprefix("fp32@") for path in run.glob("boards/pruned/fp32@*@*"))
    done = command(desk, "report", "--target", names[0], "--target", names[1])
    assert done.code == 0, done.err
    (path,) = run.glob("report-*+*.json")
    written = json.loads(path.read_text())
    assert [each["subject"] for each in written["verdict"]["subjects"]] == ["pruned/fp32@quick", "pruned/fp32@twin"]
    told = command(desk, "gate", str(path))
    assert told.code == 3
    assert "pruned/fp32@twin" in told.out
    mixed = command(desk, "report", "--target", "quick", "--target", names[1])
    assert mixed.code == 2
    assert "differ in their settings" in mixed.err


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_with_other_settings_keeps_its_recipe_and_its_own_evaluation(desk, command):
    run = desk / "runs/tiny"
    before = contents(run)
    words = ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml"]
    done = command(desk, *words, "--set", "evaluate.limit=31", "--set", "evaluate.attacks=[fgsm]")
    assert done.code == 3, done.err  # no query attack
    assert "note: the run keeps its own recipe; asked for: evaluate.limit is 31, in the recipe 60" in done.err
    assert contents(run) == before
    assert command(desk, "gate").code == 0

    strict = "gate=[{id: T-01, metric: clean_accuracy, at_least: 0.999, on: value}]"
    done = command(desk, *words, "--set", strict)
    assert done.code == 1, done.err
    assert "judged by the rules given now; by the run's own it is PASS" in done.err
    assert "the run keeps its own gate" in done.err
    assert (run / "recipe.yaml").read_bytes() == before[run / "recipe.yaml"]
    assert command(desk, "gate").code == 0


@pytest.mark.slow
def test_another_target_of_the_same_name_replaces_nothing(desk, command):
    before = contents(desk / "runs/tiny")
    (desk / "quick.yaml").write_text((desk / "quick.yaml").read_text().replace("100}", "50}"))
    # Its files depend on nothing that was changed.
    assert command(desk, "export", "--target", "quick.yaml").code == 0
    for words in (["evaluate"], ["run", "tiny.yaml", "--name", "tiny"]):
        done = command(desk, *words, "--target", "quick.yaml")
        assert done.code == 2, words
        assert "another target called quick (latency.min_samples 100, now 50); give yours another name" in done.err
    assert contents(desk / "runs/tiny") == before


@pytest.mark.slow
def test_a_run_that_was_evaluated_otherwise_only_says_so(desk, command):
    run = desk / "runs/tiny"
    assert command(desk, "evaluate", "--target", "quick.yaml", *NARROW).code == 0
    (run / "boards/pruned/fp32@quick/manifest.json").unlink()
    done = command(desk, "report")
    assert done.code == 2
    assert "was evaluated under other settings than its recipe's alone (quick@" in done.err
