"""The command line: parse options, call one function, print; errors become one sentence and an exit code."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any


def main() -> None:
    """Run the command line; this is the ``robustdeploy`` script."""
    import typer

    from robustdeploy.cli.app import app
    from robustdeploy.cli.threads import wait_briefly_if_busy
    from robustdeploy.errors import RobustdeployError

    wait_briefly_if_busy()
    # What Typer raises for a wrong option or command has no public name of its own.
    wrong_usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        code = app(prog_name="robustdeploy", standalone_mode=False)
    except RobustdeployError as error:
        _end(error.exit_code, type(error).__name__, str(error))
    except wrong_usage as error:
        _end_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        # Python's own exit code for this is 1, which would read as a verdict.
        traceback.print_exc()
        _end(4, type(error).__name__, f"{error}: this is a fault of robustdeploy itself; please report the lines above")
    if code == 130:
        _end(130, "Interrupted", "interrupted; the same command resumes where this stopped")
    sys.exit(code if isinstance(code, int) else 0)


def _end(code: int, kind: str, message: str, shown: bool = False) -> None:
    """Print an error on stderr, and with ``--json`` as the one document on stdout too."""
    if not shown:
        print(f"error: {message}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False))
    sys.exit(code)


def _end_usage(error: object) -> None:
    """Let Typer show how the command is used; without any words, that is its help and no error."""
    message = str(getattr(error, "format_message", lambda: error)())
    getattr(error, "show", lambda: None)()
    _end(int(getattr(error, "exit_code", 2)), "UsageError", message, shown=True)
