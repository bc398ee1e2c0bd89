"""The command line: parse options, call one function, print; errors become one sentence and an exit code."""

from __future__ import annotations

import errno
import sys
from typing import Any, NoReturn

_OF_THE_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP})
"""What the system says of a path that a user gave and nobody may even look at."""


def main() -> NoReturn:
    """Run the command line; this is the ``robustdeploy`` script."""
    try:
        from robustdeploy.cli.streams import exit_code, guard

        stdout, _stderr = guard()
        code, sentence = exit_code(_run(), stdout)
        if sentence:
            print(f"error: {sentence}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _run() -> int | None:
    """Run one command and say what went wrong; None where it ended without a code of its own."""
    try:
        import typer

        from robustdeploy.cli.app import app
        from robustdeploy.cli.threads import wait_briefly_if_busy
        from robustdeploy.errors import RobustdeployError

        # What Typer raises for a wrong option or command has no public name of its own.
        wrong_usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    except KeyboardInterrupt:
        return _interrupted()
    try:
        wait_briefly_if_busy()
        code = app(prog_name="robustdeploy", standalone_mode=False)
        return code if isinstance(code, int) else None
    except RobustdeployError as error:
        return _told(error.exit_code, type(error).__name__, str(error))
    except wrong_usage as error:
        return _usage_told(error)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except OSError as error:
        if error.errno not in _OF_THE_PATH or error.filename is None:
            return _fault(error)
        from robustdeploy.foreign import one_line

        path, why = one_line(error.filename)[:80], (error.strerror or "").lower()
        return _told(2, "UsageError", f"cannot look at {path}: {why}; give another path, or leave to read this one")
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> int:
    """Tell of an error that nobody foresaw, with its traceback."""
    if _began_as_interrupt(error):
        return _interrupted()
    import traceback

    # Python's own exit code for this is 1, which would read as a verdict.
    traceback.print_exc()
    fault = f"{error}: this is a fault of robustdeploy itself; please report the lines above"
    return _told(4, type(error).__name__, fault)


def _interrupted() -> int:
    return _told(130, "Interrupted", "interrupted; the same command resumes where this stopped")


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
    return code


def _document(kind: str, message: str) -> None:
    if "--json" in sys.argv:
        from robustdeploy.cli.streams import shows_everything
        from robustdeploy.foreign import json_text

        plain = not shows_everything(sys.stdout)
        print(json_text({"error": {"kind": kind, "message": message}}, ascii_only=plain))


def _usage_told(error: Any) -> int:
    """Let Typer show how the command is used; without any words, that is its help and no error."""
    from robustdeploy.foreign import sentence

    message = str(error.format_message())
    if type(error).__name__ != "NoArgsIsHelpError":
        message = sentence(message)  # it repeats the user's words
        error.format_message = lambda: message
    error.show(sys.stderr)  # by itself Typer would look for another way to stderr where that is ASCII
    _document("UsageError", message)
    return int(error.exit_code)
