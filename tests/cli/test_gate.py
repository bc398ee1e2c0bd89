"""The gate command: what it says besides the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

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
