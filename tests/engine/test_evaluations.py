"""Evaluations by name: what is there, what is not, and the command that makes it, whichever run is the latest."""

from pathlib import Path

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.engine.evaluations import evaluations_named
from robustdeploy.engine.lineage import command_for
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import check_finished
from robustdeploy.errors import UsageError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run.for_recipe(Path("runs"), load_recipe("digits-resnet8", registries=None), "mine")
    for place in (
        "engines/pruned/fp32@quick",
        "boards/pruned/fp32@quick",
        "boards/pruned/fp32@quick@3fa9c2d1",
        "boards/pruned/fp32@other@3fa9c2d1",
        "engines/pruned/fp32@null",
        "boards/pruned/fp32@null/parts",
    ):
        (run.root / place).mkdir(parents=True)
        if place != "boards/pruned/fp32@null/parts":
            (run.root / place / "manifest.json").write_text("{}")
    return run


def test_those_that_are_there_are_found(run):
    assert evaluations_named(run) == ["quick"]
    assert evaluations_named(run, ["quick@3fa9c2d1"]) == ["quick@3fa9c2d1"]
    both = ["quick@3fa9c2d1", "other@3fa9c2d1"]
    assert evaluations_named(run, both) == both
    with pytest.raises(UsageError, match="differ in their settings"):
        evaluations_named(run, ["quick", "other@3fa9c2d1"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quick@3fa9c2d2", "no evaluation 'quick@3fa9c2d2'; did you mean 'quick@3fa9c2d1'? (there: other@3fa9c2d1, q"),
        ("quick@unknown", "`robustdeploy evaluate runs/mine --target quick --set evaluate.…` makes one"),
        (
            "quik",
            "has nothing of a target 'quik'; did you mean 'quick'? (there: other@3fa9c2d1, quick, quick@3fa9c2d1)",
        ),
        ("../train", "has nothing of a target '../train' (there: "),
        (
            "null",
            "quick, quick@3fa9c2d1): run `robustdeploy evaluate runs/mine --target null` first",
        ),
        ("host-cpu", "run `robustdeploy export runs/mine --target host-cpu` and `robustdeploy evaluate runs/mine --t"),
        ("null@12345678", "run `robustdeploy evaluate runs/mine --target null` first"),
    ],
)
def test_one_that_is_not_is_told_with_the_command_that_makes_it(run, name, told):
    with pytest.raises(UsageError) as refused:
        evaluations_named(run, [name])
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("root", "place", "command"),
    [
        ("runs/a", "nets/pruned", "robustdeploy prune runs/a/recipe.yaml --name a"),
        (
            "/tmp/my runs/a",
            "nets/dense",
            "robustdeploy prune '/tmp/my runs/a/recipe.yaml' --name a --runs '/tmp/my runs'",
        ),
        ("runs/a", "attacks/pruned/fp32", "robustdeploy evaluate runs/a"),
        ("runs/a", "boards/pruned/fp32@quick@3fa9c2d1", "robustdeploy evaluate runs/a --target quick"),
    ],
)
def test_a_stage_that_is_not_finished_is_told_with_its_own_runs_name(root, place, command):
    assert command_for(Path(root), place) == command
    with pytest.raises(UsageError, match="has no finished"):
        check_finished(Path(root), place)
