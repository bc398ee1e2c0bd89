"""The program: run one command; errors become one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from robustdeploy.cli import INTERRUPTED
from robustdeploy.cli.app import app
from robustdeploy.cli.streams import exit_code, guard, shows_everything
from robustdeploy.cli.threads import wait_briefly_if_busy
from robustdeploy.core.interrupts import end_with_parent, remember_interrupts, signal_received
from robustdeploy.errors import TOLD_IN, RobustdeployError
from robustdeploy.foreign import json_text, one_line, sentence

_OF_THE_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP})
"""What the system says of a path that a user gave and nobody may even look at."""
_LEFT = (
    "code of a net or a plug-in left the program by sys.exit({}), so there is no result; what starts a program of its "
    "own belongs under `if __name__ == '__main__':`"
)
# What Typer raises for a wrong option or command has no public name of its own.
_WrongUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def ended() -> int:
    """Run the command that was asked for and return its exit code; what it printed has been written or is given up."""
    remember_interrupts()
    if TOLD_IN in os.environ:  # a run of a series, which nobody would wait for any more
        end_with_parent()
    stdout, _stderr = guard()
    code, said = exit_code(_run(), stdout)
    if said:
        print(f"error: {said}", file=sys.stderr)
    return code


def _run() -> int | None:
    """Run one command and say what went wrong; None where it ended without a code of its own."""
    try:
        wait_briefly_if_busy()
        code = app(prog_name="robustdeploy", standalone_mode=False)
        if code == 130:  # Typer makes this of an interrupt, and says nothing
            return _interrupted()
        return code if isinstance(code, int) else None
    except RobustdeployError as error:
        return _told(error.exit_code, type(error).__name__, str(error))
    except _WrongUsage as error:
        return _usage_told(error)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SystemExit as end:
        # Typer ends so where it completed a word or showed how. Of anybody else's code a 0 would read as PASS.
        if _raised_by_typer(end):
            raise
        return _told(2, "UsageError", _LEFT.format(end.code))
    except OSError as error:
        if error.errno not in _OF_THE_PATH or error.filename is None:
            return _fault(error)
        path, why = one_line(error.filename)[:80], (error.strerror or "").lower()
        return _told(2, "UsageError", f"cannot look at {path}: {why}; give another path, or leave to read this one")
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> int:
    """Tell of an error that nobody foresaw, with its traceback."""
    if _began_as_interrupt(error):
        return _interrupted()
    # Python's own exit code for this is 1, which would read as a verdict.
    traceback.print_exc()
    fault = f"{error}: this is a fault of robustdeploy itself; please report the lines above"
    return _told(4, type(error).__name__, fault)


def _interrupted() -> int:
    return _told(128 + signal_received(), "Interrupted", INTERRUPTED)


def _raised_by_typer(end: SystemExit) -> bool:
    """Whether Typer's own code asked to leave, and not code that it called."""
    *_, (frame, _line) = traceback.walk_tb(end.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] == typer.__name__


def _began_as_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: an extension module interrupted while it loads raises what it likes."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told(code: int, kind: str, message: str) -> int:
    """Print an error on stderr, and with ``--json`` as the one document on stdout too."""
    print(f"error: {message}", file=sys.stderr)
    _document(kind, message)
    if path := os.environ.get(TOLD_IN):
        with suppress(OSError):
            Path(path).write_text(message, encoding="utf-8")
    return code


def _document(kind: str, message: str) -> None:
    if "--json" in sys.argv:
        plain = not shows_everything(sys.stdout)
        print(json_text({"error": {"kind": kind, "message": message}}, ascii_only=plain))


def _usage_told(error: Any) -> int:
    """Let Typer show how the command is used; without any words, that is its help and no error."""
    message = str(error.format_message())
    if type(error).__name__ != "NoArgsIsHelpError":
        message = sentence(message)  # it repeats the user's words
        error.format_message = lambda: message
    error.show(sys.stderr)  # by itself Typer would look for another way to stderr where that is ASCII
    _document("UsageError", message)
    return int(error.exit_code)
