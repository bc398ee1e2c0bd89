"""Each diagnostic on outcomes made up for it: it stays quiet where all is well and speaks where it must."""

from dataclasses import replace

import numpy as np
import pytest

from robustdeploy.core.subject import subject_from
from robustdeploy.evaluate.diagnostics import HostFindings, diagnose, scores_respond
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.paths import Paths
from robustdeploy.evaluate.rows import share_row
from robustdeploy.onboard.types import Threat

SUBJECT = subject_from("pruned/fp32@host-cpu")

N, CLASSES = 200, 10
THREAT = Threat("linf", 8 / 255)
LABELS = np.arange(N) % CLASSES
IMAGES = np.full((N, 1, 4, 4), 100, np.uint8)
SCORES = np.eye(CLASSES, dtype=np.float32)[LABELS] * 7 - 2


def broken(*indices):
    """Predictions that are wrong at these images."""
    predictions = LABELS.copy()
    found = np.concatenate([np.atleast_1d(i) for i in indices]).astype(int) if indices else np.array([], int)
    predictions[found] = (predictions[found] + 1) % CLASSES
    return predictions


def attack(label, board, kind="transfer", host=None, images=IMAGES):
    return AttackOutcome(label, kind, images, board, board if host is None else host)


def outcomes(*attacks, **more):
    usual = (
        attack("fgsm", broken(range(60))),
        attack("pgd-10", broken(range(80))),
        attack("square-100", broken(range(70)), "query"),
    )
    values = {"board_clean": LABELS.copy(), "host_clean": LABELS.copy(), "attacks": attacks or usual} | more
    return Outcomes(np.arange(N), IMAGES, LABELS, **values)


def curve(*shares, n=100):
    made = []
    for number, share in enumerate(shares):
        bits = np.arange(n) < share * n
        made.append(share_row("robust_accuracy_at_eps", SUBJECT, bits, {"eps": 0.01 * (number + 1)}))
    return made


SOUND, FALLING = HostFindings(0, 0, N), curve(0.9, 0.5, 0.0)


def levels(made, gradients=SOUND, scores=SCORES, at=FALLING):
    return {d.id: d.level for d in diagnose(made, THREAT, scores, gradients, at, CLASSES)}


def test_a_sound_evaluation_is_not_blamed():
    assert set(levels(outcomes()).values()) == {"ok"}


def test_every_diagnostic_says_what_it_found_in_one_line():
    found = list(diagnose(outcomes(), THREAT, SCORES, HostFindings(0, 0, N), curve(0.5, 0.0), CLASSES))
    assert len({d.id for d in found}) == len(found) == 15
    assert all(d.text and "\n" not in d.text for d in found)


@pytest.mark.parametrize(("queries", "level"), [(0, "ok"), (1, "ok"), (10, "block"), (100, "block")])
def test_query_beats_transfer(queries, level):
    made = outcomes(
        attack("fgsm", broken(range(20))),
        attack("pgd-10", broken(range(40))),
        attack("square-100", broken(range(40), range(60, 60 + queries)), "query"),
    )
    assert levels(made)["query-beats-transfer"] == level


def test_query_beats_transfer_compares_image_by_image():
    """Equal accuracies hide it: the query attack breaks other images than the transfer attack."""
    made = outcomes(
        attack("fgsm", broken(range(10))),
        attack("pgd-10", broken(range(50))),
        attack("square-100", broken(range(50, 100)), "query"),
    )
    assert levels(made)["query-beats-transfer"] == "block"


@pytest.mark.parametrize("kind", ["transfer", "query"])
def test_an_evaluation_that_lacks_a_kind_of_attack_is_blocked(kind):
    assert levels(outcomes(attack("pgd-10", broken(range(9)), kind)))["query-beats-transfer"] == "block"


@pytest.mark.parametrize(("count", "level"), [(0, "ok"), (2, "ok"), (3, "warn"), (20, "warn"), (21, "block")])
def test_gradients_that_are_not_there(count, level):
    assert levels(outcomes(), HostFindings(count, 0, N))["zero-gradient"] == level
    assert levels(outcomes(), HostFindings(count, 0, N))["lost-gradient"] == "ok"
    assert levels(outcomes(), HostFindings(0, count, N))["lost-gradient"] == level
    assert levels(outcomes(), HostFindings(0, 0, N, wild=count))["finite-gradient"] == level


def bits(count, first=0):
    found = np.zeros(N, np.bool_)
    found[first : first + count] = True
    return found


@pytest.mark.parametrize(("count", "level"), [(0, "ok"), (5, "ok"), (9, "warn"), (20, "warn"), (40, "block")])
def test_a_loss_that_does_not_rise(count, level):
    findings = HostFindings(0, 0, N, paths=Paths(bits(count), bits(0)))
    assert levels(outcomes(), findings)["loss-rises"] == level


@pytest.mark.parametrize(("first", "count", "level"), [(0, 80, "ok"), (80, 2, "ok"), (80, 4, "block")])
def test_images_that_fall_on_the_way_and_to_no_attack(first, count, level):
    """What the attacks break too says something of FGSM alone: the first 80 fall to PGD."""
    findings = HostFindings(0, 0, N, paths=Paths(bits(0), bits(count, first)))
    found = {d.id: d for d in diagnose(outcomes(), THREAT, SCORES, findings, FALLING, CLASSES)}["interior-points"]
    assert found.level == level
    assert ("sign of catastrophic overfitting" in found.text) == (count == 80)


@pytest.mark.parametrize(("first", "count", "level"), [(0, 80, "ok"), (80, 5, "ok"), (80, 10, "warn")])
def test_images_that_fall_between_grey_levels_alone(first, count, level):
    made = outcomes(
        attack("fgsm", broken(range(60))),
        replace(attack("pgd-10", broken(range(80))), lost=bits(count, first)),
        attack("square-100", broken(range(70)), "query"),
    )
    assert levels(made)["lost-to-rounding"] == level


def test_an_iterative_attack_that_is_weaker_than_one_step():
    made = outcomes(
        attack("fgsm", broken(range(60))),
        attack("pgd-10", broken(range(40))),
        attack("square-100", broken(range(40)), "query"),
    )
    assert levels(made)["iterative-beats-single-step"] == "block"
    without = outcomes(attack("pgd-10", broken(range(40))), attack("s", broken(range(40)), "query"))
    assert levels(without)["iterative-beats-single-step"] == "warn"


def test_a_board_that_is_more_robust_than_the_net():
    made = outcomes(
        attack("fgsm", broken(range(10)), host=broken(range(10))),
        attack("pgd-10", broken(range(20)), host=broken(range(60))),
        attack("square-100", broken(range(20)), "query"),
    )
    assert levels(made)["suspicious-gain"] == "block"


@pytest.mark.parametrize(("apart", "level"), [(0, "ok"), (2, "ok"), (3, "block")])
def test_board_and_host_must_agree_on_clean_images(apart, level):
    assert levels(outcomes(board_clean=broken(range(apart))))["host-board-agreement"] == level


def test_labels_that_change_with_the_batch_size():
    assert levels(outcomes(moved=1))["repeatable"] == "block"
    moved = replace(attack("fgsm", broken(range(60))), moved=1)
    assert levels(outcomes(moved, attack("s", broken(range(60)), "query")))["repeatable"] == "block"
    assert levels(outcomes())["repeatable"] == "ok"


def test_a_net_that_torch_finds_unsteady_is_named_though_no_label_changed():
    unsteady = HostFindings(0, 0, N, unsteady="the scores depend on the images beside it; the cause is body.1.")
    found = {d.id: d for d in diagnose(outcomes(), THREAT, SCORES, unsteady, FALLING, CLASSES)}["repeatable"]
    assert found.level == "block"
    assert found.text.endswith("of the exported net, torch says: " + unsteady.unsteady)
    assert found.text.startswith("images were judged one at a time; 0 labels changed")


@pytest.mark.parametrize("field", ["attacks", "dense_attacks"])
def test_one_pixel_outside_the_box_blocks(field):
    images = IMAGES.copy()
    images[7, 0, 2, 2] += THREAT.levels
    made = attack("pgd-10", broken(range(80)), images=images)
    assert levels(outcomes(**{field: (made,)}))["inside-box"] == "ok"
    images[7, 0, 2, 2] += 1
    assert levels(outcomes(**{field: (made,)}))["inside-box"] == "block"


def test_probabilities_instead_of_scores_are_a_warning():
    probabilities = np.full((N, CLASSES), 1 / CLASSES, np.float32)
    assert levels(outcomes(), scores=probabilities)["raw-scores"] == "warn"


@pytest.mark.parametrize(
    ("shares", "level"),
    [((0.9, 0.5, 0.0), "ok"), ((0.9, 0.5, 0.1), "ok"), ((0.9, 0.5, 0.4), "block"), ((0.3, 0.9, 0.0), "block")],
)
def test_robustness_falls_with_eps_to_nothing(shares, level):
    assert levels(outcomes(), at=curve(*shares))["falls-with-eps"] == level


def test_without_a_curve_nothing_is_said_of_it():
    assert "falls-with-eps" not in levels(outcomes(), at=[])


@pytest.mark.parametrize(
    ("unmoved", "by_labels", "level", "words"),
    [
        (1, False, "ok", "can climb them"),
        (100, False, "block", "add one that reads labels alone (rays)"),
        (100, True, "warn", "one attacked that reads labels alone"),
    ],
)
def test_scores_that_tell_nothing_block_unless_an_attack_needed_none(unmoved, by_labels, level, words):
    found = scores_respond(unmoved, 256, by_labels)
    assert found.level == level
    assert words in found.text
