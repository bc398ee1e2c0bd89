from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from robustdeploy.errors import UsageError
from robustdeploy.train import ranks
from robustdeploy.train.launch import follows, launched

RANK = Path(__file__).with_name("rank.py")
SMALL = """
    name: small
    net: {name: resnet8, width: 4}
    threat: {norm: linf, eps: 0.1}
    data: {name: digits, validation: 0.1}
    train: {task: fastat, epochs: 3, batch_size: 96, lr: 0.1, device: cpu}
    budget: {ops: 0.4}
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment(rank, world, port):
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in told.items()}}


def train(world, *jobs):
    """Do jobs (folder, task, stop_at) with ``world`` processes; return what each process made of each finished job."""
    port = free_port()
    command = [sys.executable, str(RANK), json.dumps([[str(folder), task, stop_at] for folder, task, stop_at in jobs])]
    processes = [
        subprocess.Popen(command, env=environment(rank, world, port), stderr=subprocess.PIPE) for rank in range(world)
    ]
    errors = [process.communicate(timeout=300)[1].decode()[-2000:] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors
    finished = [folder for folder, _, stop_at in jobs if not stop_at]
    return [[json.loads(Path(f"{folder}.rank{rank}.json").read_text()) for rank in range(world)] for folder in finished]


STOPS = (1, 4, 6, 7, 9, 11)
"""Inside an epoch, at its end, around the freeze, and behind it."""
MOVES = [(task, stop_at) for task in ("fastat", "free") for stop_at in (4, 9)]
"""Before the freeze and after it; a task that carries a perturbation hands every process its part."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes train once without a stop, once with a collapse, with a stop after each step, and leave halves."""
    root = tmp_path_factory.mktemp("pair")
    cut = [(root / f"cut{stop}", "fastat", at) for stop in STOPS for at in (stop, 0)]
    halves = [(root / f"half-{task}{at}", task, at) for task, at in MOVES]
    whole, back, *resumed = train(2, (root / "whole", "fastat", 0), (root / "back", "collapse", 0), *cut, *halves)
    return root, whole, resumed, back


@pytest.mark.slow
def test_masks_and_weights_are_the_same_on_every_rank(pair):
    _, (first, second), *_ = pair
    assert first == second


@pytest.mark.slow
def test_two_processes_go_on_exactly_from_every_step(pair):
    root, (first, _), resumed, _ = pair
    for stop_at, (one, other) in zip(STOPS, resumed, strict=True):
        assert one["losses"] == first["losses"][stop_at - 1 :]  # what was saved is the step before
        assert one["net"] == other["net"] == first["net"]
        assert (root / f"cut{stop_at}" / "metrics.jsonl").read_bytes() == (root / "whole/metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, pair):
    """One process trains by itself, goes on where two stopped, and leaves halves of its own."""
    root = tmp_path_factory.mktemp("alone")
    moved = [(pair[0] / f"half-{task}{at}", task, 0) for task, at in MOVES]
    halves = [(root / f"half-{task}{at}", task, at) for task, at in MOVES]
    whole, *resumed = train(1, (root / "whole", "fastat", 0), *moved, *halves)
    return root, whole, resumed


BORDERS = (3, 4, 5, 8, 9)
"""Steps of a training in three phases of four steps, to stop after; what is saved is the step before."""


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_processes_go_on_exactly_from_every_phase(tmp_path):
    cut = [(tmp_path / f"cut{stop}", "phases", at) for stop in BORDERS for at in (stop, 0)]
    (whole, same), *resumed = train(2, (tmp_path / "whole", "phases", 0), *cut)
    assert whole == same
    assert [record["phase"] for record in whole["records"]] == ["pretrain", "scores", "fine-tune"]
    assert whole["costs"]["ops"] <= 0.4 * whole["dense"]["ops"]
    for stop, (one, other) in zip(BORDERS, resumed, strict=True):
        assert one["losses"] == whole["losses"][stop - 1 :]
        assert one["net"] == other["net"] == whole["net"]
        assert one["records"] == whole["records"]


@pytest.mark.slow
def test_two_processes_meet_the_same_budget_as_one(pair, alone):
    first, single = pair[1][0], alone[1][0]
    for outcome in (first, single):
        assert 0.97 * 0.4 < outcome["costs"]["ops"] / outcome["dense"]["ops"] <= 0.4
    # The first step differs by nothing but the statistics of batch normalisation, each over its own half.
    assert first["losses"][0] == pytest.approx(single["losses"][0], rel=0.1)


@pytest.mark.slow
def test_all_processes_go_back_together_when_the_training_has_collapsed(pair):
    """From behind the freeze to before it, with averaged weights."""
    one, other = pair[3]
    assert one == other
    assert [event["back_to_step"] for event in one["events"]] == [4]
    assert len(one["losses"]) == 8 + (12 - 4)
    assert 0.97 * 0.4 < one["costs"]["ops"] / one["dense"]["ops"] <= 0.4


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_parameter_that_never_has_a_gradient_is_not_waited_for(pair, tmp_path):
    ((one, other),) = train(2, (tmp_path / "spare", "spare head", 0))
    assert len(one["losses"]) == 12
    assert one["losses"] == pair[1][0]["losses"]
    assert one["net"] == other["net"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_another_number_of_processes_goes_on(alone):
    root, _, fewer = alone
    more = train(2, *[(root / f"half-{task}{at}", task, 0) for task, at in MOVES])
    for outcomes in (fewer, more):
        for (_, stop_at), ranks_of_one in zip(MOVES, outcomes, strict=True):
            assert len(ranks_of_one[0]["losses"]) == 12 - (stop_at - 1)
            assert len({outcome["net"] for outcome in ranks_of_one}) == 1
            assert 0.97 * 0.4 < ranks_of_one[0]["costs"]["ops"] / ranks_of_one[0]["dense"]["ops"] <= 0.4


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(textwrap.dedent(SMALL))
    return path


def torchrun(*arguments):
    """The command that starts two processes the way users do."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*launcher, "--master-port", str(free_port()), "-m", "robustdeploy", *map(str, arguments)]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_torchrun_prunes_and_one_process_talks(recipe, tmp_path):
    track = ("--track", "tensorboard") if find_spec("tensorboard") else ()
    done = subprocess.run(
        torchrun("prune", recipe, "--runs", tmp_path / "runs", "--json", *track),
        capture_output=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    printed = json.loads(done.stdout)  # one document, from one process
    facts = printed["facts"]
    assert 0.97 * 0.4 < facts["macs"] / facts["dense_macs"] <= 0.4
    assert [stretch["processes"] for stretch in facts["conditions"]] == [2]
    (run,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir() and not path.is_symlink()]
    assert (run / "nets" / "dense" / "manifest.json").exists()
    files = [path.name for path in (run / "tracking").glob("tensorboard/nets/*/*")]
    assert files == ["events.out.tfevents.0000000001"] * (2 if track else 0)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(recipe, tmp_path):
    more = ("--set", "train.epochs=20", "--set", "baseline=false")
    command = torchrun("prune", recipe, "--runs", tmp_path / "runs", *more)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 180
    while not list((tmp_path / "runs").glob("*/nets/pruned/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode != 0
    (run,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir() and not path.is_symlink()]
    saved = max(run.glob("nets/pruned/checkpoints/step-*"), default=None)
    assert saved is not None, errors[-2000:]
    assert not (run / "nets" / "pruned" / "manifest.json").exists()
    assert "is a fault of robustdeploy" not in errors
    again = torchrun("prune", recipe, "--runs", tmp_path / "runs", *more, "--json")
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(again, capture_output=True, timeout=240, env=environ, check=False)
    assert done.returncode == 0, done.stderr.decode()
    conditions = json.loads(done.stdout)["facts"]["conditions"]
    assert [(stretch["from_step"], stretch["processes"]) for stretch in conditions] == [(0, 2)]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 3)
    with pytest.raises(UsageError, match=r"train.batch_size is 32, which 3 processes cannot share equally"):
        ranks.check_batch(32, images=100)
    ranks.check_batch(33, images=100)
    with pytest.raises(UsageError, match=r"there are 20 training images, fewer than train.batch_size"):
        ranks.check_batch(33, images=20)
    ranks.check_batch(32, images=21)


def test_one_process_is_rank_0_of_1():
    assert (ranks.rank(), ranks.world()) == (0, 1)
    assert ranks.shared(b"x", torch.device("cpu")) == b"x"
    numbers = torch.arange(3.0)
    assert torch.equal(ranks.mean(numbers.clone()), numbers)
    assert torch.equal(ranks.gathered(numbers), numbers)
    assert torch.equal(ranks.own_part(numbers), numbers)


def test_who_follows_is_what_the_launcher_says(monkeypatch):
    for world, rank, expected in (("1", "0", (False, False)), ("2", "0", (True, False)), ("2", "1", (True, True))):
        monkeypatch.setenv("WORLD_SIZE", world)
        monkeypatch.setenv("RANK", rank)
        assert (launched(), follows()) == expected
    monkeypatch.delenv("WORLD_SIZE")
    assert not launched()
