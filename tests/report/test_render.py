import subprocess
import sys

import pytest

from robustdeploy.core.registry import FORMATS
from robustdeploy.errors import RecipeError
from robustdeploy.report.render import render


def test_every_format_makes_its_file(report, tmp_path):
    paths = render(report, ["html", "md", "junit"], tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md", "junit.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert {"html", "md", "junit"} <= set(FORMATS.names())


def test_the_same_report_gives_the_same_bytes(report, tmp_path):
    first = [path.read_bytes() for path in render(report, FORMATS.names(), tmp_path)]
    assert first == [path.read_bytes() for path in render(report, FORMATS.names(), tmp_path)]


def test_no_rendering_of_an_older_report_stays_beside_a_newer_one(report, tmp_path):
    render(report, ["md"], tmp_path)
    newer = report.model_copy(update={"name": "newer", "producer": "elsewhere"})
    assert [path.name for path in render(newer, ["junit"], tmp_path)] == ["junit.xml", "report.md"]
    assert "elsewhere" in (tmp_path / "report.md").read_text()


def test_an_unknown_format_writes_nothing(report, tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'html'"):
        render(report, ["md", "htlm"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_and_judging_loads_neither_torch_nor_jinja():
    code = "import sys, robustdeploy.report.render, robustdeploy.report.load, robustdeploy.report.formats.html\n"
    code += "print([m for m in ('torch', 'jinja2', 'scipy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
