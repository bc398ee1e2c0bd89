"""Workers: the same outcome and seals by one process, two, or a cluster; one that is killed costs its block."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from robustdeploy.core.files import sha256_of_file
from robustdeploy.evaluate import attack, nodes

pytestmark = pytest.mark.slow
ATTACKS = "evaluate.attacks=[{name: autoattack, steps: 3, targets: 2, queries: 20}]"
WORDS = ("evaluate", "runs/tiny", "--target", "quick.yaml", "--limit", "24", "--set", ATTACKS)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(attack, "BLOCK", 8)


def found(desk):
    """What was found in torch, and every sealed part of it, by hash."""
    folders = [each for each in (desk / "runs/tiny/attacks").glob("*/fp32@*") if (each / "attacks.npz").is_file()]
    return {
        str(path.relative_to(desk)): sha256_of_file(path)
        for folder in folders
        for path in (folder / "attacks.npz", *folder.rglob("*-0*.npz"))
    }


def parts(desk):
    told = [json.loads(line) for line in (desk / "runs/tiny/ledger.jsonl").read_text().splitlines()]
    sealed = sorted((each["data"]["part"], each["data"]["sha256"]) for each in told if each["event"] == "part")
    # What a board is asked by queries holds their times.
    return [(name, digest if "square" not in name else "") for name, digest in sealed]


@pytest.fixture(scope="module")
def alone(chain, tmp_path_factory, command):
    desk = tmp_path_factory.mktemp("alone") / "desk"
    shutil.copytree(chain, desk, symlinks=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attack, "BLOCK", 8)
        done = command(desk, *WORDS)
    assert done.code == 0, done.err
    return desk


@pytest.mark.exhaustive
def test_two_processes_find_what_one_does_and_seal_the_same(desk, command, alone):
    done = command(desk, *WORDS, "--workers", "2")
    assert done.code == 0, done.err
    assert found(desk) == found(alone) != {}
    assert parts(desk) == parts(alone)


def children():
    """Worker processes of this one that can be found; the agent of a board is no worker."""
    held = []
    for task in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in task.read_text().split():
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                held.append(int(pid))
    return held


def killed_at_the_first_part(monkeypatch, find):
    """Have a worker killed as soon as the first part of an attack is sealed; in the list stands which."""
    seal, killed = attack.Parts.seal, []

    def sealed(self, name, arrays):
        given = seal(self, name, arrays)
        if not killed and name.startswith("autoattack"):
            killed.append(find()[0])
            os.kill(killed[0], signal.SIGKILL)
        return given

    monkeypatch.setattr(attack.Parts, "seal", sealed)
    return killed


@pytest.mark.exhaustive
def test_a_killed_worker_is_told_and_the_same_command_ends_as_if_nothing_had_been(desk, command, alone, monkeypatch):
    killed = killed_at_the_first_part(monkeypatch, children)
    done = command(desk, *WORDS, "--workers", "2")
    assert killed
    assert done.code == 4, done.err
    assert "a worker process ended before its block was done" in done.err
    deadline = time.monotonic() + 20
    while children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children() == []
    done = command(desk, *WORDS)
    assert done.code == 0, done.err
    assert found(desk) == found(alone)
    assert parts(desk) == parts(alone)


def test_less_than_one_is_refused(desk, command):
    done = command(desk, *WORDS, "--workers", "0")
    assert done.code == 2
    assert "--workers" in done.err


@pytest.mark.exhaustive
def test_a_cluster_finds_the_same_though_a_worker_of_it_is_killed(desk, command, alone, cluster, monkeypatch):
    killed = killed_at_the_first_part(monkeypatch, workers_of_a_cluster)
    done = command(desk, *WORDS, "--on", cluster.address)
    assert done.code == 0, done.err
    assert killed
    assert found(desk) == found(alone)
    assert parts(desk) == parts(alone)


def workers_of_a_cluster():
    names = {path.parent: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [int(path.name) for path, name in names.items() if name.startswith(b"ray::Worker")]


@pytest.mark.exhaustive
def test_a_worker_that_rounds_otherwise_is_not_used(desk, command, cluster, monkeypatch):
    monkeypatch.setattr(nodes, "tried", lambda *given: {"scores": np.zeros((8, 10), np.float32)})
    done = command(desk, *WORDS, "--on", cluster.address)
    assert done.code == 4, done.err
    assert "no worker of ray://" in done.err
    assert "it rounds otherwise than this machine" in done.err
    assert found(desk) == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--on", "there"), "attacks in torch are run 'here', or on a Ray cluster, such as ray://head:10001"),
        (("--on", "ray://"), "--on ray://: attacks in torch"),
        (("--on", "ray://head:1", "--workers", "2"), "--workers 2 is for attacks that are run here"),
    ],
)
def test_where_attacks_are_run_is_checked_first(desk, command, words, told):
    done = command(desk, *WORDS, *words)
    assert done.code == 2
    assert told in done.err
