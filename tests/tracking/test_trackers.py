"""Several listeners as one: all hear all, and one that fails is left out with one warning, whatever it raises."""

import errno
import io
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from robustdeploy.core.callback import Callback, Event
from robustdeploy.core.recipe import Recipe
from robustdeploy.errors import Interrupted
from robustdeploy.onboard.types import Probe
from robustdeploy.tracking.trackers import Trackers

FULL = Path("/dev/full")
RECIPE = Recipe(name="x")
EVENT = Event("sealed", "train", "train", "sealed")
METHODS = ("say", "progress", "begin", "event", "history", "metrics", "report", "close")
FAILURES = {
    "a disk that is full": OSError(errno.ENOSPC, "No space left on device"),
    "an error of several lines": RuntimeError("first line\nsecond line"),
    "an error without words": KeyError(),
    "an exit": SystemExit(3),
    "a package that is gone": ModuleNotFoundError("No module named 'mlflow'"),
}


class Heard(Callback):
    """Keeps the names of what it heard; ``failing`` is raised by the method ``at``."""

    def __init__(self, at=None, failing=None):
        self.at, self.failing, self.heard = at, failing, []

    def _hear(self, name):
        self.heard.append(name)
        if name == self.at:
            raise self.failing

    def say(self, line):
        self._hear("say")

    def progress(self, what, done, total, **numbers):
        self._hear("progress")

    def begin(self, run, recipe):
        self._hear("begin")

    def event(self, event):
        self._hear("event")

    def history(self, place, records, *, anew):
        self._hear("history")

    def metrics(self, place, epoch, numbers):
        self._hear("metrics")

    def report(self, report, files):
        self._hear("report")

    def close(self, error=None):
        self._hear("close")
        self.error = error


@dataclass(frozen=True)
class Plugin:
    """A tracker that opens what it was given, run after run."""

    talks: list = field(default_factory=list)
    opened: list = field(default_factory=list)

    def probe(self):
        return Probe(usable=True)

    def open(self, run, recipe):
        self.opened.append(run)
        return self.talks.pop(0)


class Opens(Plugin):
    """A plug-in that cannot open."""

    def open(self, run, recipe):
        raise ConnectionError("http://me:secret@store.example/x refused")


def tell(callback, run):
    """Tell all there is to tell of a run."""
    callback.say("a line")
    callback.progress("training train", 1, 8, loss=1.0)
    callback.begin(run, RECIPE)
    callback.event(EVENT)
    callback.history("train", (), anew=True)
    callback.metrics("train", 1, {"epoch": 1, "train_loss": 0.5})
    callback.report(None, ())


def warnings(said):
    return [line for line in said.splitlines() if "warning: " in line]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_listener_that_fails_is_left_out_with_one_warning_and_the_others_hear_all(method, failure, tmp_path, capsys):
    bad, good = Heard(method, FAILURES[failure]), Heard()
    with Trackers([bad, good]) as callback:
        tell(callback, tmp_path)
        tell(callback, tmp_path)
    once = [name for name in METHODS if name not in ("begin", "close")]
    assert sorted(good.heard) == sorted([*once, *once, "begin", "close"])
    assert bad.heard.count(method) == 1
    assert bad.heard[-1] == method, "it is asked for nothing more"
    (warning,) = warnings(capsys.readouterr().err)
    assert "the tracker Heard failed and is left out" in warning


def test_the_warning_says_why_on_one_line(tmp_path, capsys):
    with Trackers([Heard("say", RuntimeError("first\nsecond \x1b[31m"))]) as callback:
        callback.say("a line")
    assert warnings(capsys.readouterr().err)[0].endswith("first second \\x1b[31m")


def test_a_password_in_an_address_is_not_repeated(tmp_path, capsys):
    with Trackers([Opens()]) as callback:
        callback.begin(tmp_path, RECIPE)
    (warning,) = warnings(capsys.readouterr().err)
    assert "secret" not in warning
    assert "store.example" in warning


def test_a_plug_in_that_cannot_open_hears_nothing_and_fails_nothing(tmp_path, capsys):
    good = Heard()
    with Trackers([Opens(), Plugin([good])]) as callback:
        tell(callback, tmp_path)
    assert good.heard == ["event", "history", "metrics", "report", "close"]
    assert len(warnings(capsys.readouterr().err)) == 1


def test_quiet_keeps_the_warning_alone(tmp_path, capsys):
    with Trackers([Heard("metrics", OSError("gone"))], quiet=True) as callback:
        tell(callback, tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].endswith("the work goes on: gone")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_listener_on_a_full_disk_is_left_out(tmp_path, capsys):
    class Lines(Callback):
        def metrics(self, place, epoch, numbers):
            with FULL.open("w") as file:
                file.write(str(numbers))

    with Trackers([Lines()]) as callback:
        tell(callback, tmp_path)
    assert "No space left on device" in warnings(capsys.readouterr().err)[0]


def test_all_are_closed_with_the_error_that_ends_the_work(tmp_path, capsys):
    first, second, error = Heard("close", OSError("gone")), Heard(), Interrupted(15)

    def work():
        with Trackers([first, Plugin([second])]) as callback:
            callback.begin(tmp_path, RECIPE)
            raise error

    with pytest.raises(Interrupted):
        work()
    assert second.error is error
    assert first.heard == ["begin", "close"]
    assert len(warnings(capsys.readouterr().err)) == 1


def test_ctrl_c_is_no_failure_of_a_tracker(tmp_path):
    with pytest.raises(KeyboardInterrupt), Trackers([Heard("say", KeyboardInterrupt())]) as callback:
        callback.say("a line")


def test_what_a_tracker_prints_stays_away_from_results(tmp_path, capsys):
    class Chatty(Callback):
        def say(self, line):
            print("View run at http://store.example")

    out = io.StringIO()
    with redirect_stdout(out), Trackers([Chatty()]) as callback:
        callback.say("a line")
        print("{}")
    assert out.getvalue() == "{}\n"
    assert "View run" in capsys.readouterr().err


def test_results_go_to_stdout_once_the_bars_of_a_terminal_are_off(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    out, screen = io.StringIO(), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Trackers([Heard(), Heard("say", OSError("gone"))]) as callback:
        callback.progress("reading images", 1, 10)
        callback.say("a line")
    print("{}")
    assert out.getvalue() == "{}\n"
    assert sys.stdout is out
    assert "a line" in screen.getvalue()
    assert "is left out" in screen.getvalue()


def test_a_run_is_opened_once_and_another_run_anew(tmp_path):
    talks = [Heard(), Heard()]
    plugin, listener = Plugin(list(talks)), Heard()
    with Trackers([plugin, listener]) as callback:
        for name in ("one", "one", "../" + tmp_path.name + "/one", "two"):
            callback.begin(tmp_path / name, RECIPE)
            callback.event(EVENT)
    assert [run.name for run in plugin.opened] == ["one", "two"]
    assert [each.heard for each in talks] == [["event"] * 3 + ["close"], ["event", "close"]]
    assert listener.heard.count("begin") == 2
    assert listener.heard.count("close") == 1


def test_stderr_that_is_closed_ends_no_work(tmp_path, monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    good = Heard()
    with Trackers([good, Heard("say", OSError("gone"))]) as callback:
        callback.say("a line")
        callback.say("a line")
    assert good.heard == ["say", "say", "close"]
