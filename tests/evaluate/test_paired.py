"""Two evaluations of the same images, paired: what one build lost that the other had."""

import numpy as np
import pytest

from robustdeploy.core.report import Measurement
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.paired import JudgedUnder, judged_in, paired_changes

N = 200
PGD = JudgedUnder({"pgd-10": ["pgd-10"]}, {}, {})


def outcomes(folder, clean_wrong=(), pgd_wrong=(), seed=0, attacks=("pgd-10",)):
    """Write the outcomes of an evaluation at which these images are labelled wrong."""
    images = np.random.default_rng(seed).integers(0, 256, (N, 1, 2, 2), np.uint8)
    labels = np.arange(N) % 10

    def labelled(wrong):
        given = labels.copy()
        given[list(wrong)] += 1
        return given

    attacked = tuple(AttackOutcome(name, "transfer", images, labelled(pgd_wrong), labels) for name in attacks)
    folder.mkdir()
    clean = labelled(clean_wrong)
    Outcomes(np.arange(N), images, labels, clean, clean, attacked).save(folder / "outcomes.npz")
    return folder


def test_a_build_that_loses_a_few_images_and_gains_none_is_told(tmp_path):
    before = outcomes(tmp_path / "a", pgd_wrong=range(60))
    after = outcomes(tmp_path / "b", pgd_wrong=range(72))
    clean, pgd, worst = paired_changes(before, after, PGD)
    assert (clean.lost, clean.gained, clean.p) == (0, 0, 1.0)
    assert clean.text.startswith("no change shown: +0.0 points")
    for change in (pgd, worst):
        assert (change.lost, change.gained, change.n) == (12, 0, N)
        assert change.difference == pytest.approx(-0.06)
        assert change.low < -0.06 < change.high < 0
        assert change.text.startswith("lower: -6.0 points")
    back = {change.attack: change for change in paired_changes(after, before, PGD)}
    assert back["pgd-10"].text.startswith("higher: +6.0 points")


def test_as_many_gained_as_lost_is_no_change(tmp_path):
    before = outcomes(tmp_path / "a", pgd_wrong=range(60))
    after = outcomes(tmp_path / "b", pgd_wrong=range(20, 80))
    _, pgd, _ = paired_changes(before, after, PGD)
    assert (pgd.lost, pgd.gained) == (20, 20)
    assert pgd.text.startswith("no change shown")


def test_an_image_that_is_wrong_as_it_is_stands_under_no_attack(tmp_path):
    before = outcomes(tmp_path / "a")
    after = outcomes(tmp_path / "b", clean_wrong=range(30))
    assert [change.lost for change in paired_changes(before, after, PGD)] == [30, 30, 30]


def test_other_images_are_not_paired(tmp_path):
    before = outcomes(tmp_path / "a")
    told = paired_changes(before, outcomes(tmp_path / "c", seed=1), PGD)
    assert told == "not paired: they are not of the same test images"
    with pytest.raises(ArtifactError, match=r"outcomes\.npz is missing; evaluate again"):
        paired_changes(before, tmp_path / "d", PGD)


def test_a_part_of_an_ensemble_counts_what_those_before_it_broke(tmp_path):
    before, after = outcomes(tmp_path / "a", attacks=("one", "two")), outcomes(tmp_path / "b", attacks=("one", "two"))
    labels = np.arange(N) % 10
    held = dict(np.load(after / "outcomes.npz"))
    held["one/predictions"] = np.where(np.arange(N) < 7, labels + 1, labels)
    np.savez(after / "outcomes.npz", **held)
    changes = paired_changes(before, after, JudgedUnder({"one": ["one"], "two": ["one", "two"]}, {}, {}))
    assert [(change.attack, change.lost) for change in changes] == [("clean", 0), ("one", 7), ("two", 7), ("worst", 7)]


def test_patches_are_paired_where_both_sides_ran_them_alike(tmp_path):
    before, after = outcomes(tmp_path / "a", clean_wrong=[0]), outcomes(tmp_path / "b")
    labels = np.arange(N) % 10
    for folder, broken in ((before, 10), (after, 50)):
        held = dict(np.load(folder / "outcomes.npz"))
        held["patch-4/predictions"] = np.where(np.arange(N) < broken, labels + 1, labels)
        np.savez(folder / "outcomes.npz", **held)

    def judged(side, **conditions):
        row = {
            "metric": "patch_accuracy",
            "subject": "a/fp32@b",
            "attack": "patch-4",
            "value": 0.5,
            "unit": "1",
            "n": N,
        }
        told = {"side": side, "judged_in_batches_of": 1, **conditions}
        return judged_in([Measurement(**row, conditions=told)], "a/fp32@b")

    under = judged(4).shared_with(judged(4, judged_in_batches_of=8))
    clean, worst, patch = paired_changes(before, after, under)
    assert (clean.gained, worst.gained) == (1, 1)
    assert (patch.attack, patch.family, patch.lost, patch.gained) == ("patch-4", "patch", 40, 0)
    assert patch.shown
    assert judged(4).shared_with(judged(5)).patches == {}
