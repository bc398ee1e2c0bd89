"""``robustdeploy board``: make, start and stop an emulated Arm board on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from robustdeploy.cli.completion import complete_folder
from robustdeploy.cli.options import ForceOption, JsonOption, QuietOption
from robustdeploy.cli.result import show
from robustdeploy.devices.emulator import server
from robustdeploy.devices.emulator.assembly import assemble
from robustdeploy.devices.emulator.folder import DEFAULT, Folder, folder_at, whole_board
from robustdeploy.errors import UsageError


class Action(StrEnum):
    """What is done to the board."""

    create = "create"
    start = "start"
    stop = "stop"
    status = "status"


ActionArgument = Annotated[Action, typer.Argument(metavar="ACTION", help="create, start, stop or status.")]
FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the board.", autocompletion=complete_folder)
]
PortOption = Annotated[
    Optional[int],  # noqa: UP045 - Typer reads it at run time
    typer.Option("--port", min=1, max=65535, help="For start: port on loopback; one that is free when left out."),
]


def board(
    action: ActionArgument,
    folder: FolderArgument = Path(DEFAULT),
    port: PortOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make, start or stop an emulated Arm board.

    ACTION is create, start, stop or status. It needs no root. Its target is aarch64-emulated, or DIR/target.yaml.
    """
    if port is not None and action is not Action.start:
        raise UsageError(f"--port is for `board start`; `board {action.value}` opens none")

    def say(words: str) -> None:
        if not (quiet or as_json):
            typer.echo(words, err=True)

    if action is Action.create:
        lines, document = _created(folder_at(folder), folder, force, say)
    elif action is Action.start:
        lines, document = _started(folder, port)
    elif action is Action.stop:
        lines, document = _stopped(folder)
    else:
        lines, document = _status(folder)
    show(lines, document, as_json)


def _created(board: Folder, given: Path, force: bool, say: Any) -> tuple[list[str], dict[str, Any]]:
    if board.path.is_dir() and not board.begun and any(board.path.iterdir()):
        raise UsageError(f"{given} holds other files, and a board needs a folder of its own; give another folder")
    with _taken(board):
        facts, state = board.facts, "is there already; --force makes it anew"
        if force or facts is None:
            if server.running(board) is not None:
                raise UsageError(f"the board in {given} is running; `robustdeploy board stop {given}` first")
            facts, state = assemble(board, say), "is made"
    lines = [f"the board in {given} {state}: {_words(facts)}", f"next: robustdeploy board start {given}"]
    return lines, {"folder": str(board.path), **facts}


def _started(given: Path, port: int | None) -> tuple[list[str], dict[str, Any]]:
    board, facts = whole_board(given)
    with _taken(board):
        found = server.running(board)
        if found is not None and port not in (None, found.port):
            raise UsageError(f"the board in {given} runs on port {found.port} already; stop it to change the port")
        state = "is running" if found is None else "was running already"
        found = found or server.start(board, port)
    lines = [
        f"the board in {given} {state} on port {found.port} of this machine: {_words(facts)}",
        f"next: robustdeploy run --target {board.target}",
    ]
    return lines, {
        "folder": str(board.path),
        "port": found.port,
        "target": str(board.target),
        "config": str(board.config),
    }


def _stopped(given: Path) -> tuple[list[str], dict[str, Any]]:
    board = folder_at(given)
    if not board.begun:
        whole_board(given)
    with _taken(board):
        was = server.running(board) is not None
        ended = server.stop(board)
    besides = f", with {ended} processes that were left on it" if ended else ""
    state = f"is stopped{besides}" if was else f"was not running{besides}"
    return [f"the board in {given} {state}"], {"folder": str(board.path), "was_running": was, "ended": ended}


def _status(given: Path) -> tuple[list[str], dict[str, Any]]:
    board, facts = whole_board(given)
    found = server.running(board)
    count = 0 if found is None else server.sessions(board, found)
    state = "is not running" if found is None else f"is running on port {found.port}, with {count} processes on it"
    document = {"folder": str(board.path), "running": found is not None, "processes": count, **facts}
    document["port"] = None if found is None else found.port
    return [f"the board in {given} {state}: {_words(facts)}"], document


def _words(facts: dict[str, Any]) -> str:
    words = f"{facts['machine']} ({facts['cpu']}, emulated), Python {facts['python']}, numpy {facts['numpy']}"
    tvm = f", TVM's runtime {facts['tvm_runtime']}" if facts["tvm_runtime"] else ""
    return f"{words}, onnxruntime {facts['onnxruntime']}{tvm}"


@contextmanager
def _taken(board: Folder) -> Iterator[None]:
    handle = board.taken()
    try:
        yield
    finally:
        os.close(handle)
