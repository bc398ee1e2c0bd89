"""Making an emulated board: every way in which it does not come about leaves no board, and says what mends it."""

import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from robustdeploy.devices.emulator import assembly
from robustdeploy.devices.emulator import programs as host
from robustdeploy.devices.emulator.assembly import assemble
from robustdeploy.devices.emulator.folder import folder_at, whole_board
from robustdeploy.errors import StorageError, ToolchainError, UsageError


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with stand-ins of the host's programs, written by the test; nothing else of the machine is found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(host, "_PATH", str(folder))
    monkeypatch.setattr(host, "find_spec", lambda name: None)

    def write(name, text="exit 0"):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    for name in ("qemu-aarch64-static", "apt-get", "dpkg-deb", "uv"):
        write(name)
    write.without = lambda name: (folder / name).unlink()
    return write


@pytest.fixture
def place(tmp_path):
    folder = folder_at(tmp_path / "board")
    folder.path.mkdir()
    return folder


def silent(words):
    pass


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("qemu-aarch64-static", r"qemu-aarch64-static is not installed; `(sudo )?apt-get install qemu-user-static`"),
        ("apt-get", r"apt-get is not installed; `(sudo )?apt-get install apt`"),
        ("dpkg-deb", r"dpkg-deb is not installed"),
        ("uv", "neither uv nor pip is installed"),
    ],
)
def test_what_is_missing_is_named_with_its_command_before_anything_is_done(programs, place, missing, words):
    programs.without(missing)
    with pytest.raises(ToolchainError, match=words):
        assemble(place, silent)
    assert list(place.path.iterdir()) == []


def test_the_newer_name_of_qemu_is_found(programs):
    programs.without("qemu-aarch64-static")
    programs("qemu-aarch64")
    assert Path(host.tool("qemu-aarch64-static")).name == "qemu-aarch64"


@pytest.mark.parametrize(("system", "machine"), [("darwin", "x86_64"), ("linux", "arm64"), ("linux", "aarch64")])
def test_a_machine_that_emulates_nothing_says_why(programs, place, monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(host.platform, "machine", lambda: machine)
    with pytest.raises(ToolchainError, match="Linux alone" if system == "darwin" else "--target host-cpu"):
        assemble(place, silent)


def test_a_disk_without_room_is_told_first(programs, place, monkeypatch):
    usage = shutil.disk_usage(place.path)._replace(free=100 << 20)
    monkeypatch.setattr(assembly.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"has 100 MiB free and a board needs 1,500; make room"):
        assemble(place, silent)


@pytest.mark.parametrize(
    ("program", "text", "words"),
    [
        ("apt-get", "echo 'E: Unable to locate package python3-minimal' >&2; exit 100", r"cannot fetch arm64.*locate"),
        ("apt-get", "exit 0", "hold no Python 3"),
    ],
)
def test_a_failure_leaves_no_board_and_gives_the_words_of_the_program(programs, place, program, text, words):
    programs(program, text)
    with pytest.raises(ToolchainError, match=words):
        assemble(place, silent)
    assert place.facts is None
    with pytest.raises(UsageError, match="board create"):
        whole_board(place.path)


def test_what_was_whole_is_no_board_while_it_is_made_anew(programs, place):
    place.python.parent.mkdir()
    place.python.write_text("")
    place.root.mkdir()
    place.seal({"python": "3.11"})
    assert whole_board(place.path)[1]["python"] == "3.11"
    programs("apt-get", "exit 100")
    with pytest.raises(ToolchainError):
        assemble(place, silent)
    assert place.facts is None


def test_a_board_that_was_moved_is_none(place):
    place.python.parent.mkdir()
    place.python.write_text("")
    place.root.mkdir()
    os.close(place.taken())
    place.seal({})
    moved = place.path.with_name("moved")
    place.path.rename(moved)
    with pytest.raises(UsageError, match=r"was not finished, or was moved here; `robustdeploy board create"):
        whole_board(moved)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 2}', "{"])
def test_a_damaged_seal_is_none(place, content):
    place.python.parent.mkdir()
    place.python.write_text("")
    place.root.mkdir()
    (place.path / "board.json").write_text(content)
    assert place.facts is None


@pytest.mark.parametrize("name", ['a"b', "a%b", "a$b", "a\nb", "a*b"])
def test_a_path_that_a_server_would_read_otherwise_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot have"):
        folder_at(tmp_path / name)


def test_two_commands_cannot_work_in_one_folder(place):
    handle = place.taken()
    with pytest.raises(StorageError, match="another command works in"):
        place.taken()
    os.close(handle)
    os.close(place.taken())


@pytest.mark.slow
def test_the_board_that_was_made_is_whole_and_has_what_it_says(made_board):
    folder, facts = whole_board(made_board.path)
    assert facts["machine"] == "aarch64"
    assert facts["tvm_runtime"]
    assert facts["onnxruntime"] == version("onnxruntime")
    assert json.loads((folder.path / "board.json").read_text())["folder"] == str(folder.path)
    assert [name for name in ("new", "packages", "wheels") if (folder.path / name).exists()] == []


@pytest.mark.slow
def test_compiled_modules_stay_in_the_board(made_board):
    done, said = host.ran([str(made_board.python), "-c", "import json; print(json.__cached__)"], 60)
    assert done, said
    assert said.startswith(str(made_board.path / "pycache"))
    assert (made_board.path / "pycache").is_dir()
