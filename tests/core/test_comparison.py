"""A comparison: what is wrong with a plan is told with its place, and its shipped files say what they should."""

import jsonschema
import pytest

from robustdeploy.comparing.going import checked
from robustdeploy.core.load import kind_of_file, load_comparison
from robustdeploy.core.recipe import Budget
from robustdeploy.core.schema import schema_of
from robustdeploy.core.shipped import shipped_folder, shipped_names
from robustdeploy.core.yaml_source import source_from_file
from robustdeploy.errors import RecipeError, UsageError

PLAN = """\
name: tiny
recipe: digits-resnet8
budget: {ops: 0.3}
rows:
"""


def plan(tmp_path, rows, more=""):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + "".join(f"  - {row}\n" for row in rows) + more)
    return path


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        (["{name: a, prune: maks}"], "", "5:15: rows[0].prune: unknown pruner 'maks'; did you mean 'masks'?"),
        (["{name: a, prune: {name: masks, lrr: 1}}"], "", "rows[0].prune.lrr: unknown key"),
        (["{name: a}"], "", "rows[0].prune: is required and missing"),
        (
            ["{name: a, prune: masks, train: {epoch: 3}}"],
            "",
            "rows[0].train.epoch: unknown key (value 3); did you mean",
        ),
        (["{name: a, prune: masks, train: {epochs: 0}}"], "", "rows[0].train.epochs: must be at least 1, not 0"),
        (["{name: a, prune: masks, train: {task: fastatt}}"], "", "unknown training task 'fastatt'"),
        (["{name: a, prune: masks, budget: {ops: 2.5}}"], "", "rows[0].budget.ops"),
        (["{name: a, prune: masks}", "{name: a, prune: weights}"], "", "two rows are named 'a'"),
        (
            ["{name: a, prune: masks, after: b}"],
            "",
            "row 'a' is after 'b', and a row begins only with one that is above it, or with pretrain",
        ),
        (["{name: a, prune: masks, after: pretrain}"], "", "after pretrain, which this plan does not have"),
        (["{name: a, prune: masks, train: {start: x}}"], "", "say with `after` what it begins with"),
        (["{name: pretrain, prune: masks}"], "", "no row can be named 'pretrain'"),
        (["{name: a, prune: masks}"], "against: [b]\n", "against names 'b', and the rows are a"),
        (["{name: a, prune: masks}"], "seeds: [1, 1]\n", "seeds must be one or more, each once"),
        (["{name: a, prune: masks}"], "seeds: []\n", "seeds must be one or more, each once"),
        (["{name: a b, prune: masks}"], "", "rows[0].name"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, rows, more, told):
    with pytest.raises(RecipeError) as caught:
        load_comparison(plan(tmp_path, rows, more))
    assert told in str(caught.value)
    assert "plan.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        (["{name: a, prune: masks, budget: {ops: 30}}"], "", "row 'a': budget.ops is 30"),
        (["{name: a, prune: masks, published: [wang]}"], "", "row 'a': there is no published row 'wang'"),
        (["{name: a, prune: masks}"], "set: [train.epochss=3]\n", "train.epochss: unknown key"),
        (
            ["{name: a, prune: masks, train: {phases: [{name: p, lr: 0.5}]}}"],
            "set: [train.optimiser=adam, train.lr=0.001]\n",
            "row 'a': train",
        ),
        (["{name: a, prune: masks}"], "target: host-cpuu\n", "unknown target 'host-cpuu'"),
    ],
)
def test_what_only_the_recipes_show_is_told_before_any_run(tmp_path, rows, more, told):
    with pytest.raises(UsageError) as caught:
        checked(load_comparison(plan(tmp_path, rows, more)))
    assert told in str(caught.value)


def test_a_recipe_beside_the_plan_is_found_from_anywhere(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\ngate: [{id: RD-A-1, metric: clean_accuracy, at_least: 0.5}]\n")
    path = plan(tmp_path, ["{name: a, prune: masks}"])
    path.write_text(path.read_text().replace("digits-resnet8", "tiny.yaml"))
    base, (run,) = checked(load_comparison(path))
    assert base.name == "tiny"
    assert run.recipe.gate == ()


def test_a_plan_is_told_from_a_recipe_and_a_target(tmp_path):
    assert kind_of_file(plan(tmp_path, ["{name: a, prune: masks}"])) == "comparison"
    assert kind_of_file(shipped_folder("comparisons") / "published.yaml") == "published figures"
    with pytest.raises(RecipeError, match="'host-cpu' is a target, not a comparison"):
        load_comparison("host-cpu")


def test_a_row_has_its_own_budget_and_a_dense_one_has_none(tmp_path):
    rows = ["{name: a, prune: masks}", "{name: b, prune: weights, budget: {params: 0.1}}", "{name: c, prune: null}"]
    found = load_comparison(plan(tmp_path, rows))
    assert [found.budget_of(row) for row in found.rows] == [Budget(ops=0.3), Budget(params=0.1), Budget()]


@pytest.mark.parametrize("name", shipped_names("comparisons"))
def test_shipped_comparisons_fit_their_schema_and_make_sound_recipes(name):
    source = source_from_file(shipped_folder("comparisons") / f"{name}.yaml", name)
    loaded = load_comparison(name)
    assert loaded.name == name
    jsonschema.validate(source.data, schema_of("comparison"))
    _, runs = checked(loaded)
    assert len({run.name for run in runs}) == len(runs)
    assert all(set(run.needs) <= {other.name for other in runs} for run in runs)
