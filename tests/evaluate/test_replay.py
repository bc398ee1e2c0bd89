"""Images of earlier runs, collected from the command line and tried again in torch and on the board."""

import json
import shutil

import numpy as np
import pytest
import torch

from robustdeploy.attacks.replay import Replay
from robustdeploy.data.noise import Noise
from robustdeploy.data.replay_set import Origin, ReplaySet, hashes, read_replay_set, write_replay_set
from robustdeploy.onboard.types import Threat

THREAT = Threat(eps=10 / 255)
WORDS = ("runs/tiny", "--target", "quick.yaml", "--limit", "40", "--attacks", "fgsm", "--set", "evaluate.eps_curve=[]")


def test_of_several_replays_the_worst_one_of_each_image_is_kept(host, tmp_path):
    rng = np.random.default_rng(0)
    clean = rng.integers(20, 230, (5, 1, 4, 4)).astype(np.uint8)
    labels = host.score(clean).argmax(1)
    at = np.repeat(np.arange(4), 3)
    tried = (clean[at] + rng.integers(-10, 11, (12, 1, 4, 4))).astype(np.uint8)
    origin = Origin(run="r", subject="pruned/fp32@host-cpu", attack="fgsm", eps=0.1)
    held = (tried, labels[at], hashes(clean[at]), at, np.zeros(12, np.int64))
    write_replay_set(tmp_path / "set", ReplaySet((1, 4, 4), ("a", "b", "c"), (origin,), *held))
    replay = Replay(tmp_path / "set")
    pixels = torch.from_numpy(clean).float() / 255
    found = replay(host.net, pixels, torch.from_numpy(labels), THREAT, Noise(0, torch.arange(5)))
    stored = host.rounded(found.numpy())
    margins = (
        host.score(tried)[np.arange(12), labels[at]]
        - np.sort(np.where(np.arange(3) == labels[at][:, None], -np.inf, host.score(tried)), 1)[:, -1]
    )
    worst = margins.reshape(4, 3).argmin(1)
    for image in range(4):
        np.testing.assert_array_equal(stored[image], tried[3 * image + worst[image]])
    # The one that has none stays as it is.
    np.testing.assert_array_equal(stored[4], clean[4])
    # A set that was written since is read anew.
    digest = replay.conditions["source_sha256"]
    write_replay_set(
        tmp_path / "set",
        read_replay_set(tmp_path / "set").added(
            [
                ReplaySet(
                    (1, 4, 4),
                    ("a", "b", "c"),
                    (origin,),
                    clean[4:] + 3,
                    labels[4:],
                    hashes(clean[4:]),
                    at[:1],
                    at[:1] * 0,
                )
            ]
        ),
    )
    assert replay.conditions["source_sha256"] != digest


@pytest.fixture(scope="module")
def desk_with_set(chain, tmp_path_factory, command):
    desk = tmp_path_factory.mktemp("replay") / "desk"
    shutil.copytree(chain, desk, symlinks=True)
    done = command(desk, "collect", "--into", "corpus", "--json")
    assert done.code == 0, done.err
    return desk, done.document


@pytest.mark.slow
def test_collecting_takes_what_fell_and_may_be_repeated(desk_with_set, command):
    desk, told = desk_with_set
    held = read_replay_set(desk / "corpus")
    assert told["images"] == told["added"] == len(held.images) > 0
    with np.load(desk / "runs/tiny/boards/pruned/fp32@quick/outcomes.npz") as outcomes:
        right = outcomes["predictions"] == outcomes["labels"]
        fell = right & (outcomes["pgd-5/predictions"] != outcomes["labels"])
        stored = {image.tobytes() for image in held.images}
        assert {image.tobytes() for image in outcomes["pgd-5/images"][fell]} <= stored
        assert not {image.tobytes() for image in outcomes["images"]} & stored
    assert {origin.subject for origin in held.origins} == {"pruned/fp32@quick", "dense/fp32@torch"}
    before = {path.name: path.read_bytes() for path in (desk / "corpus").iterdir()}
    again = command(desk, "collect", "tiny", "runs/tiny", "--into", "corpus", "--json")
    assert (again.document["added"], again.document["images"]) == (0, told["images"])
    assert {path.name: path.read_bytes() for path in (desk / "corpus").iterdir()} == before


@pytest.mark.slow
def test_replays_have_rows_of_their_own_and_count_in_the_worst_case(desk_with_set, command):
    desk, told = desk_with_set
    done = command(desk, "evaluate", *WORDS, "--replay", "corpus", "--json")
    assert done.code == 0, done.err
    rows = {(row["metric"], row["subject"], row["attack"]): row for row in done.document["measurements"]}
    (folder,) = (desk / "runs/tiny/boards/pruned").glob("fp32@quick@*")
    with np.load(folder / "outcomes.npz") as held:
        labels, clean = held["labels"], held["predictions"] == held["labels"]
        right = clean & (held["replay/predictions"] == labels)
        worst = right & (held["fgsm/predictions"] == labels)
        theirs = (held["host/predictions"] == labels) & (held["replay/host_predictions"] == labels)
        has = np.isin(hashes(held["images"]), read_replay_set(desk / "corpus").clean).all(1)
        moved = np.abs(held["replay/images"].astype(int) - held["images"])
        assert moved.max() <= 25
    board, host = "pruned/fp32@quick", "pruned/fp32@torch"
    row = rows["robust_accuracy", board, "replay"]
    assert (row["kind"], row["value"], row["n"]) == ("replay", right.mean(), 40)
    assert rows["robust_accuracy", board, "worst"]["value"] == worst.mean()
    assert rows["robust_accuracy", host, "replay"]["value"] == theirs.mean()
    told_of = row["conditions"]
    assert told_of["replays"] + told_of["left_out_of_other_images"] == told["images"]
    assert told_of["left_out_outside_the_box"] == 0
    alone = rows["replayed_accuracy", board, "replay"]
    assert 0 < alone["n"] < 40
    assert alone["n"] * alone["value"] == pytest.approx(right.sum() - (40 - alone["n"]) + (~clean & ~has).sum(), abs=3)
    assert ("replayed_accuracy", "dense/fp32@torch", "replay") in rows
    # No gradient was followed, so it is none of what a verdict on robustness needs.
    assert ("top1_agreement", board, "replay") not in rows


@pytest.mark.slow
def test_a_larger_eps_is_left_out_and_what_is_not_of_this_data_is_refused(desk_with_set, command):
    desk, _ = desk_with_set
    held = read_replay_set(desk / "corpus")
    wide = np.clip(held.images.astype(int) + 60, 0, 255).astype(np.uint8)
    write_replay_set(desk / "wide", ReplaySet(**{**vars(held), "images": wide}))
    done = command(desk, "evaluate", *WORDS, "--replay", "wide", "--json")
    assert done.code == 0, done.err
    rows = [row for row in done.document["measurements"] if row["attack"] == "replay"]
    assert {row["metric"] for row in rows} == {"robust_accuracy"}
    assert rows[0]["conditions"]["replays"] == 0
    assert rows[0]["conditions"]["left_out_outside_the_box"] > 0
    other = ReplaySet(**{**vars(held), "classes": tuple("abcdefghij")})
    write_replay_set(desk / "other", other)
    small = ReplaySet(**{**vars(held), "image_shape": (1, 4, 4), "images": held.images[:, :, :4, :4].copy()})
    write_replay_set(desk / "small", small)
    (desk / "corpus.txt").write_text("")
    for name, words in (
        ("other", "is of the classes a, b, c and 7 more"),
        ("small", "holds images of 1×4×4"),
        ("nowhere", "is no folder"),
        ("corpus.txt", "is no folder"),
        ("runs", "holds no replay.json"),
    ):
        done = command(desk, "evaluate", *WORDS, "--replay", name)
        assert done.code == 2, name
        assert words in done.err
        assert "Traceback" not in done.err
    assert command(desk, "collect", "tiny", "--into", "other").code == 2
    assert command(desk, "collect", "tiny", "--into", "runs").code == 2
    assert command(desk, "collect", "nobody", "--into", "new").code == 2
    assert not (desk / "new").exists()


@pytest.mark.slow
def test_reports_of_two_sets_are_not_subtracted(desk_with_set, command):
    desk, _ = desk_with_set
    names = {path.name.partition("@")[2] for path in (desk / "runs/tiny/boards/pruned").glob("fp32@quick@*")}
    assert names, "the tests before this one evaluate"
    for name in names:
        assert command(desk, "report", "runs/tiny", "--target", name).code == 0
    one, *others = [desk / f"runs/tiny/report-{name}.json" for name in sorted(names)]
    assert json.loads(one.read_text())["measurements"]
    done = command(desk, "compare", one, others[0] if others else desk / "runs/tiny/report.json")
    assert done.code == 0, done.err
    assert "replay set" in done.out
