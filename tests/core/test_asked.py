"""What a recipe becomes for its targets."""

import pytest

from robustdeploy.core.asked import DEFAULT_RECIPE, DEFAULT_TARGET, recipe_for, suited
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.recipe import Budget
from robustdeploy.engine.run import training_content


def multiples(targets=(), *overrides):
    budget = recipe_for(DEFAULT_RECIPE, targets=targets, overrides=overrides).budget
    return budget.channel_multiple, budget.preferred_multiple


def test_channels_are_kept_in_what_the_targets_run_best():
    assert multiples([load_target("raspberry-pi-5")]) == (None, 4)
    # A net for two targets has to suit both.
    odd = load_target("jetson-orin").model_copy(update={"channel_multiple": 3})
    assert multiples([load_target("raspberry-pi-5"), odd]) == (None, 12)
    # Without a target it is meant for the default one.
    assert multiples() == (None, load_target(DEFAULT_TARGET).channel_multiple)
    assert load_target(DEFAULT_TARGET).channel_multiple > 1


@pytest.mark.parametrize("given", [1, 3, 64])
def test_a_multiple_that_was_given_is_what_is_kept(given):
    goals = [load_target("jetson-orin")]
    assert multiples(goals, f"budget.channel_multiple={given}") == (given, None)
    assert multiples(goals, f"budget.preferred_multiple={given}") == (None, given)
    assert multiples((), f"budget.channel_multiple={given}") == (given, None)


def test_where_the_time_itself_is_limited_the_profile_says_which_multiple():
    limit = "budget.latency={target: host-cpu, at_most: 0.5}"
    assert multiples([load_target("host-cpu")], limit) == (None, 1)
    assert multiples([load_target("host-cpu"), load_target("raspberry-pi-5")], limit) == (None, 4)


def test_a_recipe_object_is_suited_to_its_targets_too():
    recipe = load_recipe(DEFAULT_RECIPE)
    assert recipe.budget.preferred_multiple is None
    assert suited(recipe, [load_target("raspberry-pi-5")]).budget.preferred_multiple == 4
    given = recipe.model_copy(update={"budget": Budget(channel_multiple=1)})
    assert suited(given, [load_target("raspberry-pi-5")]) == given


def test_a_run_of_before_keeps_its_fingerprint():
    """Then, every recipe had a multiple of its own, and 1 where nobody gave one."""
    before = load_recipe(DEFAULT_RECIPE, ["budget.channel_multiple=1"])
    assert training_content(before)["budget"] == {"ops": 0.3, "params": None, "memory": None, "channel_multiple": 1}
    assert training_content(before) == training_content(load_recipe(DEFAULT_RECIPE))
    assert training_content(before) != training_content(recipe_for(DEFAULT_RECIPE))
