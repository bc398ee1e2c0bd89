"""What the page draws of an evaluation's answers: class by class, and the images that are shown."""

import dataclasses

import numpy as np
import pytest

from robustdeploy.evaluate.answers import answers_of, dense_answers
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes, scores_told
from robustdeploy.evaluate.samples import SAMPLES, samples_of
from robustdeploy.onboard.types import Threat

CLASSES = ("0", "1", "2")
LABELS = np.array([0, 0, 1, 1, 2, 2])
CLEAN = np.array([0, 0, 1, 2, 2, 2])


def attack(label, answers, change):
    answers = np.asarray(answers, np.int64)
    return AttackOutcome(label, "transfer", np.full((6, 1, 4, 4), 100 + change, np.uint8), answers, answers)


def outcomes(**changes):
    made = Outcomes(
        np.arange(6),
        np.full((6, 1, 4, 4), 100, np.uint8),
        LABELS,
        board_clean=CLEAN,
        host_clean=CLEAN,
        attacks=(attack("weak", [0, 2, 1, 1, 2, 2], 3), attack("strong", [1, 1, 1, 1, 2, 0], 5)),
        dense_clean=LABELS,
        dense_attacks=(attack("weak", [0, 0, 1, 1, 2, 1], 3),),
    )
    return dataclasses.replace(made, **changes)


def test_an_image_that_fell_has_the_answer_of_the_first_attack_that_broke_it():
    made = outcomes()
    found = answers_of(made, CLASSES)
    assert found.clean == ((0, 0, 2), (1, 1, 1), (1, 2, 1), (2, 2, 2))
    # Image 3 was wrong already, and the attacks that mend it change nothing.
    assert found.worst == ((0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 2, 1), (2, 0, 1), (2, 2, 1))
    assert sum(n for truth, answer, n in found.worst if truth == answer) == made.worst("board").sum()
    dense = dense_answers(made, CLASSES)
    assert sum(n for truth, answer, n in dense.worst if truth == answer) == made.dense_worst.sum() == 5
    assert dense_answers(outcomes(dense_clean=None), CLASSES) is None


def test_samples_say_why_they_were_chosen_and_no_image_comes_twice():
    found = list(samples_of(outcomes(), Threat(eps=8 / 255), CLASSES))
    assert [(each.label, each.attack, each.why) for each in found] == [
        ("0", "strong", "the dense net stands under every attack, this one falls"),
        ("0", "weak", "the dense net stands under every attack, this one falls"),
        ("2", "strong", "among the smallest changes that fool it"),
        ("1", "strong", "no attack broke an image of class 1; this is the first one"),
    ]
    assert found[1].change == pytest.approx(3 * 4 / 255)


def test_samples_have_the_scores_of_the_answer_and_of_the_true_class():
    scores = np.arange(18, dtype=np.float32).reshape(6, 3)
    told = scores_told(scores, LABELS)
    assert told.tolist() == [[2, 0], [5, 3], [8, 7], [11, 10], [14, 14], [17, 17]]
    made = outcomes(scores=told)
    made = dataclasses.replace(made, attacks=(dataclasses.replace(made.attacks[0], scores=told + 1), made.attacks[1]))
    found = list(samples_of(made, Threat(), CLASSES))
    assert {each.clean_scores for each in found} <= {tuple(each) for each in told.tolist()}
    assert {each.adversarial_scores for each in found if each.attack == "strong"} == {None}
    assert [each.adversarial_scores for each in found if each.attack == "weak"] == [(6.0, 4.0)]


def test_samples_are_few_and_small_enough_for_one_page():
    many = np.repeat(np.arange(40), 2)
    rng = np.random.default_rng(0)
    for side, most in ((2, SAMPLES), (160, 4)):
        images = rng.integers(0, 255, (80, 3, side, side)).astype(np.uint8)
        fooled = AttackOutcome("weak", "transfer", images, (many + 1) % 40, (many + 1) % 40)
        made = Outcomes(np.arange(80), images, many, many, many, (fooled,))
        found = list(samples_of(made, Threat(), tuple(map(str, range(40)))))
        assert 1 <= len(found) <= most
        assert sum(len(each.clean_png + each.adversarial_png + each.difference_png) for each in found) < 600_000


def test_nothing_is_shown_where_nothing_was_attacked():
    assert list(samples_of(outcomes(attacks=()), Threat(), CLASSES)) == []
