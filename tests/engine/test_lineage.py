"""Lineage: what a damaged file's error advises is a command that can be pasted."""

from pathlib import Path

import pytest

from robustdeploy.engine.lineage import remedy, report_command

RUN = Path("my runs/mine")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (
            "nets/pruned/net.json",
            "prune 'my runs/mine/recipe.yaml' --name mine --runs 'my runs' --force` makes it again",
        ),
        ("nets/pruned/best/net.json", "prune 'my runs/mine/recipe.yaml' --name mine --runs 'my runs' --force`"),
        ("nets/imported/net.json", "evaluate FOLDER --recipe 'my runs/mine/recipe.yaml' --force`"),
        ("onnx/dense/fp32/golden.npz", "export 'my runs/mine' --force` makes it again"),
        ("onnx/pruned/int8/golden.npz", "export 'my runs/mine' --precision int8 --force`"),
        ("attacks/pruned/fp32/attacks.npz", "evaluate 'my runs/mine' --force`"),
        ("boards/pruned/fp32@quick/rows.json", "evaluate 'my runs/mine' --target quick --force`"),
        ("report.json", "report 'my runs/mine'` writes it again"),
        ("report-quick.json", "report 'my runs/mine' --target quick` writes it again"),
        ("tracking/notes.json", "put it back"),
    ],
)
def test_a_damaged_file_is_had_again_by_a_command_that_names_its_run(tmp_path, monkeypatch, file, told):
    monkeypatch.chdir(tmp_path)
    RUN.mkdir(parents=True)
    (RUN / "recipe.yaml").touch()
    assert told in remedy(RUN / file)


def test_of_a_file_that_lies_in_no_run_nothing_is_known(tmp_path):
    assert remedy(tmp_path / "net.json") == "put it back, or write it again"


@pytest.mark.parametrize("name", ["report.json", "report-quick.json", "report-a+b.json", "report-a@3fa9c2d1.json"])
def test_a_report_is_written_again_by_the_targets_in_its_name(name):
    targets = {"report.json": "", "report-a+b.json": " --target a --target b"}
    named = targets.get(name, f" --target {name[7:-5]}")
    assert report_command(Path("runs/mine"), name) == f"robustdeploy report runs/mine{named}"
