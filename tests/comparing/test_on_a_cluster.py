"""A table whose rows are made on a real Ray cluster, of which one worker is killed, is the one that is made here."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

RECIPE = """\
name: tiny
threat: {norm: linf, eps: 0.1}
train: {batch_size: 64, lr: 0.2, device: cpu}
evaluate: {limit: 40, eps_curve: [], attacks: [fgsm]}
"""
QUICK = """\
extends: host-cpu
name: quick
latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}
"""
PLAN = """\
name: tiny
recipe: tiny.yaml
target: quick.yaml
set: [train.epochs=3]
budget: {ops: 0.4}
pretrain: {epochs: 2}
against: [in-train]
rows:
  - {name: in-train, prune: masks}
  - {name: tuned, prune: masks, after: pretrain, train: {epochs: 1}}
"""


def processes():
    """Every process of this machine: its number, its parent's, and its words."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(path.name), parent, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError, IndexError):
            continue


def worker_of(port):
    """A worker at a run, of the cluster with this port alone."""
    found = list(processes())
    own = {number for number, _, words in found if f":{port}" in words and "raylet" in words.partition(" ")[0]}
    return next((number for number, parent, words in found if parent in own and "made_on_a_node" in words), None)


def without_clocks(document):
    return {**document, "lines": [{k: v for k, v in line.items() if k != "timed"} for line in document["lines"]]}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_row_whose_worker_is_killed_is_made_again(cluster, tmp_path, command, spawn):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "tiny.yaml").write_text(RECIPE)
        (tmp_path / place / "quick.yaml").write_text(QUICK)
        (tmp_path / place / "plan.yaml").write_text(PLAN)
    process = spawn(tmp_path / "there", "table", "plan.yaml", "--on", cluster.address, "--json")
    killed, ends = False, time.monotonic() + 240
    while not killed and time.monotonic() < ends and process.poll() is None:
        if (worker := worker_of(cluster.port)) is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed = True
        time.sleep(0.2)
    assert killed, process.communicate()
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    alone = command(tmp_path / "here", "table", "plan.yaml", "--json")
    assert alone.code == 0, alone.err
    there = json.loads(out)
    assert [line["row"] for line in there["lines"]] == ["in-train", "tuned"]
    assert without_clocks(there) == without_clocks(alone.document)
    for line in there["lines"]:
        assert command(tmp_path / "there", "verify", f"runs/table-tiny/{line['run']}").code == 0
