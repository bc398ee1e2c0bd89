"""The list of metrics against every place that makes a row."""

import ast
import json
from pathlib import Path

import pytest

import robustdeploy
from robustdeploy.core.metrics import METRICS

PACKAGE = Path(robustdeploy.__file__).parent
MAKERS = ["evaluate", "report", "train", "export"]


def written_metrics():
    """Every metric that the code names as a plain text where it makes a row, with the file."""
    for path in (p for folder in MAKERS for p in (PACKAGE / folder).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", "")
            given = [k.value for k in call.keywords if k.arg == "metric"] if name == "Measurement" else []
            given += call.args[:1] if name == "share_row" else []
            for value in given:
                if isinstance(value, ast.Constant):
                    yield value.value, path.name


def test_every_row_that_the_code_names_is_in_the_list():
    found = list(written_metrics())
    assert len(found) >= 8
    assert [each for each in found if each[0] not in METRICS] == []


@pytest.mark.slow
def test_every_row_of_a_real_report_is_as_the_list_says(chain):
    rows = json.loads((chain / "runs/tiny/report.json").read_text())["measurements"]
    assert len({row["metric"] for row in rows}) >= 15
    for row in rows:
        metric = METRICS[row["metric"]]
        assert row["unit"] == metric.unit, row
        assert ("torch" if row["subject"].endswith("@torch") else "target") in metric.places, row
        assert metric.low <= row["value"] or row["value"] == 0, row
        assert row["value"] <= metric.high, row
        assert (row["attack"] is None) == (metric.attacked == "never") or metric.attacked == "maybe", row
        assert metric.worst or row["attack"] != "worst", row
        exact = row["conditions"].get("exact") is True
        assert exact == (metric.support == "count"), row
        assert (row["low"] is not None or row["high"] is not None) == (metric.bounded and not exact), row
        assert ("budget" in row["conditions"]) == (row["metric"] in ("ops", "ops_fraction")), row
