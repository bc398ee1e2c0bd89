"""Forks: each run is a process of its own. One that is killed ends alone, and none outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.engine.run import Run
from robustdeploy.series.forks import Forks

STAYS = ("serve", ".", "--port", "0", "--no-open")
"""A command that goes on until it is told to stop, and does nothing meanwhile."""
HOST = """
import os, sys, time
from pathlib import Path
from robustdeploy.series.forks import Forks
forks = Forks(Path.cwd(), os.environ)
forks.start(sys.argv[1:], Path("told").absolute())
time.sleep(600)
"""


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(found, wanted, ends_s=120):
    ends = time.monotonic() + ends_s
    while (now := found()) != wanted and time.monotonic() < ends:
        time.sleep(0.05)
    assert now == wanted
    return now


def ended(forks, ends_s=120):
    ends, codes = time.monotonic() + ends_s, {}
    while not codes and time.monotonic() < ends:
        codes = forks.ended(0.2)
    return codes


def answers(pid):
    """Whether a `serve` is past its start: it listens then."""
    return any("socket" in str(each.readlink()) for each in Path(f"/proc/{pid}/fd").glob("*") if each.exists())


@pytest.fixture
def folder(tmp_path):
    """A folder with a run that has begun, which is something to serve."""
    Run.for_recipe(tmp_path, load_recipe("digits-resnet8"), "begun")
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_runs_end_each_by_itself_and_all_with_what_starts_them(folder):
    with closing(Forks(folder, dict(os.environ))) as forks:
        wrong = forks.start(["gate", "nowhere"], folder / "told-wrong")
        assert ended(forks) == {wrong: 2}
        assert "nowhere" in (folder / "told-wrong").read_text()
        server = forks._server.pid
        # A thread would be missing in the forks, and what it holds would never be let go.
        assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1

        first, second = (forks.start(STAYS, folder / name) for name in ("told-1", "told-2"))
        until(lambda: len(children(server)), 2)
        killed, stays = sorted(children(server))
        until(lambda: answers(killed) and answers(stays), True)
        # Ctrl-C in a terminal goes to all of its session.
        assert len({os.getsid(pid) for pid in (os.getpid(), server, killed, stays)}) == 4
        os.kill(killed, signal.SIGKILL)
        assert ended(forks) == {first: -signal.SIGKILL}
        assert children(server) == [stays]
        forks.interrupt()
        assert ended(forks) == {second: 0}

        third = forks.start(STAYS, folder / "told-3")
        until(lambda: len(children(server)), 1)
        (left,) = children(server)
        until(lambda: answers(left), True)
        os.kill(server, signal.SIGKILL)
        assert ended(forks) == {third: -signal.SIGKILL}
        until(lambda: Path(f"/proc/{left}").exists(), False)
        # The next one is started by another, which is interrupted while it loads.
        fourth = forks.start(STAYS, folder / "told-4")
        assert forks._server.pid != server
        forks.interrupt()
        assert ended(forks)[fourth] != 0


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_outlives_a_series_that_is_killed(folder):
    host = subprocess.Popen([sys.executable, "-c", HOST, *STAYS], cwd=folder, env=os.environ)
    until(lambda: len(children(host.pid)), 1)
    (server,) = children(host.pid)
    # While it loads, libraries start programs of their own.
    until(lambda: [answers(pid) for pid in children(server)], [True])
    (run,) = children(server)
    host.kill()
    host.wait()
    until(lambda: Path(f"/proc/{server}").exists() or Path(f"/proc/{run}").exists(), False)
