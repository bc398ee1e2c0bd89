"""The benchmark that kills evaluations on a board, over a handful of real kills."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent.parent / "benchmarks" / "board_kills.py"
SERVER = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@pytest.mark.slow
@pytest.mark.skipif(not (SERVER and shutil.which("ssh")), reason="OpenSSH's server or client is not installed")
@pytest.mark.exhaustive
def test_evaluations_that_were_killed_end_alike_and_leave_nothing(chain):
    words = [sys.executable, str(KILLS), "--kills", "3", "--run", str(chain / "runs" / "tiny")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, timeout=300, check=False, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(done.stdout)
    assert counted["kills"] >= 3
    assert counted["went_on"] + counted["ended_with_4_then_resumed"] == counted["kills"]
    assert (counted["different"], counted["left_on_the_board"], counted["never_finished"]) == (0, 0, 0)
