"""What the tab key offers, asked as a shell asks: every name that can be chosen, without torch."""

import os
import subprocess
import sys

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.engine.run import Run

CODE = """
import sys
from robustdeploy.cli import main
try:
    main()
finally:
    heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'scipy', 'sklearn', 'PIL'} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tab")
    (folder / "mine.yaml").write_text("name: mine\n")
    (folder / "notes.txt").write_text("")
    for runs, name in (("runs", "tiny"), ("runs", "tall"), ("elsewhere", "third")):
        Run.for_recipe(folder / runs, load_recipe(folder / "mine.yaml"), name)
    for evaluation in ("quick", "quick@limit-9"):
        place = folder / "runs" / "tiny" / "boards/pruned" / f"fp32@{evaluation}"
        place.mkdir(parents=True)
        (place / "manifest.json").write_text("{}")
    return folder


def offered(folder, line):
    """Ask for the completions of the last word of ``line``."""
    environment = {
        **os.environ,
        "_ROBUSTDEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("robustdeploy ex", ["export"]),
        ("robustdeploy prune digits", ["digits-resnet8"]),
        ("robustdeploy run mi", ["mine.yaml"]),
        ("robustdeploy export --target jetson-orin-a", ["jetson-orin-agx"]),
        ("robustdeploy report t", ["tall", "tiny"]),
        ("robustdeploy gate --runs elsewhere t", ["third"]),
        ("robustdeploy compare ti", ["tiny"]),
        ("robustdeploy report tiny --target q", ["quick", "quick@limit-9"]),
        ("robustdeploy gate runs/tiny --target quick@", ["quick@limit-9"]),
        ("robustdeploy gate tall --target jetson-t", ["jetson-thor", "jetson-thor-tvm"]),
        ("robustdeploy gate tiny --rules m", ["mine.yaml"]),
        ("robustdeploy validate mi", ["mine.yaml"]),
        ("robustdeploy ls runs --runs else", ["elsewhere/"]),
        ("robustdeploy prune --start ta", ["tall"]),
        ("robustdeploy prune --data runs/ti", ["runs/tiny/"]),
        ("robustdeploy evaluate --attacks p", ["pgd"]),
        ("robustdeploy evaluate --attacks pgd,sq", ["pgd,square"]),
        ("robustdeploy report --format html,m", ["html,md"]),
        ("robustdeploy run --track ten", ["tensorboard"]),
        ("robustdeploy ls query", ["query-attacks"]),
        ("robustdeploy ls ru", ["runs"]),
        ("robustdeploy schema g", ["gate"]),
        ("robustdeploy prune --set train.ep", ["train.epochs="]),
        ("robustdeploy prune --set train.task=fa", ["train.task=fastat"]),
        ("robustdeploy prune --set net=resnet1", ["net=resnet101", "net=resnet152", "net=resnet18"]),
        ("robustdeploy prune --set train.sel", ["train.select="]),
        ("robustdeploy prune --set train.select=b", ["train.select=best"]),
    ],
)
@pytest.mark.alike(12)
def test_the_shell_completes(folder, line, expected):
    assert offered(folder, line) == expected


def test_every_plug_in_that_a_recipe_chooses_is_offered():
    from robustdeploy.cli.completion import complete_attacks, complete_set

    for field, kind in (("net", "nets"), ("data.name", "data"), ("train.task", "tasks"), ("prune", "pruners")):
        assert {f"{field}={name}" for name in REGISTRIES[kind].names()} <= set(complete_set(f"{field}="))
    kinds = ("attacks", "query-attacks", "substitutes", "engine-attacks", "ensembles")
    assert set(complete_attacks("")) == {name for kind in kinds for name in REGISTRIES[kind].names()}


def test_every_field_of_a_recipe_that_is_offered_is_one(tmp_path):
    from robustdeploy.cli.completion import complete_set

    offered = complete_set("")
    assert {"train.epochs=", "threat.eps=", "budget.ops=", "seed=", "evaluate.limit="} <= set(offered)
    for field in set(offered) - {"data.options="}:  # takes any mapping; the data set says what may stand in it
        with pytest.raises(Exception, match=field.removesuffix("=").split(".")[0]) as refused:
            load_recipe("digits-resnet8", [f"{field}{{nothing: at all}}"], registries=None)
        assert f"{field.removesuffix('=')}: unknown key" not in str(refused.value)
