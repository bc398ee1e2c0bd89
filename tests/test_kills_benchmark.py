"""The benchmark that kills a training, over a handful of real kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent.parent / "benchmarks" / "kills.py"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_it_counts_its_kills_and_finds_nothing_lost():
    done = subprocess.run(
        [sys.executable, str(KILLS), "--kills", "3"], capture_output=True, timeout=300, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted.pop("kills") == 3
    assert counted.pop("finished") >= 0
    assert counted == {"crashed": 0, "lost": 0, "unreadable": 0, "different": 0}
