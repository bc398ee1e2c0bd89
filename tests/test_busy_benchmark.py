"""benchmarks/busy.py: every way has a process with its own settings, and what keeps a core busy does not outlive it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import busy

PARENT = """
import sys
sys.path.insert(0, {benchmarks!r})
import busy
with busy._kept_busy(1):
    print("busy", flush=True)
    sys.stdin.read()
"""


def busy_loops():
    """Numbers of the processes that are kept busy, on behalf of whatever process."""
    found = set()
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes()
        except OSError:  # it has ended by now
            continue
        if b"while os.getppid() ==" in words:
            found.add(int(line.parent.name))
    return found


def wait_until(holds):
    until = time.monotonic() + 30
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)


def test_a_report_has_each_way_quiet_and_busy(chain, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the ways' own settings count, not what happens to be set
    asked, others = [], []

    def run(command, env=None, **more):
        if "--only-steps" not in command:
            return really(command, env=env, **more)
        asked.append({name: env[name] for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT") if name in env})
        wait_until(lambda: len(busy_loops() - before) == (len(asked) > 6))  # a new one has no command line for a moment
        others.append(len(busy_loops() - before))
        rate = {"torch's own": 4.0, "short wait": 6.0, "one thread": 2.0}[way_of(asked[-1])]
        return subprocess.CompletedProcess(command, 0, stdout=f"{rate * (1 if others[-1] else 10)}\n")

    def way_of(settings):
        return next(way for way, its in busy.WAYS.items() if its == settings)

    before, really = busy_loops(), subprocess.run
    monkeypatch.setattr(busy.subprocess, "run", run)
    assert busy.main([str(chain / "runs/tiny/nets/dense"), "--rounds", "2", "--others", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert asked == list(busy.WAYS.values()) * 4
    assert others == [0] * 6 + [1] * 6
    for part, factor in (("quiet", 10), ("busy", 1)):
        assert {way: figures["steps_per_s"] / factor for way, figures in told[part].items()} == {
            "torch's own": 4.0,
            "short wait": 6.0,
            "one thread": 2.0,
        }
        assert [figures["times torch's own"] for figures in told[part].values()] == [1.0, 1.5, 0.5]
    assert told["conditions"]["rounds"] == 2
    assert busy_loops() == before


def test_one_turn_makes_steps(chain, capsys):
    net = chain / "runs/tiny/nets/dense"
    assert busy.main([str(net), "--batch-size", "4", "--seconds", "0.05", "--only-steps"]) == 0
    assert float(capsys.readouterr().out) > 0


def test_a_folder_without_a_net_is_told_in_a_sentence(tmp_path, capsys):
    assert busy.main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert str(tmp_path) in said.err


@pytest.mark.alike(1)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_keeps_a_core_busy_ends_even_where_the_benchmark_is_killed(how):
    before = busy_loops()
    command = [sys.executable, "-c", PARENT.format(benchmarks=str(Path(busy.__file__).parent))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "busy\n"
        wait_until(lambda: busy_loops() - before)
        (loop,) = busy_loops() - before
        os.kill(parent.pid, how)
    wait_until(lambda: loop not in busy_loops())
    assert loop not in busy_loops()
