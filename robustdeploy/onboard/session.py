"""One session with a host: read a request, answer it, until it says close or is gone."""

from __future__ import annotations

from io import FileIO
from pathlib import Path

from ..errors import RobustdeployError, WireError
from .service import Service
from .store import Store
from .wire import Message, read_message, write_message


def serve(reader: FileIO, writer: FileIO, folder: Path) -> int:
    """Answer all requests with files in ``folder``; return the agent's exit code."""
    number: object = None

    def progress(queries: int) -> None:
        write_message(writer, {"progress": queries, "id": number})

    service = Service(Store(folder), progress)
    while True:
        try:
            request = read_message(reader)
        except WireError as error:  # what follows cannot be trusted to start a message
            # The host has to hear why, since the agent's standard error may be lost with the link.
            write_message(writer, {"error": {"kind": "WireError", "message": str(error)}})
            return 4
        if request is None:
            return 0
        number = request.head.get("id")
        reply = service.answer(request)
        _reply(writer, Message({**reply.head, "id": number}, reply.arrays))
        if request.head.get("op") == "close":
            return 0


def _reply(writer: FileIO, reply: Message) -> None:
    """Send ``reply``; where it cannot travel, say so instead."""
    try:
        write_message(writer, reply.head, reply.arrays)
    except RobustdeployError as error:
        said = {"kind": type(error).__name__, "message": str(error)}
        write_message(writer, {"error": said, "id": reply.head.get("id")}, {})
