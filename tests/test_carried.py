"""A board without a network: a run is carried there as one file, measured there, and carried back with its seals."""

import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from tests.conftest import MAIN

ELSEWHERE = """\
extends: host-cpu
name: elsewhere
link: {{name: local, python: {python}}}
latency: {{warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}}
"""
SUBJECT = "pruned/fp32@elsewhere"


def packed(folder, file):
    """Pack the run of ``folder`` as the page says."""
    subprocess.run(["tar", "czf", str(file), "-C", str(folder / "runs"), "tiny"], check=True)
    return file


def unpacked(file, folder):
    """Unpack it there, in place of what was there."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    subprocess.run(["rm", "-rf", str(folder / "runs/tiny")], check=True)
    with tarfile.open(file) as archive:
        archive.extractall(folder / "runs", filter="data")
    return folder


def without_network():
    """What starts a process that reaches nothing, itself apart."""
    alone = ["unshare", "--map-root-user", "--net"]
    works = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    return alone if works else []


@pytest.mark.exhaustive
def test_a_run_is_carried_to_a_board_and_back_with_its_seals(desk, command, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for folder in (desk, there):
        (folder / "elsewhere.yaml").write_text(ELSEWHERE.format(python=sys.executable))
    assert command(desk, "export", "tiny", "--target", "elsewhere.yaml").code == 0
    before = (desk / "runs/tiny/ledger.jsonl").read_bytes()

    unpacked(packed(desk, tmp_path / "out.tar.gz"), there)
    words = [sys.executable, "-c", MAIN, "evaluate", "runs/tiny", "--target", "elsewhere.yaml", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*without_network(), *words], cwd=there, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1, 3), done.stderr
    back = packed(there, tmp_path / "back.tar.gz")

    unpacked(back, desk)
    # What the board did continues what was carried to it; nothing of that was written anew.
    assert (desk / "runs/tiny/ledger.jsonl").read_bytes().startswith(before)
    assert command(desk, "verify", "tiny").code == 0
    told = command(desk, "report", "tiny", "--target", "elsewhere", "--json")
    assert told.code == 0, told.err
    rows = [row for row in told.document["measurements"] if row["subject"] == SUBJECT]
    assert {"clean_accuracy", "robust_accuracy", "latency_ms.p50"} <= {row["metric"] for row in rows}
    assert "square-30" in {row["attack"] for row in rows}, "queries are asked there"

    # One label that was mended on the way.
    outcomes = desk / "runs/tiny/boards" / SUBJECT / "outcomes.npz"
    arrays = dict(np.load(outcomes))
    arrays["predictions"] = arrays["labels"]
    np.savez(outcomes, **arrays)
    found = command(desk, "verify", "tiny")
    assert (found.code, "outcomes.npz" in found.err) == (2, True)
    assert command(desk, "gate", "tiny", "--target", "elsewhere").code == 2
