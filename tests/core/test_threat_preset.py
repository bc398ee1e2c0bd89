"""Threat presets: what a paper attacked its nets with, for a recipe to name."""

import pytest

from robustdeploy.core.load import load_recipe, load_threat_preset
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.core.shipped import shipped_names
from robustdeploy.errors import RecipeError

PGD_50_10 = {"steps": 50, "restarts": 10, "alpha": 2 / 255}


def attacks(recipe):
    return [(choice.name, choice.options) for choice in recipe.evaluate.attacks]


@pytest.mark.parametrize("name", shipped_names("threats"))
def test_shipped_presets_are_sound_and_taken_by_a_recipe_of_each_data_set_or_refused(name):
    preset = load_threat_preset(name, REGISTRIES)
    assert preset.name == name
    for judged in preset.on:
        own = ("net=resnet20", f"data.name={judged.data}")
        recipe = load_recipe("digits-resnet8", [*own, f"threat={name}"], foresee=False, quick=True)
        assert recipe.threat.eps == judged.eps
        assert recipe.evaluate.attacks[: len(judged.attacks)] == judged.attacks
        # A verdict needs more than some papers tried, so the recipe's own stay behind.
        assert recipe.evaluate.attacks[-1].name == "square"
    if preset.refused:
        with pytest.raises(RecipeError, match="is refused: "):
            load_recipe("digits-resnet8", [f"threat={name}"])


def test_what_is_the_same_but_for_its_step_gives_way():
    recipe = load_recipe(
        "cifar10-resnet20", ["evaluate.attacks[2].alpha=1/255", "threat={preset: wong2020}"], quick=True
    )
    assert attacks(recipe)[0] == ("pgd", PGD_50_10)
    assert [name for name, options in attacks(recipe) if options.get("restarts") == 10] == ["pgd"]


def test_a_file_names_a_preset(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ndata: {name: cifar10}\nnet: resnet20\nthreat: wong2020\n")
    recipe = load_recipe(path, quick=True)
    assert recipe.threat.eps == 8 / 255
    assert attacks(recipe)[0] == ("pgd", PGD_50_10)
    path.write_text("name: a\ndata: {name: cifar10}\nnet: resnet20\nthreat:\n  preset: wong2020\n  eps: 4/255\n")
    with pytest.raises(RecipeError, match=r"a.yaml:5:3: threat.preset: brings a threat of its own; leave out eps"):
        load_recipe(path, quick=True)


def test_attacks_that_the_command_line_names_stand_alone():
    overrides = ["evaluate.attacks=[fgsm]", "threat=wong2020"]
    assert attacks(load_recipe("cifar10-resnet20", overrides, quick=True)) == [("fgsm", {})]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("wong", "unknown threat preset 'wong'; did you mean 'wong2020'"),
        ("atmc2019", "says nothing of digits: it is for cifar10"),
        ("{preset: 3}", "threat.preset: must be the name of a preset: anpvs2020, "),
        ("{preset: null, eps: 0.1}", "threat.preset: must be the name of a preset: anpvs2020, "),
        ("[wong2020]", "must be a mapping of keys to values"),
        ("digits-resnet8", "is a recipe, not a threat preset"),
    ],
)
def test_what_cannot_be_taken_is_told_with_its_place(word, told):
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits-resnet8", [f"threat={word}"], quick=True)
    assert told in str(caught.value)
    assert str(caught.value).startswith("--set threat=")
    assert len(caught.value.args) == 1


def test_a_preset_says_what_it_is_on_or_why_it_is_refused(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: p\ndescription: d\non: []\n")
    with pytest.raises(RecipeError, match="says what it is `on`, or why it is `refused`"):
        load_threat_preset(path)
    path.write_text("name: p\ndescription: d\non:\n  - {data: digits, eps: 0.2, attacks: [pdg]}\n")
    with pytest.raises(RecipeError, match=r"p.yaml:4:40: on\[0\].attacks\[0\]: unknown attack 'pdg'"):
        load_threat_preset(path, REGISTRIES)
    path.write_text("name: p\ndescription: d\non:\n  - {data: digits, eps: 0.2, attacks: [fgsm]}\n")
    assert load_recipe("digits-resnet8", [f"threat={path}"], quick=True).threat.eps == 0.2
