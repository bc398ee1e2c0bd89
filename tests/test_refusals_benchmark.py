"""benchmarks/refusals.py: every mistake in it is refused in one sentence, and none of them loads torch to be found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import refusals  # noqa: E402

ALL = """
import contextlib, io, json, os, sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import refusals
from robustdeploy.cli import main

found = {{}}
heavy = {{"torch", "torchvision", "onnx", "onnxruntime", "scipy", "sklearn"}}
for what, words in refusals.MISTAKES.items():
    before = set(sys.modules)
    sys.argv = ["robustdeploy", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    loaded = sorted(heavy & (set(sys.modules) - before))
    found[what] = {{"code": code, "out": out.getvalue(), "err": err.getvalue(), "loaded": loaded}}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """All mistakes, one after the other in one process."""
    code = ALL.format(benchmarks=str(BENCHMARKS))
    folder = tmp_path_factory.mktemp("mistakes")
    # In a process of its own: a recipe is loaded whole there, torch with it.
    prepare = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import refusals; refusals.prepare(refusals.Path())"
    subprocess.run([sys.executable, "-c", prepare], cwd=folder, check=True)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", refusals.MISTAKES)
def test_a_mistake_is_told_in_a_sentence_before_torch_is_loaded(refused, what):
    found = refused[what]
    assert found["code"] in (2, 4), found
    assert found["out"] == ""
    assert "error: " in found["err"].lower()
    assert "Traceback" not in found["err"]
    assert found["loaded"] == []


def test_the_benchmark_times_and_prints(capsys, monkeypatch):
    monkeypatch.setattr(refusals, "MISTAKES", {"unknown net": refusals.MISTAKES["unknown net"]})
    assert refusals.main(["--rounds", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["mistake"], row["code"]) == ("unknown net", 2)
    assert 0 < row["cpu_seconds"] <= 60
    assert "did you mean 'resnet8'?" in row["said"]
