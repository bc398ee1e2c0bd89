"""The command line: parse options, call one function, print; errors become one sentence and an exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

INTERRUPTED = "interrupted; the same command resumes where this stopped"


def main() -> NoReturn:
    """Run the command line; this is the ``robustdeploy`` script."""
    try:
        # In here, so that Ctrl-C while packages load ends without a traceback.
        from robustdeploy.cli.program import ended

        code = ended()
    except KeyboardInterrupt:
        print(f"error: {INTERRUPTED}", file=sys.stderr)
        code = 130
    sys.exit(code)
