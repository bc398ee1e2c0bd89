"""Patches judged: confined to their square, held against noise, read again, refused where they were edited; a run."""

from pathlib import Path

import numpy as np
import pytest

from robustdeploy.core.patches import listed_patches
from robustdeploy.core.recipe import Choice, Evaluate, Recipe
from robustdeploy.core.subject import subject_from
from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.attack import Bench, Images
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.patches import (
    UnderPatches,
    beside_the_square,
    confined,
    find_patches,
    patch_arrays,
    patch_in,
    patches_asked,
)
from robustdeploy.onboard.types import Threat

BOARD, TORCH = subject_from("pruned/fp32@host-cpu"), subject_from("pruned/fp32@torch")
N = 140
ASKED = (
    Choice(name="patch", options={"pixels": 2, "steps": 4}),
    Choice(name="universal-patch", options={"pixels": 2, "steps": 3}),
)
RECIPE = Recipe(name="r", evaluate=Evaluate(patches=ASKED))


@pytest.fixture
def test(host):
    images = np.random.default_rng(0).integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
    return Images(np.arange(N), images, host.score(images).argmax(1))


def bench(test, folder):
    parts = Parts(folder, "m" * 20, Ledger(folder / "ledger.jsonl"))
    return Bench(test, Threat(eps=0.1), 0, parts, lambda *told: None)


def test_what_an_attack_changes_beside_its_square_is_undone():
    clean = np.zeros((2, 3, 5, 5), np.uint8)
    proposed, places = np.full_like(clean, 9), np.array([[0, 3], [2, 1]])
    found = confined(clean, proposed, places, 2)
    assert (found[0, :, 0:2, 3:5] == 9).all()
    assert (found[1, :, 2:4, 1:3] == 9).all()
    assert int((found != clean).sum()) == 2 * 3 * 4
    assert beside_the_square(clean, found, places, 2) == 0
    found[1, 0, 0, 0] = 1
    assert beside_the_square(clean, found, places, 2) == 1
    with pytest.raises(ArtifactError, match="a place outside of its image"):
        confined(clean, proposed, np.array([[0, 4], [0, 0]]), 2)


def test_what_a_kill_left_is_used_again_and_edits_are_refused(host, test, tmp_path, monkeypatch):
    taught = np.random.default_rng(1).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)

    def held_out():
        return taught, host.score(taught).argmax(1)

    whole = find_patches(bench(test, tmp_path), host, RECIPE, held_out)
    assert list(whole) == ["random-patch-2px", "patch-2px-4", "universal-patch-2px"]
    with monkeypatch.context() as patched:
        patched.setattr(HostNet, "patched", None)  # would fail if it were called
        patched.setattr(HostNet, "learnt", None)
        again = find_patches(bench(test, tmp_path), host, RECIPE, held_out)
    arrays, path = patch_arrays(again), Path("attacks.npz")
    for asked in patches_asked(RECIPE, (1, 4, 4)):
        read = patch_in(arrays, asked, test, path)
        np.testing.assert_array_equal(read.images, whole[asked.label].images)
        edited = read.images.copy()
        edited[3] ^= 1
        with pytest.raises(ArtifactError, match=r"1 images of '.*' differ outside of their patch, so it was edited"):
            patch_in({**arrays, f"{asked.label}/images": edited}, asked, test, path)


def under(noise, attack):
    labels = np.zeros(200, np.int64)
    recipe = Recipe(name="r", evaluate=Evaluate(patches=(Choice(name="patch"),)))
    said = {
        label: (np.arange(200) >= kept).astype(int)
        for label, kept in (("random-patch-5pct", noise), ("patch-5pct", attack))
    }
    clean = (np.arange(200) >= 190).astype(int)
    asked = patches_asked(recipe, (3, 32, 32))
    return UnderPatches(labels, asked, 1, {BOARD: clean, TORCH: clean}, {BOARD: said, TORCH: said})


def test_rows_count_what_is_right_as_it_is_and_with_the_patch():
    rows = {(row.subject, row.attack): row for row in under(180, 40).rows(BOARD, TORCH)}
    row = rows[str(BOARD), "patch-5pct"]
    assert (row.value, row.n, row.kind, row.metric) == (0.2, 200, "transfer", "patch_accuracy")
    assert row.conditions["side"] == 7
    assert row.conditions["judged_in_batches_of"] == 1
    assert rows[str(TORCH), "random-patch-5pct"].kind is None
    # A patch that mends a wrong image does not raise the accuracy.
    assert {r.value for r in under(200, 200).rows(BOARD, TORCH)} == {0.95}


@pytest.mark.parametrize(("noise", "attack", "level"), [(180, 40, "ok"), (150, 153, "ok"), (100, 150, "block")])
def test_an_attack_that_breaks_less_than_noise_is_told(noise, attack, level):
    (found,) = under(noise, attack).diagnostic(BOARD)
    assert found.level == level
    assert ("patch-5pct does: the attack does not work" in found.text) == (level == "block")


def test_without_patches_nothing_is_told(host, test, tmp_path):
    none = UnderPatches(test.labels, (), 1, {BOARD: test.labels}, {BOARD: {}})
    assert list(none.rows(BOARD, TORCH)) == []
    assert list(none.diagnostic(BOARD)) == []


def test_each_size_has_its_noise_once_and_one_label_is_one_attack():
    several = (
        Choice(name="patch"),
        Choice(name="patch", options={"steps": 9}),
        Choice(name="patch", options={"pixels": 3}),
    )
    labels = [label for label, _ in listed_patches(several)]
    assert labels == ["random-patch-5pct", "patch-5pct", "patch-5pct-9", "random-patch-3px", "patch-3px"]
    with pytest.raises(UsageError, match="holds 'patch-5pct' twice"):
        listed_patches((Choice(name="patch"), Choice(name="patch", options={"tries": 3})))


@pytest.mark.slow
def test_a_run_is_judged_with_patches_where_it_runs(desk, command):
    asked = "evaluate.patches=[{name: patch, pixels: 3, steps: 6}, {name: universal-patch, pixels: 3, steps: 5}]"
    words = ("evaluate", "runs/tiny", "--target", "quick.yaml", "--attacks", "fgsm", "--limit", "40", "--set", asked)
    done = command(desk, *words, "--set", "evaluate.eps_curve=[]", "--json")
    assert done.code == 0, done.err
    rows = {(r["attack"], r["subject"]): r for r in done.document["measurements"] if r["metric"] == "patch_accuracy"}
    assert {attack for attack, _ in rows} == {"random-patch-3px", "patch-3px-6", "universal-patch-3px"}
    assert {subject for _, subject in rows} == {"pruned/fp32@quick", "pruned/fp32@torch", "dense/fp32@torch"}
    folder = desk / done.document["folder"]
    arrays = np.load(folder / "outcomes.npz")
    right = (arrays["predictions"] == arrays["labels"]) & (arrays["patch-3px-6/predictions"] == arrays["labels"])
    assert rows["patch-3px-6", "pruned/fp32@quick"]["value"] == right.mean()
    for prefix in ("", "dense/"):
        images, places = (arrays[f"{prefix}patch-3px-6/{part}"] for part in ("images", "places"))
        assert beside_the_square(arrays["images"], images, places, 3) == 0
        assert (images != arrays["images"]).any()
    worst = [r for r in done.document["measurements"] if r["metric"] == "robust_accuracy" and r["attack"] == "worst"]
    assert all(row["conditions"]["attacks"] == ["fgsm"] for row in worst)
    name = folder.name.partition("@")[2]
    assert command(desk, "report", "runs/tiny", "--target", name).code == 0
    assert "## Accuracy under patches" in (desk / "runs/tiny" / f"report-{name}.md").read_text()
    assert command(desk, "verify", "runs/tiny").code == 0


def test_a_plan_says_what_patches_take_of_a_net(command, tmp_path):
    words = ["plan", "--set", "evaluate.patches=[patch, {name: universal-patch, steps: 5, batch: 8}]"]
    said = command(tmp_path, *words).out
    assert "for patches each test image goes 133 times through each net in torch at most, and 40 passes teach" in said
    found = command(tmp_path, *words, "--json").document
    assert (found["patch_passes"], found["patch_learning_passes"]) == (133, 40)
    assert "for patches" not in command(tmp_path, "plan").out
