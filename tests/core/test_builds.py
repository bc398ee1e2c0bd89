"""Names of builds, and the targets that measure them."""

import pytest

from robustdeploy.core.builds import build_in, built_for, with_builds
from robustdeploy.core.load import load_target
from robustdeploy.errors import RecipeError


def test_each_build_is_a_target_of_its_own_that_differs_in_its_name_alone():
    targets = [load_target("host-cpu"), load_target("null")]
    made = with_builds(targets, 3)
    assert [each.name for each in made] == [
        *("host-cpu", "host-cpu.build2", "host-cpu.build3", "null", "null.build2", "null.build3")
    ]
    assert all(each.model_copy(update={"name": "host-cpu"}) == targets[0] for each in made[:3])
    assert with_builds(targets, 1) == targets


def test_a_build_is_found_by_its_name():
    assert load_target("host-cpu.build4") == with_builds([load_target("host-cpu")], 4)[-1]
    assert build_in("my.build.build12") == ("my.build", 12)
    assert built_for("host-cpu") == "host-cpu"
    with pytest.raises(RecipeError, match="unknown target 'host-cpuu'; did you mean 'host-cpu'"):
        load_target("host-cpuu.build2")
