"""The runs of a comparison: what each is trained by, what it begins with, and when it is another run."""

import pytest

from robustdeploy.comparing.going import checked
from robustdeploy.core.comparison import Comparison
from robustdeploy.core.recipe import Choice, Phase

ROWS = (
    {"name": "dense", "prune": None},
    {"name": "ours", "prune": "masks", "train": {"epochs": 9}},
    {"name": "tuned", "prune": "weights", "after": "pretrain", "train": {"phases": [{"name": "t", "epochs": 2}]}},
    {"name": "more", "prune": "weights", "after": "tuned", "budget": {"params": 0.1}},
)


def compared(**more):
    given = {"name": "x", "recipe": "digits-resnet8", "budget": {"ops": 0.3}, "rows": ROWS, "pretrain": {"epochs": 4}}
    return Comparison.model_validate(given | more)


def runs(*overrides, **more):
    return {run.row: run for run in checked(compared(**more), overrides)[1]}


def test_a_row_lays_its_own_training_over_the_recipe_s():
    found = runs("train.epochs=7")
    assert [run.recipe.train.epochs for run in found.values()] == [4, 7, 9, 7, 7]
    assert found["tuned"].recipe.train.phases == (Phase(name="t", epochs=2),)
    assert {run.recipe.train.batch_size for run in found.values()} == {64}
    assert found["ours"].recipe.prune == Choice(name="masks")
    assert not found["dense"].recipe.budget.is_set
    assert not found["pretrain"].recipe.budget.is_set
    assert found["more"].recipe.budget.params == 0.1


def test_a_start_is_the_net_of_the_run_that_came_before_from_the_series_folder():
    found = runs()
    pretrain, tuned, more = (found[name] for name in ("pretrain", "tuned", "more"))
    assert str(tuned.recipe.train.start) == f"{pretrain.name}/nets/dense"
    assert str(more.recipe.train.start) == f"{tuned.name}/nets/pruned"
    assert more.needs == (pretrain.name, tuned.name)
    assert found["ours"].recipe.train.start is None
    assert pretrain.delivered == (
        f"{pretrain.name}/nets/dense/net.json",
        f"{pretrain.name}/nets/dense/model.safetensors",
    )


def test_what_is_trained_otherwise_is_another_run_and_so_is_all_that_begins_with_it():
    before, after = runs(), runs(pretrain={"epochs": 5})
    changed = {name for name in before if before[name].name != after[name].name}
    assert changed == {"pretrain", "tuned", "more"}
    measured = runs("evaluate.limit=9")
    assert {run.name for run in measured.values()} == {run.name for run in before.values()}


def test_every_seed_has_a_dense_start_of_its_own():
    _, found = checked(compared(seeds=[0, 3]))
    assert [run.seed for run in found] == [0] * 5 + [3] * 5
    assert len({run.name for run in found}) == 10
    assert {run.needs[0] for run in found if run.row == "tuned"} == {run.name for run in found if run.row == "pretrain"}


@pytest.mark.parametrize("rows", [ROWS[:2]])
def test_nobody_s_start_is_not_trained(rows):
    assert list(runs(rows=rows)) == ["dense", "ours"]
