"""``robustdeploy serve``: the pages of a folder of runs in a browser on this machine."""

from __future__ import annotations

import sys
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from robustdeploy.cli.index import FolderArgument
from robustdeploy.cli.options import RUNS
from robustdeploy.report.index import write_index
from robustdeploy.report.serving import server_of

PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any that is free.")]
OpenOption = Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")]


def serve(runs: FolderArgument = RUNS, port: PortOption = 8000, open_: OpenOption = True) -> None:
    """Show all reports in a browser on this machine.

    It begins with the page that `index` writes.

    Only this machine is answered, and only pages are handed out: no weights, no images, no records. Ctrl-C ends it.
    """
    write_index(runs)
    with server_of(runs, port) as server:
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        print(f"{address} shows {runs}; Ctrl-C ends it", flush=True)
        # A browser of words alone would take this terminal.
        if open_ and sys.stdout.isatty():
            webbrowser.open(address)
        # Ctrl-C is how it is ended, not a mistake.
        with suppress(KeyboardInterrupt):
            server.serve_forever()
