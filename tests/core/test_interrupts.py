"""Signals: the first one is heeded at a safe point, at the latest where the work ends that it came into."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from robustdeploy.core import interrupts
from robustdeploy.core.interrupts import catch_signals, interrupted, remember_interrupts, signal_received
from robustdeploy.errors import Interrupted


def step(number, done):
    with catch_signals():
        os.kill(os.getpid(), number)
        done.append("this step")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_nothing_heeded_does_not_let_the_next_step_begin(number, code):
    before, done = signal.getsignal(number), []
    with pytest.raises(Interrupted) as stopped:
        step(number, done)
    assert (done, stopped.value.exit_code) == (["this step"], code)
    assert signal.getsignal(number) is before
    with catch_signals():
        assert not interrupted()


def test_an_error_is_told_rather_than_the_signal_before_it():
    with pytest.raises(AttributeError, match="append"):
        step(signal.SIGTERM, None)


@pytest.fixture
def handlers():
    """Puts back what a test does to the signals of this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._received.clear()


@pytest.mark.parametrize(("number", "own"), [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, None)])
def test_a_signal_that_a_library_took_for_its_own_does_not_let_the_work_begin(handlers, number, own):
    done = []
    signal.signal(number, own or signal.SIG_DFL)
    remember_interrupts()
    with contextlib.suppress(KeyboardInterrupt):  # as extension modules do
        os.kill(os.getpid(), number)
        done.append("not interrupted")
    assert signal_received() == number
    with pytest.raises(Interrupted), catch_signals():
        done.append("begun")
    assert done == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_a_shell_began_in_the_background_heeds_signals_all_the_same(handlers, number):
    signal.signal(number, signal.SIG_IGN)
    remember_interrupts()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert signal_received() == number


CHILD = """
import os, signal, sys, time
from robustdeploy.core.interrupts import end_with_parent
def told(number, frame):
    print("told", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, told)
end_with_parent()
print("begun", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_run_of_a_series_is_told_to_stop_when_the_series_is_killed():
    words = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        assert parent.stdout.readline() == "told\n"


def test_a_handler_of_somebody_else_stays(handlers):
    def own(number, frame):
        return None

    signal.signal(signal.SIGINT, own)
    remember_interrupts()
    assert signal.getsignal(signal.SIGINT) is own


def test_a_signal_that_comes_while_the_block_ends_is_not_lost(monkeypatch):
    restore = interrupts._restore

    def late(before):
        interrupts._received.append(signal.SIGTERM)
        restore(before)

    monkeypatch.setattr(interrupts, "_restore", late)
    with pytest.raises(Interrupted) as stopped, catch_signals():
        pass
    assert stopped.value.exit_code == 143
    assert not interrupted()
