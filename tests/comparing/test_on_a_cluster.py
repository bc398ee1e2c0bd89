"""A table whose rows are made on a real Ray cluster, of which one worker is killed, is the one that is made here."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

PLAN = """\
name: tiny
recipe: tiny.yaml
target: quick.yaml
set: [train.epochs=6]
budget: {ops: 0.4}
pretrain: {epochs: 3}
against: [in-train]
rows:
  - {name: in-train, prune: masks}
  - {name: tuned, prune: masks, after: pretrain, train: {epochs: 3}}
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
def test_a_row_whose_worker_is_killed_is_made_again(cluster, tmp_path, chain, command, spawn):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for name in ("tiny.yaml", "quick.yaml"):
            (tmp_path / place / name).write_bytes((chain / name).read_bytes())
        (tmp_path / place / "plan.yaml").write_text(PLAN)
    process = spawn(tmp_path / "there", "table", "plan.yaml", "--on", cluster.address, "--json")
    ends = time.monotonic() + 120
    while (worker := worker_of(cluster.port)) is None and time.monotonic() < ends and process.poll() is None:
        time.sleep(0.2)
    assert worker is not None, process.communicate()
    time.sleep(3)  # in the middle of a run
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    alone = command(tmp_path / "here", "table", "plan.yaml", "--json")
    assert alone.code == 0, alone.err
    there = json.loads(out)
    assert [line["row"] for line in there["lines"]] == ["in-train", "tuned"]
    assert without_clocks(there) == without_clocks(alone.document)
    for line in there["lines"]:
        assert command(tmp_path / "there", "verify", f"runs/table-tiny/{line['run']}").code == 0
