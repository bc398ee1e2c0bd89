"""Threats in ℓ2 and ℓ1: how they are written, and what lacks a form for them."""

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Threat
from robustdeploy.core.settings import evaluation_content, label_of
from robustdeploy.errors import RecipeError

L2 = "evaluate.threat={norm: l2, eps: 128/255}"


def recipe(*words):
    return load_recipe("digits-resnet8", words, quick=True)


def test_an_evaluation_has_a_ball_of_its_own():
    own, other = recipe(), recipe(L2)
    assert own.attacked_within == own.threat
    assert other.threat == own.threat
    assert other.attacked_within == Threat("l2", 128 / 255)
    assert other.attacked_within.most == 128**2
    assert label_of(own.evaluate, other.evaluate) != ""
    # Evaluations from before it was there keep their fingerprint.
    assert "threat" not in evaluation_content(own.evaluate)
    word_by_word = recipe("evaluate.threat.norm=l2", "evaluate.threat.eps=128/255")
    assert word_by_word.evaluate == other.evaluate


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate.threat={norm: l2}"], r"evaluate.threat: norm l2 needs an eps of its own: \{norm: l2, eps: 0.5\}"),
        (["evaluate.threat={norm: l3, eps: 1}"], r"evaluate.threat.norm: must be 'linf', 'l2' or 'l1'"),
        (["evaluate.threat={norm: l2, eps: 0.001}"], r"evaluate.threat.eps"),
        (["threat.eps=8"], r"threat: eps is 8, but no pixel of \[0, 1\] can move by more than 1; did you mean 8/255"),
        ([L2, "evaluate.attacks=[pgd, rfgs]"], r"evaluate.attacks\[1\]: the attack 'rfgs' has no ℓ2 form; these have"),
        ([L2, "evaluate.attacks=[simba]"], r"'simba' has no ℓ2 form; these have one: .*pgd.*square"),
        (["evaluate.threat={norm: l1, eps: 4}", "evaluate.attacks=[rays]"], r"'rays' has no ℓ1 form"),
        ([L2, "evaluate.attacks=[{name: substitute, attack: rfgs}]"], r"'rfgs' has no ℓ2 form"),
        (["threat={norm: l2, eps: 0.5}"], r"threat.norm: fastat trains inside an ℓ∞ ball alone; keep `threat` in linf"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(words, told):
    with pytest.raises(RecipeError, match=told):
        recipe(*words)


def test_what_has_the_norm_is_taken():
    recipe(L2, "evaluate.attacks=[fgsm, pgd, apgd, square, {name: substitute, attack: pgd}]")
    trained = recipe("threat={norm: l2, eps: 0.5}", "train.task=standard")
    assert trained.attacked_within == Threat("l2", 0.5)


def test_a_preset_has_a_norm(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("name: mine\ndescription: ours\non: [{data: digits, norm: l2, eps: 0.5, attacks: [apgd]}]\n")
    assert recipe(f"threat={preset}", "train.task=standard").threat == Threat("l2", 0.5)
    preset.write_text("name: mine\ndescription: ours\non: [{data: digits, eps: 8, attacks: [apgd]}]\n")
    with pytest.raises(RecipeError, match="eps is 8, but no pixel"):
        recipe(f"threat={preset}")
