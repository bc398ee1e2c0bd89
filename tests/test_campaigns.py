"""The campaigns that damage, interrupt and cramp a small run, or fill its disk, over a few real trials each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["damage.py", "--trials", "25", "--command", "report", "--command", "verify", "--command", "ls"],
        ["signals.py", "--trials", "6", "--command", "report", "--command", "gate"],
        ["small_files.py", "--trials", "4", "--command", "report"],
        pytest.param(
            ["full_disk.py", "--trials", "4", "--command", "report"],
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted for it, which takes root"),
        ),
    ],
    ids=lambda words: words[0],
)
def test_a_campaign_counts_its_trials_and_finds_no_fault(words):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / words[0]), *words[1:]],
        capture_output=True,
        timeout=900,
        check=False,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counted = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert (counted["trials"], counted["faults"]) == (int(words[2]), {})
