"""Signals: the first one is heeded at a safe point, at the latest where the work ends that it came into."""

import contextlib
import os
import signal

import pytest

from robustdeploy.core import interrupts
from robustdeploy.core.interrupts import catch_signals, interrupted, remember_interrupts
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


def test_an_interrupt_that_a_library_took_for_its_own_does_not_let_the_work_begin():
    before, done = signal.getsignal(signal.SIGINT), []
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        remember_interrupts()
        with contextlib.suppress(KeyboardInterrupt):  # as extension modules do
            os.kill(os.getpid(), signal.SIGINT)
            done.append("not interrupted")
        with pytest.raises(Interrupted), catch_signals():
            done.append("begun")
    finally:
        signal.signal(signal.SIGINT, before)
        interrupts._received.clear()
    assert done == []


def test_a_command_that_was_told_to_ignore_interrupts_does():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        remember_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
