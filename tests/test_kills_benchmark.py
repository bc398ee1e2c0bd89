"""The benchmarks that kill a training and an evaluation, over a handful of real kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def counts(script: str) -> dict[str, float]:
    """Run a benchmark for three kills, and return what it counted."""
    words = [sys.executable, str(BENCHMARKS / script), "--kills", "3"]
    done = subprocess.run(words, capture_output=True, timeout=300, check=False, text=True)
    assert done.returncode == 0, done.stderr
    counted: dict[str, float] = json.loads(done.stdout)
    assert counted.pop("kills") >= 3
    return counted


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_trainings_are_counted_and_lose_nothing():
    counted = counts("kills.py")
    assert counted.pop("finished") >= 0
    assert counted == {"crashed": 0, "lost": 0, "unreadable": 0, "different": 0}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_killed_evaluations_are_counted_and_lose_nothing():
    counted = counts("evaluation_kills.py")
    assert counted.pop("finished") >= 1
    assert counted.pop("alone_s") > 0
    assert counted == {"failed": 0, "different": 0, "doubled": 0, "damaged": 0}
