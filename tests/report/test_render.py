import subprocess
import sys

import pytest

from robustdeploy.core.registry import FORMATS
from robustdeploy.errors import UsageError
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
    with pytest.raises(UsageError, match="did you mean 'html'"):
        render(report, ["md", "htlm"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_format_is_made_with_its_options(report, tmp_path):
    paths = render(report, ["md:filename=summary.md", "junit"], tmp_path, "@0123abcd")
    assert [path.name for path in paths] == ["summary@0123abcd.md", "junit@0123abcd.xml"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["md:filname=x.md"], "report format 'md': filname: unknown key .*did you mean 'filename'"),
        (["md:short"], "'short' is no option; write md:option=value"),
        (["md", "html:filename=report.md"], "two formats would write report.md"),
        (["html:filename=../x.html"], "no plain file name"),
        (["html:filename=recipe.yaml"], "'recipe.yaml', which the run has for itself"),
        (["html:filename=report.json"], "'report.json', which the run has for itself"),
        (["html:filename=ledger.jsonl"], "'ledger.jsonl', which the run has for itself"),
        (["html:filename=.lock"], "'.lock', which the run has for itself"),
        (["html:filename=nets"], "'nets', which the run has for itself"),
    ],
)
def test_a_wrong_option_or_place_writes_nothing(report, tmp_path, words, told):
    (tmp_path / "nets").mkdir()
    with pytest.raises(UsageError, match=told):
        render(report, words, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["nets"]


def test_reading_and_judging_loads_neither_torch_nor_jinja():
    code = "import sys, robustdeploy.report.render, robustdeploy.report.load, robustdeploy.report.formats.html\n"
    code += "print([m for m in ('torch', 'jinja2', 'scipy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
