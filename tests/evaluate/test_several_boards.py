"""An evaluation on several boards of one target: real agents, one gone for good, and the outcome of one board."""

import json
import random
import signal
import time

import numpy as np
import pytest

from robustdeploy.core.metrics import BY_CLOCK
from robustdeploy.devices import connection
from robustdeploy.evaluate import attack, latency
from robustdeploy.evaluate.parts import Parts

pytestmark = pytest.mark.slow

PLAN = "{warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(connection, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(attack, "BLOCK", 8)


def target(desk, name, *links, emulated=True):
    said = {"extends": "host-cpu", "name": name, "link": list(links), "emulated": emulated}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in said.items())
    (desk / f"{name}.yaml").write_text(f"{text}\nlatency: {PLAN}\n")
    return f"{name}.yaml"


def measured(desk, name, file):
    return json.loads((desk / f"runs/tiny/boards/pruned/fp32@{name}/{file}").read_text())


def outcomes(desk, name):
    """Every image, label and row but those of time, without the target's name."""
    kept = [row for row in measured(desk, name, "rows.json")["measurements"] if not row["metric"].startswith("latency")]
    for row in kept:
        row["conditions"] = {key: value for key, value in row["conditions"].items() if key not in BY_CLOCK}
    with np.load(desk / f"runs/tiny/boards/pruned/fp32@{name}/outcomes.npz") as arrays:
        return json.dumps(kept).replace(f"@{name}", "@").replace(f': "{name}"', ""), {
            each: arrays[each].tobytes() for each in arrays.files
        }


def parts(desk):
    told = [json.loads(line) for line in (desk / "runs/tiny/ledger.jsonl").read_text().splitlines()]
    return [each["data"]["part"] for each in told if each["event"] == "part"]


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.exhaustive) for seed in range(1, 10))]


@pytest.mark.parametrize("seed", SEEDS)
def test_three_boards_give_the_outcome_of_one_though_one_goes_for_good(desk, command, boards, monkeypatch, seed):
    before = parts(desk)
    done = command(desk, "evaluate", "--target", target(desk, "one", boards.link("one")))
    assert done.code == 0, done.err
    assert "boards" not in measured(desk, "one", "facts.json")
    blocks = parts(desk)[len(before) :]
    chance, seal, sealed = random.Random(seed), Parts.seal, []
    moment, gone = chance.randrange(1, len(blocks) - 3), chance.choice("abc")

    def losing(self, name, arrays):
        sealed.append(name)
        if len(sealed) == moment:
            boards.lose(gone)
        return seal(self, name, arrays)

    monkeypatch.setattr(Parts, "seal", losing)
    done = command(desk, "evaluate", "--target", target(desk, "three", *map(boards.link, ("a", "b", "c"))))
    assert done.code == 0, done.err
    assert outcomes(desk, "three") == outcomes(desk, "one")
    # Nothing is done twice, and each block is one board's.
    assert sorted(sealed) == sorted(blocks) == sorted(parts(desk)[len(before) + len(blocks) :])
    deeds = measured(desk, "three", "facts.json")["boards"]
    assert sum(each["blocks"] for each in deeds) == len(blocks)
    assert [bool(each["lost"]) for each in deeds] == [name == gone for name in "abc"]
    assert done.err.count(" is lost: ") == 1
    assert command(desk, "report", "--target", "three").code == 0
    assert "board 2 of 3" in (desk / "runs/tiny/report-three.md").read_text()
    assert "board 2 of 3" in (desk / "runs/tiny/report-three.html").read_text()


@pytest.mark.exhaustive
def test_latency_is_of_the_first_board_alone_and_begins_anew_where_that_is_lost(desk, command, boards, monkeypatch):
    links = [boards.link(name, machine=f"boot-{name}") for name in ("a", "b")]
    taken, take = [], latency.Stopwatch.take

    def taking(self):
        taken.append(self.board)
        # Some windows are taken by now, between the attacks and after them.
        if len(taken) == 6:
            boards.lose("a")
        take(self)

    monkeypatch.setattr(latency.Stopwatch, "take", taking)
    done = command(desk, "evaluate", "--target", target(desk, "two", *links, emulated=False))
    assert done.code == 0, done.err
    assert len(taken) == 6 + 10
    timed = [row for row in measured(desk, "two", "rows.json")["measurements"] if row["metric"].startswith("latency")]
    assert {row["conditions"]["board"] for row in timed} == {"this machine, board 2 of 2"}
    assert measured(desk, "two", "facts.json")["boot_id"] == "boot-b"
    assert len(measured(desk, "two", "timings.json")["scenarios"]["single-stream"]) == 10


@pytest.mark.exhaustive
def test_ctrl_c_ends_all_boards_and_the_evaluation_resumes(desk, spawn, command, boards):
    words = ["evaluate", "--target", target(desk, "three", *map(boards.link, ("a", "b", "c")))]
    words += ["--attacks", "{name: square, queries: 300}"]
    process, until = spawn(desk, *words), time.monotonic() + 120
    while not boards.everywhere() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert boards.everywhere()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert boards.everywhere() == []
    done = command(desk, *words)
    assert done.code == 0, done.err
