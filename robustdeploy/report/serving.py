"""Serving: the pages of a folder of runs, to this machine alone."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from robustdeploy.core.files import lies_in
from robustdeploy.engine.overview import overviews
from robustdeploy.errors import EnvironmentFailure
from robustdeploy.report.index import FILENAME, index_page

_LOOPBACK = "127.0.0.1"


class _Pages(SimpleHTTPRequestHandler):
    """Hands out the index, made anew each time, and the pages of runs; nothing else is there."""

    def __init__(self, *given: Any, runs: Path, **more: Any) -> None:
        self._runs = runs
        super().__init__(*given, directory=str(runs), **more)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        # Another name for this machine: a page from elsewhere could have had its own name point here.
        if self.headers.get("Host", "").rpartition(":")[0] not in (_LOOPBACK, "localhost"):
            self.send_error(403, "only 127.0.0.1 and localhost are answered")
            return
        content = self._content()
        if content is None:
            self.send_error(404, "no such page")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _content(self) -> bytes | None:
        asked = PurePosixPath(unquote(urlsplit(self.path).path).lstrip("/"))
        if str(asked) in (".", FILENAME):
            return index_page(self._runs.resolve().name, overviews(self._runs)).encode()
        path = self._runs / asked
        # Weights, records and whatever else a run holds are not for a browser, nor is anything beside the folder.
        if len(asked.parts) > 2 or path.suffix != ".html" or not lies_in(path, self._runs) or not path.is_file():
            return None
        return path.read_bytes()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""


def server_of(runs: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the pages in ``runs`` on the loopback address; one that is taken is an EnvironmentFailure."""
    try:
        return ThreadingHTTPServer((_LOOPBACK, port), partial(_Pages, runs=runs))
    except OSError as error:
        raise EnvironmentFailure(
            f"port {port} cannot be had on {_LOOPBACK}: {error.strerror}; name another with --port, or 0 for any"
        ) from error
