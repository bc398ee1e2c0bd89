from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import textwrap
import time
from dataclasses import replace

import pytest
import torch
from trainings import silent

from robustdeploy import load_net
from robustdeploy.api import prune
from robustdeploy.core.callback import SILENT
from robustdeploy.core.load import load_recipe
from robustdeploy.cost.memory import peak_bytes
from robustdeploy.cost.module import macs, params
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.run import verify_run
from robustdeploy.engine.stage import Work
from robustdeploy.errors import DataError, UsageError
from robustdeploy.train.trainings import check_trainable, device_from, train_dense, train_pruned

RECIPE = """
    name: small
    net: {name: resnet8, width: 4}
    threat: {norm: linf, eps: 0.1}
    data: {name: digits, validation: 0.1}
    train: {task: fastat, epochs: 3, batch_size: 96, lr: 0.1, device: cpu, checkpoint_every_s: 0}
    budget: {ops: 0.4}
"""
MADE = (
    "nets/dense/model.safetensors",
    "nets/dense/metrics.jsonl",
    "nets/pruned/model.safetensors",
    "nets/pruned/metrics.jsonl",
    "nets/pruned/masks.safetensors",
    "nets/pruned/net.json",
)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(textwrap.dedent(RECIPE))
    return path


def work(folder, images="a"):
    """What a runner hands to a training in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return Work("nets/small", folder, f"mark-{images}", Ledger(folder / "ledger.jsonl"), SILENT, {})


@pytest.fixture
def small(recipe, digits):
    """A recipe of one epoch, and few images."""
    loaded = load_recipe(str(recipe), ("train.epochs=1",))
    return loaded, replace(digits, train=digits.train.select(torch.arange(300)))


def test_the_sealed_net_is_the_one_that_was_certified(small, tmp_path):
    recipe, data = small
    (tmp_path / "net" / "best").mkdir(parents=True)  # what another training has left there
    job = work(tmp_path / "net")
    facts = train_pruned(recipe, data, job, silent).model_dump()
    net = load_net(tmp_path / "net")
    assert not (tmp_path / "net" / "best").exists()
    assert all((tmp_path / "net" / name).is_file() for name in job.outputs)
    assert {"model.safetensors", "net.json", "masks.safetensors", "held_out.npz", "prints.npz"} <= set(job.outputs)
    assert set(facts["counts"]) == {"masks", "module", "flop_counter"}
    assert set(facts["counts"].values()) == {macs(net, (1, 8, 8))} == {facts["macs"]}
    assert 0.97 * 0.4 * facts["dense_macs"] < facts["macs"] <= 0.4 * facts["dense_macs"]
    assert max(facts["proof"]["clean"], facts["proof"]["adversarial"]) <= 1e-5
    assert facts["proof"]["n"] == min(256, len(data.validation))
    assert {c["layer"] for c in facts["channels"]} >= {"conv", "fc", "stages.2.0.conv2"}
    assert all(1 <= c["kept"] <= c["dense"] for c in facts["channels"])
    assert sum(c["kept"] < c["dense"] for c in facts["channels"]) >= 3
    assert sum(facts["layer_macs"].values()) == facts["macs"]


def test_without_a_budget_the_net_stays_dense(small, tmp_path):
    recipe, _ = small
    recipe = recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"ops": None})})
    run = prune(recipe, runs=tmp_path / "runs")
    facts = run.sealed("nets/dense").facts
    assert (run.net, sorted(path.name for path in (run.root / "nets").iterdir())) == ("dense", ["dense"])
    assert facts["macs"] == facts["dense_macs"]
    assert (facts["ops_target"], facts["channels"]) == (1.0, [])
    assert set(facts["counts"].values()) == {facts["macs"]}


@pytest.mark.parametrize(
    ("budget", "targets"),
    [
        ({"ops": None, "params": 0.4}, {"params_target": 0.4}),
        ({"ops": None, "memory": 0.6}, {"memory_target": 0.6}),
        ({"ops": 25_000.0, "params": 0.5}, {"params_target": 0.5}),
    ],
)
def test_other_budgets_are_met_and_told_as_fractions(budget, targets, small, tmp_path):
    recipe, data = small
    recipe = recipe.model_copy(update={"budget": recipe.budget.model_copy(update=budget)})
    check_trainable(recipe, data)
    facts = train_pruned(recipe, data, work(tmp_path / "net"), silent).model_dump()
    net = load_net(tmp_path / "net")
    assert (facts["params"], facts["memory_bytes"]) == (params(net), peak_bytes(net, (1, 8, 8)))
    shares = {
        "ops_target": facts["macs"] / facts["dense_macs"],
        "params_target": facts["params"] / facts["dense_params"],
        "memory_target": facts["memory_bytes"] / facts["dense_memory_bytes"],
    }
    if budget["ops"] is not None:
        targets = {**targets, "ops_target": budget["ops"] / facts["dense_macs"]}
    assert {name: facts[name] for name in shares} == pytest.approx(dict.fromkeys(shares, 1.0) | targets)
    assert 0.97 < max(shares[name] / target for name, target in targets.items()) <= 1


def test_another_data_set_starts_anew_in_the_same_folder(small, tmp_path):
    """The checkpoints that lie there are of the same net and the same recipe, but of other images."""
    recipe, data = small
    other = replace(data, train=data.train.select(torch.arange(299, -1, -1)))
    train_dense(recipe, data, work(tmp_path / "shared", "a"), silent)
    steps = []
    train_dense(recipe, other, work(tmp_path / "shared", "b"), lambda step, *rest: steps.append(step))
    train_dense(recipe, other, work(tmp_path / "alone", "b"), silent)
    assert steps == [1, 2, 3]
    name = "model.safetensors"
    assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_the_seed_decides_the_weights(small, tmp_path):
    recipe, data = small
    made = []
    for n, seed in enumerate((0, 0, 1)):
        chosen = recipe.model_copy(update={"seed": seed})
        torch.manual_seed(n)
        train_dense(chosen, data, work(tmp_path / str(n)), silent)
        made.append((tmp_path / str(n) / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_a_mistake_of_the_user(name):
    with pytest.raises(UsageError, match=f"train.device is '{name}'.*say auto or cpu"):
        device_from(name)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_at_any_moment_it_ends_with_the_same_bits(recipe, tmp_path):
    """SIGKILL, again and again, of a real process that trains the dense and the pruned net."""
    context = multiprocessing.get_context("forkserver")
    # Loaded once instead of by every child; torch's optimisers bring torch._dynamo.
    preloaded = ["robustdeploy.train.trainings", "sklearn.datasets", "torch_pruning", "torch._dynamo"]
    context.set_forkserver_preload(preloaded)

    def start(name):
        child = context.Process(target=prune, args=(str(recipe),), kwargs={"runs": tmp_path / "runs", "name": name})
        child.start()
        return child

    def saved():
        return {path.name for path in (tmp_path / "runs" / "killed").glob("nets/*/checkpoints/step-*")}

    whole = start("whole")
    whole.join(300)
    assert whole.exitcode == 0
    chance, before = random.Random(0), []
    while True:
        before.append(saved())
        child = start("killed")
        if len(before) % 4 == 0:  # now and then anywhere, before the first step too
            child.join(chance.uniform(0, 1))
        else:  # else soon after it got further, so that many kills fit into one training
            while child.is_alive() and saved() <= before[-1]:
                time.sleep(0.002)
            child.join(chance.uniform(0, 0.06))
        if len(before) > 12:
            child.join(300)
        if child.exitcode is not None:
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
    assert child.exitcode == 0
    assert len(before) > 8
    assert len({max(names, default="") for names in before}) > 6  # they landed at different steps
    for file in MADE:
        assert (tmp_path / "runs" / "killed" / file).read_bytes() == (tmp_path / "runs" / "whole" / file).read_bytes()
    assert verify_run(tmp_path / "runs" / "killed") == []
    assert not list((tmp_path / "runs" / "killed").glob("nets/*/checkpoints/.step-*"))


def wait_for_another(checkpoints, known, child):
    """Return the newest checkpoint as soon as it is not ``known`` (None: as soon as there is one)."""
    deadline = time.monotonic() + 120
    while (newest := max(checkpoints.glob("step-*"), default=known)) == known:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return newest


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_a_signal_saves_ends_with_its_code_and_the_command_goes_on(number, recipe, tmp_path, spawn):
    child = spawn(tmp_path, "prune", recipe, "--name", "run", "--set", "train.epochs=40")
    checkpoints = tmp_path / "runs" / "run" / "nets" / "dense" / "checkpoints"
    wait_for_another(checkpoints, None, child)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert "the same command resumes where this stopped" in said
    assert "Traceback" not in said
    newest = max(checkpoints.glob("step-*"))
    step = int(newest.name.split("-")[1])
    assert step >= 1
    resumed = spawn(tmp_path, "prune", recipe, "--name", "run", "--set", "train.epochs=40")
    now = wait_for_another(checkpoints, newest, resumed)
    assert int(now.name.split("-")[1]) > step
    resumed.send_signal(number)
    resumed.communicate(timeout=60)
    assert resumed.returncode == 128 + number


def limited_disk(folder, size):
    """Return a folder: a Python process with it on its path can write no file of more than ``size`` bytes."""
    text = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    (folder / "limited").mkdir()
    (folder / "limited" / "sitecustomize.py").write_text(text)
    return folder / "limited"


@pytest.mark.slow
def test_a_full_disk_ends_with_4_and_one_sentence_and_the_command_goes_on(recipe, tmp_path, spawn, command):
    words = ("prune", recipe, "--name", "run", "--set", "baseline=false", "--set", "train.epochs=10")
    child = spawn(tmp_path, *words)
    checkpoints = tmp_path / "runs" / "run" / "nets" / "pruned" / "checkpoints"
    wait_for_another(checkpoints, None, child)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    before = {path: path.read_bytes() for path in checkpoints.rglob("step-*")}
    full = spawn(tmp_path, *words, PYTHONPATH=str(limited_disk(tmp_path, 8000)))
    _, said = full.communicate(timeout=120)
    assert full.returncode == 4, said
    assert f"cannot write {checkpoints.relative_to(tmp_path)}" in said
    assert "Traceback" not in said
    assert {path: path.read_bytes() for path in checkpoints.rglob("step-*")} == before
    done = command(tmp_path, *words, "--json")
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_training_that_explodes_ends_with_3_and_one_sentence(recipe, tmp_path, command):
    done = command(tmp_path, "prune", recipe, "--name", "wild", "--set", "train.lr=1e30", "--json")
    assert done.code == 3
    assert json.loads(done.out)["error"]["kind"] == "TrainingError"
    assert "lower train.lr" in done.err
    assert not (tmp_path / "runs" / "wild" / "nets" / "dense" / "manifest.json").exists()


def test_a_step_that_no_memory_holds_is_refused_with_the_fix(small, monkeypatch):
    recipe, data = small
    monkeypatch.setattr("robustdeploy.train.trainings.available_bytes", lambda: 10**6)
    with pytest.raises(DataError, match=r"a training step on 96 images of 8×8 .*set train\.batch_size to \d+ or less"):
        check_trainable(recipe, data)
