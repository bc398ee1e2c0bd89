"""Engine attacks in an evaluation: counted by the board itself, judged as all are, resumed, in int8 too."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from robustdeploy.core.recipe import Choice
from robustdeploy.devices.board import board_from
from robustdeploy.devices.fleet import Fleet
from robustdeploy.devices.local import Local
from robustdeploy.engine.ledger import Ledger
from robustdeploy.evaluate import attack
from robustdeploy.evaluate.adversaries import in_torch
from robustdeploy.evaluate.asking import Engine, engine_on, sought
from robustdeploy.evaluate.attack import Bench, Images, adversaries_from, attack_board
from robustdeploy.evaluate.parts import Parts
from robustdeploy.onboard.types import Threat

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import divergence as planted_flips

THREAT = Threat(eps=0.1)
ATTACKS = "[fgsm, {name: straight-through, steps: 5}, {name: divergence, rounds: 2, walks: 2}]"
AUTOATTACK = "{name: autoattack, steps: 3, targets: 1, queries: 20}"


def built(*choices):
    return adversaries_from(tuple(Choice(name=name, options=options) for name, options in choices))


def test_kinds_say_who_is_asked_and_what_a_net_in_torch_is_attacked_by():
    attacks = built(("fgsm", {}), ("straight-through", {}), ("divergence", {}), ("square", {}))
    assert [each.kind for each in attacks] == ["transfer", "straight-through", "divergence", "query"]
    assert [each.asks for each in attacks] == [False, True, True, True]
    assert [each.label for each in in_torch(attacks, deployed=True)] == ["fgsm"]
    # A net in torch is its own engine, and cannot differ from it.
    assert [each.label for each in in_torch(attacks, deployed=False)] == ["fgsm", "straight-through-20", "square-1000"]
    assert attacks[1].settings["needs"] == "scores"


@pytest.fixture(scope="module")
def board(agent, net):
    with board_from(Local(), agent) as board:
        made = board.compile("onnxruntime", board.put(net))
        board.open_engine("onnxruntime", made.files)
        yield board


@pytest.fixture
def twin(weights):
    import torch
    from torch import nn

    from robustdeploy.evaluate.host import HostNet

    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5, bias=False)).eval().requires_grad_(False)
    net[1].weight.copy_(torch.from_numpy(weights.T))
    return HostNet(net, torch.device("cpu"), net, at_once=7)


@pytest.mark.parametrize("name", ["straight-through", "divergence"])
def test_queries_are_the_boards_own_count_and_their_time_its_own_clock(name, board, twin, images):
    labels = board.score(images, 1).argmax(1)
    (adversary,) = built((name, {"steps": 4}))
    before, spent = board.queries_total, board.spent_ns
    told = []
    engine = engine_on(board, 1, lambda: told.append(1))
    found = sought(adversary.engine, twin, engine, (images, labels, np.arange(30)), Threat(eps=20 / 255), 3)
    extra = 0 if name == "straight-through" else int(found.queries.sum())
    total = int(found.queries.sum())
    # The random images beside a divergence attack are no more than its own queries, and not charged to it.
    assert total <= board.queries_total - before <= total + extra
    assert name == "divergence" or total == board.queries_total - before
    # Each image's share is rounded to whole nanoseconds.
    assert 0 < found.spent_ns[:, -1].sum() <= board.spent_ns - spent + len(images)
    assert (found.queries > 0).all()
    assert told
    # The parts that fit into memory are told apart: each image is charged with its own queries.
    low, high = Threat(eps=20 / 255).box(images)
    whole = twin.rounded(found.images)
    assert ((whole >= low) & (whole <= high)).all()


def on_a_board(asked, board, twin, images, folder, most):
    """Attack on a board, until it has answered ``most`` times; count how often it has."""
    folder.mkdir(exist_ok=True)
    (adversary,) = built(asked)
    told = []

    def progress(*said):
        told.append(said)
        if len(told) > most:
            raise KeyboardInterrupt

    test = Images(np.arange(len(images)), images, board.score(images, 1).argmax(1))
    parts = Parts(folder, "m" * 20, Ledger(folder / "ledger.jsonl"))
    bench = Bench(test, Threat(eps=20 / 255), 3, parts, progress)
    return attack_board(adversary, bench, twin, Fleet([board], print), None), len(told)


@pytest.mark.parametrize(
    "asked", [("straight-through", {"steps": 4}), ("divergence", {"steps": 3, "rounds": 1, "walks": 1})]
)
def test_a_kill_while_the_engine_is_asked_costs_a_block_and_changes_nothing(
    asked, board, twin, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(attack, "BLOCK", 3)
    few = images[:9]
    whole, answers = on_a_board(asked, board, twin, few, tmp_path / "whole", np.inf)
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        on_a_board(asked, board, twin, few, killed, answers // 2)
    sealed = {path.name: path.read_bytes() for path in killed.rglob("*.npz")}
    assert 1 <= len(sealed) <= 2
    again, left = on_a_board(asked, board, twin, few, killed, np.inf)
    # What is sealed is not asked again.
    assert left < answers
    assert {path.name: path.read_bytes() for path in killed.rglob("*.npz") if path.name in sealed} == sealed
    for field in ("images", "board", "host", "queries", "by_chance"):
        np.testing.assert_array_equal(getattr(again, field), getattr(whole, field))
    assert (again.moved, again.restless) == (whole.moved, whole.restless)


def test_an_attack_that_asks_for_nothing_leaves_everything_as_it_is(twin, images):
    (adversary,) = built(("divergence", {}))
    labels = (twin.score(images).argmax(1) + 1) % 5

    def never(pixels):
        raise AssertionError("nothing is to be asked")

    found = sought(adversary.engine, twin, Engine(never), (images, labels, np.arange(30)), THREAT, 3)
    assert not found.queries.any()
    np.testing.assert_array_equal(twin.rounded(found.images), images)


@pytest.mark.slow
def test_planted_flips_are_found_and_random_images_see_none(chain):
    """The measured claim, on one net: near ties alone the engine differs, and that is where it is looked for."""
    from robustdeploy.engine.run import Run

    run = Run.open(chain / "runs/tiny", chain / "runs")
    with np.load(chain / "runs/tiny/boards/pruned/fp32@quick/outcomes.npz") as held:
        images = Images(*(held[name][:24] for name in ("ids", "images", "labels")))
    onnx_file = chain / "runs/tiny/onnx/pruned/fp32/model.onnx"
    row = planted_flips.planted(run, onnx_file, images, run.recipe.threat, 0.02, seed=1)
    assert row.flips >= 3
    assert row.found >= 0.9 * row.flips
    assert row.by_chance <= 0.34 * row.flips


@pytest.fixture(scope="module")
def evaluated(chain, tmp_path_factory, command):
    """The tiny run in int8, under engine attacks and the whole of AutoAttack."""
    import shutil

    desk = tmp_path_factory.mktemp("engine") / "desk"
    shutil.copytree(chain, desk, symlinks=True)
    (desk / "low.yaml").write_text(
        "extends: host-cpu\nname: low\nprecisions: [fp32, int8]\n"
        "latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}\n"
    )
    words = ("runs/tiny", "--target", "low.yaml", "--precision", "int8")
    done = command(desk, "export", *words, "--quiet")
    assert done.code == 0, done.err
    attacks = f"evaluate.attacks={ATTACKS[:-1]}, {AUTOATTACK}]"
    done = command(desk, "evaluate", *words, "--limit", "40", "--set", attacks, "--set", "evaluate.eps_curve=[]")
    assert done.code == 0, done.err
    (folder,) = (desk / "runs/tiny/boards/pruned").glob("int8@low@*")
    return desk, folder, json.loads((folder / "rows.json").read_text())


def rows_of(rows, metric, subject="pruned/int8@low"):
    return {row["attack"]: row for row in rows["measurements"] if (row["metric"], row["subject"]) == (metric, subject)}


@pytest.mark.slow
def test_the_rows_say_who_was_asked_and_whose_gradient_was_followed(evaluated):
    _, folder, rows = evaluated
    robust = rows_of(rows, "robust_accuracy")
    for label, kind in (("straight-through-5", "straight-through"), ("divergence-2-2", "divergence")):
        assert robust[label]["kind"] == kind
        assert robust[label]["conditions"]["gradients_of"] == "pruned/int8@torch"
        assert rows_of(rows, "robust_accuracy", "pruned/int8@torch")[label]["kind"] == "replay"
    told = rows_of(rows, "divergence")
    assert set(told) == {"divergence-2-2"}
    (row,) = told.values()
    with np.load(folder / "outcomes.npz") as held:
        labels, name = held["labels"], "divergence-2-2"
        differ = (held[f"{name}/host_predictions"] == labels) & (held[f"{name}/predictions"] != labels)
        assert row["value"] == differ.mean()
        assert row["conditions"]["queries"] == held[f"{name}/queries"].sum()
        assert held["straight-through-5/queries"].max() <= 6
        # All that it kept are images that the board gets wrong, or of which nothing was found.
        moved = (held[f"{name}/images"] != held["images"]).any(axis=(1, 2, 3))
        assert (differ[moved]).mean() > 0.8 or not moved.any()
    assert 0 <= row["conditions"]["random_found"] <= row["n"]
    assert row["conditions"]["random_low"] <= row["conditions"]["random_high"]
    after = [row for row in rows["measurements"] if row["metric"] == "robust_accuracy_after_queries"]
    spent = [row["conditions"]["device_s"] for row in after if row["attack"] == "straight-through-5"]
    assert spent
    assert all(seconds > 0 for seconds in spent)
    # The dense net runs in torch alone: there is nothing that it could differ from.
    dense = rows_of(rows, "robust_accuracy", "dense/fp32@torch")
    assert "straight-through-5" in dense
    assert "divergence-2-2" not in dense


@pytest.mark.slow
def test_autoattack_is_measured_in_int8_too(evaluated):
    _, _, rows = evaluated
    for subject in ("pruned/int8@low", "pruned/int8@torch"):
        robust = rows_of(rows, "robust_accuracy", subject)
        parts = [label for label in robust if label.startswith("autoattack-") and label != "autoattack-3-t1-20"]
        values = [robust[label]["value"] for label in parts]
        assert len(parts) == 4
        assert values == sorted(values, reverse=True)
        assert robust["autoattack-3-t1-20"]["value"] == values[-1] >= robust["worst"]["value"]
    assert rows_of(rows, "robust_accuracy")[parts[0]]["kind"] == "twin"


@pytest.mark.slow
def test_what_is_sealed_is_used_again_and_a_rule_may_bound_a_divergence(evaluated, command):
    desk, folder, rows = evaluated
    name = folder.name.partition("@")[2]
    words = ("runs/tiny", "--target", "low.yaml", "--precision", "int8", "--limit", "40")
    attacks = f"evaluate.attacks={ATTACKS[:-1]}, {AUTOATTACK}]"
    again = command(desk, "evaluate", *words, "--set", attacks, "--set", "evaluate.eps_curve=[]")
    assert again.code == 0, again.err
    assert "done already" in again.err
    assert json.loads((folder / "rows.json").read_text()) == rows
    assert command(desk, "report", "runs/tiny", "--target", name).code == 0
    assert "divergence-2-2" in (desk / f"runs/tiny/report-{name}.md").read_text()
    recipe = (desk / "tiny.yaml").read_text()
    rule = "  - {id: T-1, metric: divergence, at_most: 0.9}\n"
    (desk / "none.yaml").write_text(f"{recipe}{rule}")
    refused = command(desk, "validate", "none.yaml")
    assert refused.code == 2
    assert "evaluate.attacks holds no divergence attack" in refused.err
    (desk / "more.yaml").write_text(f"{recipe.replace('[fgsm,', '[divergence, fgsm,')}{rule}")
    assert command(desk, "validate", "more.yaml").code == 0
