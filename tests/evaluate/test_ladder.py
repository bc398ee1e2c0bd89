"""The ladder: which attack is stronger by its settings, and what is said where the weaker one breaks more."""

import numpy as np
import pytest

from robustdeploy.core.recipe import Choice
from robustdeploy.evaluate.attack import adversaries_from
from robustdeploy.evaluate.ladder import ladder_diagnostic
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes

N = 200
LABELS = np.zeros(N, np.int64)


def said(*attacks):
    """Diagnose attacks, each given as its options and the images that it breaks."""
    choices = tuple(Choice(**{"name": "pgd"} | options) for options, _ in attacks)
    adversaries = adversaries_from(choices)
    made = []
    broken_by = [each for choice, (_, each) in zip(choices, attacks, strict=True) for _ in adversaries_from((choice,))]
    for each, broken in zip(adversaries, broken_by, strict=True):
        predictions = LABELS.copy()
        predictions[list(broken)] = 1
        made.append(AttackOutcome(each.label, "transfer", np.zeros((N, 1, 1, 1), np.uint8), predictions, predictions))
    outcomes = Outcomes(np.arange(N), made[0].images, LABELS, LABELS, LABELS, tuple(made))
    return list(ladder_diagnostic(outcomes, adversaries))


def pgd(steps, restarts=1, loss="cross-entropy"):
    return {"options": {"steps": steps, "restarts": restarts, "loss": loss}}


@pytest.mark.parametrize(("more", "level"), [(0, "ok"), (4, "ok"), (10, "warn")])
def test_more_steps_and_starts_must_not_break_less(more, level):
    (found,) = said((pgd(10), range(40 + more)), (pgd(50, 10), range(40)))
    assert found.level == level
    assert found.text.startswith(f"pgd-10 broke {more} of 200 images that all attacks above it (pgd-50-10) left alone")


def test_an_ensemble_stands_above_all_of_no_more_steps():
    ensemble = {"name": "autoattack", "options": {"steps": 20}}
    (found,) = said((pgd(20), range(60)), (ensemble, range(40)))
    assert found.level == "warn"
    assert said((pgd(50), range(60)), (ensemble, range(40))) == []


def test_other_losses_and_steps_against_restarts_are_no_ladder():
    assert said((pgd(10), range(60)), (pgd(50, loss="margin"), range(40))) == []
    assert said((pgd(50), range(60)), (pgd(10, 10), range(40))) == []
