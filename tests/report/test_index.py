import re
from dataclasses import replace
from pathlib import Path

import pytest

from robustdeploy.errors import UsageError
from robustdeploy.report.index import index_page, outcome_of, trends_of, write_index

HOSTILE = """<script>alert(1)</script>"'>"""


def test_every_run_stands_in_the_index_with_its_figures(some_runs):
    text = index_page("runs", some_runs)
    for words in (
        "Runs in runs",
        "50.0 %",
        "40.0 %",
        "2 ms",
        "1 warning",
        "epoch 3",
        "No verdict 1",
        "FAIL 1",
        "All 3",
    ):
        assert words in text, words
    assert "<script" not in text
    assert [re.search(rf'<tr class="is-{each}">', text) is not None for each in ("PASS", "FAIL", "none")] == [True] * 3
    # The filter is style alone: a choice hides the rows of the others.
    assert "#only-FAIL:checked ~ .scroll tbody tr:not(.is-FAIL) { display: none; }" in text


def test_a_trend_is_of_runs_that_can_be_compared(some_runs):
    elsewhere = replace(some_runs[0], name="four", protocol="digits, linf 0.3, 60 images")
    (trend,) = trends_of([*some_runs, elsewhere])
    assert [run.name for run in trend.runs] == ["one", "two"]
    assert trend.values("worst") == (0.5, 0.4)
    assert "mine on host-cpu" in index_page("runs", some_runs)


def test_hostile_names_stay_text_and_addresses(some_runs, tmp_path):
    one = some_runs[0]
    folder = tmp_path / "a b?#"
    folder.mkdir()
    (folder / "report.html").write_text("")
    text = index_page(HOSTILE, [replace(one, name=folder.name, folder=str(folder), recipe=HOSTILE, verdict=HOSTILE)])
    assert "<script>" not in text
    assert 'href="a%20b%3F%23/report.html"' in text
    assert outcome_of(replace(one, verdict=HOSTILE)) == "none"


def test_a_folder_without_runs_or_with_a_page_of_somebody_else_is_refused(some_runs, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="holds no run"):
        write_index(tmp_path)
    monkeypatch.setattr("robustdeploy.report.index.overviews", lambda runs: some_runs[:1])
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UsageError, match="left as it is"):
        write_index(tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"
    Path(tmp_path / "index.html").unlink()
    assert write_index(tmp_path) == write_index(tmp_path) == (tmp_path / "index.html", 1)
