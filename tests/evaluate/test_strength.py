"""The floor under the attacks: below it a rule on robustness cannot pass, and the text says what is lacking."""

import pytest

from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice, Evaluate
from robustdeploy.core.report import Measurement
from robustdeploy.core.shipped import shipped_names
from robustdeploy.evaluate.attack import Adversary, adversaries_from
from robustdeploy.evaluate.strength import strength_diagnostic
from robustdeploy.onboard.types import Threat
from robustdeploy.report.judge import judge

THREAT = Threat("linf", 8 / 255)


def choice(name, **options):
    return Choice(name=name, options=options)


STRONG = (
    choice("pgd", steps=20, restarts=4),
    choice("pgd", steps=20, loss="margin"),
    choice("square", queries=500),
)


def curve(*multiples, n=50):
    shares = [max(0.0, 0.9 - 0.4 * multiple) for multiple in multiples]
    return [
        Measurement(
            metric="robust_accuracy_at_eps",
            subject="pruned/fp32@quick",
            attack="pgd-10",
            kind="transfer",
            value=share,
            unit="fraction",
            n=n,
            low=max(0, share - 0.1),
            high=share + 0.1,
            conditions={"multiple": multiple},
        )
        for share, multiple in zip(shares, multiples, strict=True)
    ]


def found(*attacks, images=100, at=None, threat=THREAT):
    return strength_diagnostic(adversaries_from(attacks), threat, images, curve(1, 4) if at is None else at)


def test_what_reaches_the_floor_is_not_blamed():
    assert found(*STRONG).level == "ok"
    assert found(*STRONG, choice("fgsm"), choice("pgd", steps=3)).level == "ok"


@pytest.mark.parametrize("name", shipped_names("recipes"))
def test_the_shipped_recipes_are_above_it(name):
    recipe = load_recipe(name)
    at = curve(*recipe.evaluate.eps_curve, n=recipe.evaluate.curve_limit)
    images = recipe.evaluate.limit or 1000
    assert found(*recipe.evaluate.attacks, images=images, at=at, threat=recipe.threat).value == 0


@pytest.mark.parametrize(
    ("attacks", "lacking"),
    [
        ((choice("pgd", steps=1, restarts=20, alpha=1 / 255), STRONG[2]), "takes 20 steps that can cross the box"),
        ((choice("pgd", steps=15, alpha=1 / 255), STRONG[2]), "(pgd-15 takes 15)"),
        ((choice("pgd", steps=20, restarts=5, alpha=0.1), STRONG[2]), "one step of pgd-20-5 is 3.19 times eps"),
        ((choice("fgsm"), STRONG[2]), "no gradient attack takes 20 steps that can cross the box"),
        ((choice("pgd", steps=20, restarts=5), STRONG[2]), "climbs the margin (pgd with `loss: margin`)"),
        ((choice("pgd", steps=50, restarts=9, loss="margin"), STRONG[2]), "climbs the cross-entropy"),
        ((choice("pgd", steps=20), STRONG[1], STRONG[2]), "start 2 times in all (5 needed)"),
        (
            (*STRONG[:2], choice("square", queries=1)),
            "500 times per image, 1000 by labels alone (the most is 1)",
        ),
        ((*STRONG[:2], choice("rays", queries=999)), "500 times per image, 1000 by labels alone (the most is 999)"),
        (STRONG[:2], "no query attack may ask 500 times per image"),
        ((*STRONG[:2], choice("square", queries=900, p_init=0.001)), "begin with squares of less than 5% of the image"),
    ],
)
def test_each_shortfall_of_the_attacks_is_told(attacks, lacking):
    diagnostic = found(*attacks)
    assert diagnostic.level == "block"
    assert lacking in diagnostic.text


@pytest.mark.parametrize(
    "attacks",
    [
        (choice("autoattack", steps=20),),
        Evaluate().attacks,
        (choice("apgd", steps=20), choice("apgd", steps=20, loss="dlr", targets=4)),
        (choice("pgd", steps=20), choice("fab", steps=20, targets=4)),
    ],
)
def test_parts_targets_and_losses_of_other_names_count(attacks):
    assert found(*attacks, choice("square", queries=500)).level == "ok"


@pytest.mark.parametrize("name", ["rays", "hop-skip-jump", "simba", "nes"])
def test_every_query_attack_counts_that_may_ask_enough(name):
    assert found(*STRONG[:2], choice(name, queries=1000)).level == "ok"


def test_a_plug_in_may_call_anything_parts():
    class Odd:
        label, steps, parts = "odd", 20, 7

        def __call__(self, net, images, labels, threat, noise):
            return images

    odd = Adversary(choice("odd"), "transfer", "odd", gradient=Odd())
    assert "climbs the margin" in strength_diagnostic([odd], THREAT, 100, curve(1, 4)).text


def test_steps_must_cross_the_box():
    flat = choice("pgd", steps=20, restarts=5, alpha=2 / 255)
    wide = found(flat, threat=Threat("linf", 0.3)).text
    assert "all steps of pgd-20-5 together are 0.53 times eps, and 2 are needed" in wide
    assert "cross the box" not in found(flat, threat=THREAT).text
    # No step is smaller than a grey level, whatever the recipe says.
    assert found(choice("pgd", steps=20, alpha=1e-4, restarts=5), *STRONG[1:]).level == "ok"


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({"images": 64}, "only 64 test images were attacked (100 needed)"),
        ({"at": []}, "evaluate.eps_curve is empty"),
        ({"at": curve(0.25, 1)}, "no radius between 1.5 and 8 times eps"),
        ({"at": curve(1, 100)}, "no radius between 1.5 and 8 times eps"),
        ({"at": curve(1, 4, n=10)}, "rests on 10 images (50 needed)"),
    ],
)
def test_each_shortfall_of_the_images_is_told(given, lacking):
    diagnostic = found(*STRONG, **given)
    assert diagnostic.level == "block"
    assert diagnostic.value == 1
    assert lacking in diagnostic.text


def test_below_the_floor_a_rule_on_robustness_is_inconclusive_and_any_other_is_judged():
    weak = found(choice("pgd", steps=1, restarts=20, alpha=1 / 255), choice("square", queries=1), images=64, at=[])
    assert weak.value == 4
    share = {"subject": "pruned/fp32@quick", "unit": "fraction", "n": 64, "low": 0.6, "high": 0.8, "value": 0.7}
    rows = [
        Measurement(metric="robust_accuracy", attack="worst", kind="worst", **share),
        Measurement(metric="clean_accuracy", **share),
    ]
    rules = [
        Rule(id="T-ROB-01", metric="robust_accuracy", attack="worst", at_least=0.5),
        Rule(id="T-ACC-01", metric="clean_accuracy", at_least=0.5),
    ]
    verdict = judge(rows, [weak], rules)
    assert [line.outcome for line in verdict.rules] == [Outcome.INCONCLUSIVE, Outcome.PASS]
    assert "below the least strength" in verdict.rules[0].text
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert judge(rows, [weak], rules[1:]).outcome is Outcome.PASS
