"""A substitute in an evaluation: labels alone are asked, each once; images stay in the box; all of it is resumed."""

import json

import numpy as np
import pytest

from robustdeploy.core.recipe import Choice
from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.attack import Bench, Images, adversaries_from
from robustdeploy.evaluate.box import violations
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.substitute import Victim, by_substitute
from robustdeploy.onboard.types import Threat

N = 150
THREAT = Threat(eps=0.2)
CHOICE = Choice(name="substitute", options={"seed_images": 30, "rounds": 4, "epochs": 20, "lr": 0.005})


@pytest.fixture
def test(host):
    images = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    return Images(np.arange(N), images, host.score(images).argmax(1))


class Asked:
    """Tells labels, and counts what it was asked."""

    def __init__(self, host, most=10**9):
        self.host, self.images, self.most = host, [], most

    def __call__(self, images):
        if len(self.images) == self.most:
            raise KeyboardInterrupt
        self.images.append(images)
        return self.host.score(images).argmax(1)


def attacked(test, host, folder, asked, choice=CHOICE, seed=0):
    parts = Parts(folder, "m" * 20, Ledger(folder / "ledger.jsonl"))
    seeds = np.random.default_rng(1).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    (adversary,) = adversaries_from((choice,))
    bench = Bench(test, THREAT, seed, parts, lambda *told: None)
    return by_substitute(adversary, bench, host, Victim(asked, seeds, 3, clean=test.labels))


def test_it_breaks_the_victim_through_its_labels_alone(test, host, tmp_path):
    asked = Asked(host)
    found = attacked(test, host, tmp_path, asked)
    assert violations(test.images, found.images, THREAT) == 0
    assert found.substituted.queries == sum(map(len, asked.images)) == 30 * 2**3
    assert found.substituted.seed_images == 30
    assert 0.7 < found.substituted.agreement <= 1
    np.testing.assert_array_equal(found.predictions, host.score(found.images).argmax(1))
    broken = (found.predictions != test.labels).mean()
    noise = np.random.default_rng(2).choice([-51, 51], test.images.shape)
    jogged = np.clip(test.images + noise, 0, 255).astype(np.uint8)
    assert broken > 2 * (host.score(jogged).argmax(1) != test.labels).mean()
    # None of the judged images was asked for.
    own = {image.tobytes() for image in test.images}
    assert not own & {image.tobytes() for images in asked.images for image in images}


def test_a_kill_at_any_answer_costs_that_answer_alone(test, host, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = attacked(test, host, tmp_path / "whole", Asked(host))
    for answers in range(4):
        folder = tmp_path / str(answers)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            attacked(test, host, folder, Asked(host, most=answers))
        again = Asked(host)
        resumed = attacked(test, host, folder, again)
        assert len(again.images) == 4 - answers
        np.testing.assert_array_equal(resumed.images, whole.images)
        assert resumed.substituted == whole.substituted


def test_another_seed_asks_for_other_images_and_is_not_mixed_with_this_one(test, host, tmp_path):
    attacked(test, host, tmp_path, Asked(host))
    with pytest.raises(ArtifactError, match="asks for other images than before"):
        attacked(test, host, tmp_path, Asked(host), seed=1)


WORDS = ["--set", "evaluate.attacks=[{name: pgd, steps: 2}, {name: substitute, seed_images: 16, rounds: 3, epochs: 2}]"]


@pytest.mark.slow
def test_the_board_is_asked_and_its_rows_say_so(desk, command):
    done = command(desk, "evaluate", "--target", "quick.yaml", "--limit", "40", *WORDS)
    assert done.code == 0, done.err
    (folder,) = desk.glob("runs/tiny/boards/pruned/fp32@quick@*")
    rows = json.loads((folder / "rows.json").read_text())["measurements"]
    board, torch_, dense = (
        next(
            row
            for row in rows
            if row["attack"] == "substitute-fgsm" and row["metric"] == "robust_accuracy" and row["subject"] == subject
        )
        for subject in ("pruned/fp32@quick", "pruned/fp32@torch", "dense/fp32@torch")
    )
    assert (board["kind"], torch_["kind"], dense["kind"]) == ("substitute", "replay", "substitute")
    for row in (board, dense):
        assert (row["conditions"]["queries"], row["conditions"]["seed_images"]) == (64, 16)
        assert 0 <= row["conditions"]["agreement"] <= 1
    spent = next(row for row in rows if row["metric"] == "attack_queries")
    assert (spent["attack"], spent["value"], spent["conditions"]["total"]) == ("substitute-fgsm", 64 / 40, 64)
    with np.load(folder / "outcomes.npz") as outcomes:
        moved = np.abs(outcomes["substitute-fgsm/images"].astype(int) - outcomes["images"])
    assert moved.max() > 0
    # What was sealed is used again, and nothing changes.
    again = command(desk, "evaluate", "--target", "quick.yaml", "--limit", "40", *WORDS)
    assert again.code == 0, again.err
