"""Distances as evidence: what a plug-in proposes is judged and measured here, and nothing that it missed is lost."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from robustdeploy.attacks.distance.deepfool import DeepFool
from robustdeploy.core.recipe import Choice, Evaluate, Recipe
from robustdeploy.core.subject import Subject
from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate import distances as module
from robustdeploy.evaluate.attack import Bench, Images
from robustdeploy.evaluate.distances import (
    Reach,
    arrays_of,
    distance_diagnostics,
    distance_rows,
    distances_from,
    find_distances,
    reach_of,
)
from robustdeploy.evaluate.parts import Parts
from robustdeploy.onboard.types import Threat

N = 150
TORCH = Subject("pruned", "fp32", "torch")
BOTH = (Choice(name="deepfool"), Choice(name="deepfool", options={"box": True, "limit": 40}))


@pytest.fixture
def test(host):
    """Images of which every third is labelled wrong."""
    images = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    labels = host.score(images).argmax(1)
    labels[::3] = (labels[::3] + 1) % 3
    return Images(np.arange(N), images, labels)


def bench(test, folder, seed=0):
    return Bench(
        test, Threat(eps=0.1), seed, Parts(folder, "m" * 20, Ledger(folder / "ledger.jsonl")), lambda *told: None
    )


def recipe(*choices):
    return Recipe(name="t", evaluate=Evaluate(distances=choices))


def exact(host, test):
    """The distance by formula of each image that is labelled right."""
    weights, scores = host.net[1].weight.detach().double().numpy(), host.score(test.images).astype(float)
    right = scores.argmax(1) == test.labels
    found = []
    for score, label in zip(scores[right], test.labels[right], strict=True):
        others = [k for k in range(3) if k != label]
        found.append(min((score[label] - score[k]) / np.linalg.norm(weights[label] - weights[k]) for k in others))
    return right, np.array(found)


def test_the_mean_is_over_images_labelled_right_and_the_others_are_counted(host, test, tmp_path):
    found = find_distances(bench(test, tmp_path), host, recipe(*BOTH))
    right, closed = exact(host, test)
    assert list(found) == ["deepfool", "deepfool-box"]
    np.testing.assert_allclose(found["deepfool"].found, closed, rtol=1e-3)
    rows = list(distance_rows(found, 0, TORCH))
    assert rows[0].value == pytest.approx(closed.mean(), rel=1e-3)
    assert (rows[0].n, rows[0].metric, rows[0].attack, rows[0].unit) == (right.sum(), "r2_deepfool", "deepfool", "l2")
    told = rows[0].conditions
    assert (told["images"], told["already_wrong"], told["not_found"], told["box"]) == (N, 50, 0, False)
    assert rows[0].low < rows[0].value < rows[0].high
    assert (rows[1].conditions["images"], rows[1].conditions["box"]) == (40, True)
    assert [each.level for each in distance_diagnostics(found, TORCH)] == ["ok", "ok"]


def test_a_stopped_search_goes_on_and_ends_in_the_same(host, test, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = find_distances(bench(test, tmp_path / "a"), host, recipe(*BOTH))
    asked, real = [], module._measured

    def stopping(*words):
        asked.append(words)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(module, "_measured", stopping)
    with pytest.raises(KeyboardInterrupt):
        find_distances(bench(test, tmp_path / "b"), host, recipe(*BOTH))
    again = find_distances(bench(test, tmp_path / "b"), host, recipe(*BOTH))
    # Three blocks and one; the first was sealed, and the one that was stopped is asked again.
    assert len(asked) == 1 + 1 + 2 + 1
    for label, reach in whole.items():
        for part in ("states", "values", "nearest"):
            np.testing.assert_array_equal(getattr(again[label], part), getattr(reach, part))


@dataclass(frozen=True)
class Proposing:
    """Proposes what it is told to, whatever the net says."""

    how: str
    box: bool = False
    limit: int = 100
    metric: ClassVar[str] = "r2"
    estimates: ClassVar[bool] = False
    label: ClassVar[str] = "proposing"

    def __call__(self, net, images, labels, noise):
        nearest = DeepFool()(net, images, labels, noise)
        return {
            "nothing": images,
            "the other way": images - (nearest - images),
            "nan": torch.full_like(images, torch.nan),
            "half": torch.where((torch.arange(len(images)) % 2 == 0)[:, None, None, None], nearest, images),
            "far": images + 100 * (nearest - images),
        }[self.how]


def proposed(host, test, tmp_path, monkeypatch, **options):
    monkeypatch.setattr(module, "distances_from", lambda choices: (Proposing(**options),))
    return find_distances(bench(test, tmp_path), host, recipe(Choice(name="proposing")))["proposing"]


@pytest.mark.parametrize("how", ["nothing", "the other way", "nan"])
def test_what_is_not_wrong_counts_as_not_found_and_blocks(how, host, test, tmp_path, monkeypatch):
    reach = proposed(host, test, tmp_path, monkeypatch, how=how)
    assert (reach.already_wrong, reach.not_found, len(reach.found)) == (34, 66, 0)
    (told,) = distance_diagnostics({"proposing": reach}, TORCH)
    assert (told.level, told.value, told.metrics) == ("block", 1.0, ("r2",))
    assert list(distance_rows({"proposing": reach}, 0, TORCH)) == []


def test_images_without_a_distance_are_told_beside_the_mean_of_the_others(host, test, tmp_path, monkeypatch):
    reach = proposed(host, test, tmp_path, monkeypatch, how="half")
    (row,) = distance_rows({"proposing": reach}, 0, TORCH)
    assert (row.n, row.conditions["not_found"], row.conditions["already_wrong"]) == (33, 33, 34)
    (told,) = distance_diagnostics({"proposing": reach}, TORCH)
    assert told.level == "block"
    assert "nothing was found for 33 of 66 images labelled right" in told.text


def test_a_box_is_kept_whatever_is_proposed_and_the_distance_is_that_of_the_image_kept(
    host, test, tmp_path, monkeypatch
):
    reach = proposed(host, test, tmp_path, monkeypatch, how="far", box=True)
    assert reach.nearest.min() == 0
    assert reach.nearest.max() == 1
    moved = reach.nearest - test.images[:100] / np.float32(255)
    np.testing.assert_allclose(np.linalg.norm(moved.reshape(100, -1), axis=1), reach.values, rtol=1e-5)


@pytest.mark.parametrize(("missed", "level"), [(0, "ok"), (1, "warn"), (5, "warn"), (6, "block")])
def test_up_to_one_in_twenty_may_be_missing(missed, level):
    states = np.array([1] * (100 - missed) + [2] * missed + [0] * 7, np.uint8)
    reach = Reach(Proposing("nothing"), Choice(name="x"), states, np.where(states == 1, 1.0, 0.0))
    (told,) = distance_diagnostics({"x": reach}, TORCH)
    assert told.level == level
    assert "7 of 107 images are labelled wrong" in told.text


def test_a_net_that_is_never_right_has_no_distance_and_says_so(host, test, tmp_path):
    wrong = replace(test, labels=(host.score(test.images).argmax(1) + 1) % 3)
    found = find_distances(bench(wrong, tmp_path), host, recipe(BOTH[0]))
    assert list(distance_rows(found, 0, TORCH)) == []
    (told,) = distance_diagnostics(found, TORCH)
    assert told.level == "warn"
    assert "labels no image right" in told.text


def test_stored_distances_are_those_of_their_images(host, test, tmp_path):
    found = find_distances(bench(test, tmp_path), host, recipe(BOTH[0]))
    (distance,) = distances_from(BOTH[:1])
    arrays = arrays_of(found)
    read = reach_of(BOTH[0], distance, arrays, test, tmp_path / "attacks.npz")
    np.testing.assert_array_equal(read.found, found["deepfool"].found)
    for name in ("values", "nearest"):
        edited = {key: value.copy() for key, value in arrays.items()}
        edited[f"distance-deepfool/{name}"][1] += 0.01
        with pytest.raises(ArtifactError, match="are not of its images"):
            reach_of(BOTH[0], distance, edited, test, tmp_path / "attacks.npz")


def test_one_name_may_stand_for_one_setting_only():
    with pytest.raises(UsageError, match=r"evaluate\.distances holds 'deepfool' twice"):
        distances_from((Choice(name="deepfool"), Choice(name="deepfool", options={"steps": 3})))
