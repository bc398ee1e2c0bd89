"""The gate command: what it says besides the verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustdeploy.core.files import sha256_of_file
from robustdeploy.errors import RecipeError
from robustdeploy.report.load import load_rules


def test_a_bad_rule_draws_one_complaint(tmp_path: Path):
    file = tmp_path / "gates.yaml"
    file.write_text("rules:\n  - {id: lower, metric: clean_accuracy, at_least: 0.9}\n")
    with pytest.raises(RecipeError) as told:
        load_rules(file)
    assert len(str(told.value).splitlines()) == 1
    assert "id" in str(told.value)


def test_an_empty_gate_is_refused(tmp_path: Path):
    file = tmp_path / "gates.yaml"
    file.write_text("rules: []\n")
    with pytest.raises(RecipeError, match="at least one rule"):
        load_rules(file)


RULES = """
rules:
  - {id: RG-ACC-01, metric: clean_accuracy, no_worse_than_baseline: 30 pp}
  - {id: RG-OPS-01, metric: ops, no_worse_than_baseline: 0}
"""


@pytest.mark.slow
def test_a_run_is_held_against_an_earlier_one_and_what_is_written_names_it(desk, command):
    (desk / "gates.yaml").write_text(RULES)
    words = ["gate", "tiny", "--rules", "gates.yaml", "--baseline"]
    done = command(desk, *words, "runs/tiny", "--format", "md,junit", "--output", "out/ci", "--json")
    assert (done.code, done.document["outcome"]) == (0, "PASS")
    held = sha256_of_file(desk / "runs/tiny/report.json")
    assert (done.document["baseline"]["run"], done.document["baseline"]["sha256"]) == ("tiny", held)
    assert [row["how"] for row in done.document["baseline"]["rows"]] == ["paired", "counts"]
    assert f"SHA-256 of its report {held}" in (desk / "out/ci/report.md").read_text()
    assert f'name="baseline.sha256" value="{held}"' in (desk / "out/ci/junit.xml").read_text()
    shutil.copy(desk / "runs/tiny/report.json", desk / "alone.json")
    alone = command(desk, *words, "alone.json", "--json")
    assert [row["how"] for row in alone.document["baseline"]["rows"]] == ["unpaired", "counts"]
    # Of the run's own rules none asks for a baseline.
    assert "no rule asks for the baseline" in command(desk, "gate", "tiny", "--baseline", "tiny").err
    assert command(desk, "gate", "tiny", "--rules", "gates.yaml", "-q").code == 3


@pytest.mark.slow
def test_a_baseline_of_another_threat_and_a_run_as_output_are_refused(desk, command):
    (desk / "gates.yaml").write_text(RULES)
    report = json.loads((desk / "runs/tiny/report.json").read_text())
    report["threat"]["eps"] = 0.2
    (desk / "other.json").write_text(json.dumps(report))
    done = command(desk, "gate", "tiny", "--rules", "gates.yaml", "--baseline", "other.json")
    assert done.code == 2
    assert "threat: eps 0.2 against eps 0.1" in done.err
    done = command(desk, "gate", "tiny", "--format", "md", "--output", "runs/tiny")
    assert (done.code, "give another folder with --output" in done.err) == (2, True)
    assert "belong together" in command(desk, "gate", "tiny", "--format", "md").err


@pytest.mark.slow
def test_the_recipe_may_name_the_baseline(desk, command):
    rule = "gate=[{id: RG-ACC-01, metric: clean_accuracy, no_worse_than_baseline: 30 pp}]"
    words = ["run", "tiny.yaml", "--target", "quick.yaml", "--name", "tiny", "--set", rule, "--set"]
    done = command(desk, *words, "gate_baseline=runs/tiny", "--json")
    assert (done.code, done.document["baseline"]["run"]) == (0, "tiny")
    done = command(desk, *words, "gate_baseline=runs/none")
    assert done.code == 2
    assert "runs/none" in done.err
