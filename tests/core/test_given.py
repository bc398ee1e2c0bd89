"""Every kind of path that somebody gives for a run: what it is, and how to get from there to one."""

import os
from pathlib import Path

import pytest

from robustdeploy.core.given import no_latest, no_run
from robustdeploy.core.load import load_recipe
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two runs and a bit of everything that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("name: r\n")
    for number, name in enumerate(("old", "new")):
        run = Run.for_recipe(tmp_path / "runs", load_recipe(tmp_path / "r.yaml"), name)
        (run.root / "nets/pruned").mkdir(parents=True)
        (run.root / "report.json").write_text("{}")
        (run.root / "nets/pruned/model.safetensors").write_text("")
        os.utime(run.root / "ledger.jsonl", (1e9 + number, 1e9 + number))
    for name in (
        "mine.pt",
        "mine.pth",
        "m.onnx",
        "m.engine",
        "m.trt",
        "m.tflite",
        "w.safetensors",
        "a.zip",
        "notes.txt",
    ):
        (tmp_path / name).write_text("")
    for folder, files in {
        "empty": [],
        "only_onnx": ["model.onnx"],
        "only_pt": ["best.pt"],
        "only_weights": ["model.safetensors"],
        "huggingface": ["config.json", "model.safetensors"],
        "net": ["net.json", "model.safetensors"],
        "images": ["train/", "test/"],
        "words": ["readme.md"],
    }.items():
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).mkdir() if file.endswith("/") else (tmp_path / folder / file).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("mine.pt", ["a file of PyTorch, which becomes a run by `robustdeploy import`", "Accepted are a run"]),
        ("mine.pth", ["a file of PyTorch", "net.json and model.safetensors"]),
        ("gone.pt", ["does not exist", "a file of PyTorch"]),
        ("m.onnx", ["an ONNX file, which becomes a run by `robustdeploy import`", "Accepted are"]),
        ("m.engine", ["an engine for one device", "Accepted are"]),
        ("m.trt", ["an engine for one device"]),
        ("m.tflite", ["a net of another tool"]),
        ("w.safetensors", ["a file of weights", "Accepted are"]),
        ("net/model.safetensors", ["give their folder: net"]),
        ("a.zip", ["Unpack it"]),
        ("notes.txt", ["is a file and no run", "Accepted are"]),
        ("r.yaml", ["robustdeploy run r.yaml"]),
        ("runs/new/report.json", ["a part of a run", "runs/new"]),
        ("runs/new/nets", ["a part of a run", "runs/new"]),
        ("runs/new/nets/pruned/model.safetensors", ["a part of a run", "runs/new"]),
        ("runs", ["it holds runs (new, old)"]),
        ("empty", ["it is empty", "Accepted are"]),
        ("only_onnx", ["model.onnx in it is an ONNX file"]),
        ("only_pt", ["best.pt in it is a file of PyTorch"]),
        ("only_weights", ["it holds model.safetensors, but no net.json"]),
        ("huggingface", ["it holds model.safetensors, but no net.json"]),
        ("images", ["looks like a data set", "--data"]),
        ("words", ["recipe.yaml and ledger.jsonl"]),
        ("neww", ["does not exist", "did you mean 'new'?", "new, old"]),
    ],
)
def test_a_path_that_is_no_run_is_told_for_what_it_is(here, path, parts):
    told = no_run(Path(path), Path("runs"))
    for part in parts:
        assert part in told
    for sentence in told.replace(". ", ".\n").splitlines():
        assert len(sentence.split()) <= 30, sentence
    with pytest.raises(UsageError, match="^" + path.replace(".", r"\.")):
        Run.open(Path(path), Path("runs"))


def test_a_latest_that_is_gone_lists_the_newest_runs(here):
    (here / "runs/latest").unlink()
    assert no_latest(Path("runs")).startswith(
        "runs/latest is missing. Name one of the runs in runs, newest first: new, old"
    )
    (here / "runs/latest").symlink_to("removed")
    assert "points to 'removed', which is gone" in no_latest(Path("runs"))
    for number in range(9):
        Run.for_recipe(here / "runs", load_recipe(here / "r.yaml"), f"n{number}")
    (here / "runs/latest").unlink()
    assert no_latest(Path("runs")).endswith("and 6 older")
    assert "no run in elsewhere yet" in no_latest(Path("elsewhere"))
