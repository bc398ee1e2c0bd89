"""The command line: parse options, call one function, print; errors become one sentence and an exit code."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Run the command line; this is the ``robustdeploy`` script."""
    from robustdeploy.cli.app import app
    from robustdeploy.errors import RobustdeployError

    try:
        app()
    except RobustdeployError as error:
        _say(type(error).__name__, str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("Interrupted", "interrupted; the same command resumes where this stopped")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _say(kind: str, message: str) -> None:
    """Print an error on stderr, and with ``--json`` as the one document on stdout too."""
    print(f"error: {message}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": {"kind": kind, "message": message}}, ensure_ascii=False))
