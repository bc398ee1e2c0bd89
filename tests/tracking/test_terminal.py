"""What a command says on stderr of work that takes long, where no terminal is there."""

import pytest

from robustdeploy.tracking import terminal as module
from robustdeploy.tracking.terminal import Terminal, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def said(capsys):
    """All lines so far, without the time of day."""
    lines = []

    def so_far():
        lines.extend(line.partition(" ")[2] for line in capsys.readouterr().err.splitlines())
        return lines

    return so_far


def train(callback, clock, steps, per_epoch, seconds):
    epochs = steps // per_epoch
    for step in range(1, steps + 1):
        clock.now += seconds
        numbers = {"ops": 1 - step / steps} if step % 2 == 0 and step <= steps // 2 else {}
        callback.progress("training train", step, steps, epoch=step // per_epoch, epochs=epochs, loss=2.0, **numbers)


def test_a_training_has_one_line_per_epoch_with_what_is_kept_and_the_time_left(clock, said):
    with Terminal() as callback:
        train(callback, clock, steps=40, per_epoch=10, seconds=1.5)
    first, *epochs = said()
    assert first == "training train: epoch 0 of 4, loss 2.000"
    assert epochs == [
        "training train: epoch 1 of 4, kept 0.750, loss 2.000, 45 s left",
        "training train: epoch 2 of 4, kept 0.500, loss 2.000, 30 s left",
        "training train: epoch 3 of 4, kept 0.500, loss 2.000, 15 s left",
        "training train: epoch 4 of 4, kept 0.500, loss 2.000",
    ]


def test_a_long_epoch_has_a_line_a_minute(clock, said):
    with Terminal() as callback:
        train(callback, clock, steps=100, per_epoch=100, seconds=7)
    assert 10 <= len(said()) <= 13
    assert said()[1].endswith(" left")


def test_a_training_that_goes_on_counts_from_where_it_goes_on(clock, said):
    with Terminal() as callback:
        for step in (31, 40):
            clock.now += 9
            callback.progress("training train", step, 50, epoch=step // 10, epochs=5, loss=1.0)
    assert said()[-1] == "training train: epoch 4 of 5, loss 1.000, 10 s left"


def test_other_work_has_a_line_every_ten_seconds(clock, said):
    with Terminal() as callback:
        for done in range(100):
            clock.now += 0.5
            callback.progress("pgd-10", done, 100)
    assert len(said()) == 5
    assert said()[0] == "pgd-10: 0 of 100"


def test_a_quiet_talk_says_nothing(clock, said):
    with Terminal(quiet=True) as callback:
        train(callback, clock, steps=20, per_epoch=10, seconds=1)
    assert said() == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3600, "1 h 0 min"), (7799, "2 h 10 min")]
)
def test_a_duration_is_told_as_people_say_it(seconds, text):
    assert duration(seconds) == text
