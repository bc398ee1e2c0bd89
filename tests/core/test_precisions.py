"""Which precisions a target computes in, by what is asked for and what it has."""

import pytest

from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.precisions import asked_precisions, precisions_on
from robustdeploy.core.recipe import Choice
from robustdeploy.errors import RecipeError, UsageError


@pytest.fixture
def target():
    own = (Choice(name="fp32"), Choice(name="int8", options={"form": "s8s8"}))
    return load_target("null").model_copy(update={"precisions": own})


def test_without_any_a_target_computes_in_its_first(target):
    assert precisions_on(target, ()) == (Choice(name="fp32"),)
    assert asked_precisions(load_recipe("digits-resnet8"), ()) == ()


def test_options_come_from_the_recipe_and_last_from_the_target(target):
    recipe = load_recipe("digits-resnet8", ["precisions=[{name: int8, form: u8s8, count: 9}, fp32]"])
    (choice,) = precisions_on(target, asked_precisions(recipe, ["int8", "int8"]))
    assert choice == Choice(name="int8", options={"form": "s8s8", "count": 9})
    assert [each.name for each in precisions_on(target, recipe.precisions)] == ["int8", "fp32"]


def test_what_a_target_does_not_have_is_refused_with_what_it_has(target):
    with pytest.raises(UsageError, match=r"no precision 'fp16' \(it has: fp32, int8\)"):
        precisions_on(target, [Choice(name="fp16")])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("[int8, {name: int8, count: 9}]", "precisions holds 'int8' twice"),
        ("[int9]", "unknown precision 'int9'; did you mean 'int8'"),
        ("[{name: int8, form: u8u8}]", "form"),
    ],
)
def test_wrong_ones_in_a_recipe_are_told_with_their_place(given, told):
    with pytest.raises(RecipeError, match=told):
        load_recipe("digits-resnet8", [f"precisions={given}"])
