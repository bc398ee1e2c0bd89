"""Cells: what a sweep goes over, and the names of its runs."""

import pytest

from robustdeploy.errors import UsageError
from robustdeploy.sweep.cells import axis_from, cells_over


def names(*texts):
    return [cell.name for cell in cells_over([axis_from(text) for text in texts])]


def test_every_combination_is_a_cell_with_a_readable_name():
    cells = cells_over([axis_from("budget.ops=0.7,0.5"), axis_from("seed=0, 1")])
    assert [cell.name for cell in cells] == ["ops0.7-seed0", "ops0.7-seed1", "ops0.5-seed0", "ops0.5-seed1"]
    assert cells[1].overrides == ("budget.ops=0.7", "seed=1")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("budget.ops=0.5", ("0.5",)),
        ("prune={name: masks, lr: 0.1},hydra", ("{name: masks, lr: 0.1}", "hydra")),
        ("train.schedule=[1, 2],[3, [4, 5]]", ("[1, 2]", "[3, [4, 5]]")),
        ("net='a,b',c", ("'a,b'", "c")),
        ("threat.eps=4/255,8/255", ("4/255", "8/255")),
        ("net=package.module:factory,resnet8", ("package.module:factory", "resnet8")),
        ("data.path=a=b,c", ("a=b", "c")),
    ],
)
def test_commas_inside_a_value_are_its_own(text, values):
    assert axis_from(text).values == values


@pytest.mark.parametrize("text", ["budget.ops", "budget.ops=", "=0.5", "budget.ops=0.5,,0.3", "seed=1,1", ""])
def test_what_names_no_values_is_refused_in_one_sentence(text):
    with pytest.raises(UsageError, match="--over"):
        axis_from(text)


def test_a_field_that_is_given_twice_and_a_sweep_without_end_are_refused():
    with pytest.raises(UsageError, match="seed is given twice; give all its values together"):
        names("seed=0", "seed=1")
    with pytest.raises(UsageError, match="1,100 runs"):
        names(f"seed={','.join(map(str, range(1100)))}")
    with pytest.raises(UsageError, match="say what to go over"):
        names()


def test_names_are_names_of_runs_and_never_shared():
    long = names(f"net={'x' * 200},{'x' * 201}")
    odd = names("prune={name: masks},{name/masks}", "net=a b,a_b,a/b")
    for found in (long, odd):
        assert len(set(found)) == len(found)
        assert all(len(name) <= 100 and name[0].isalnum() for name in found)
        assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in found)
