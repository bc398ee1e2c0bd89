"""Engines on their way: from the board that built them into a folder here, and from there to any board."""

import os

import numpy as np
import pytest
from lies import LIES

from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.errors import ArtifactError, BoardError, StorageError
from robustdeploy.onboard.engine import EngineFile, engine_id
from robustdeploy.onboard.store import PIECE_BYTES
from robustdeploy.onboard.types import pixels_from_bytes

LARGE = {"padding": 2 * PIECE_BYTES + 5}


@pytest.fixture
def board(split_agent, tmp_path):
    with board_from(Local(workdir=str(tmp_path / "first")), split_agent, deadline_s=20) as board:
        yield board


def compiled_by(board, net, options=None):
    return board.compile("split", board.put(net), options)


def test_an_engine_of_two_files_runs_on_a_board_that_did_not_build_it(
    board, split_agent, net, images, weights, tmp_path
):
    compiled = compiled_by(board, net)
    assert [file.name for file in compiled.files] == ["about.json", "weights.bin"]
    assert compiled.files[1].bytes == weights.nbytes
    board.fetch(compiled.files, tmp_path / "engine")
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == ["about.json", "weights.bin"]
    with board_from(Local(), split_agent, deadline_s=20) as fresh:
        with pytest.raises(ArtifactError, match="the board has no file with hash"):
            fresh.open_engine("split", compiled.files)
        fresh.send(tmp_path / "engine", compiled.files)
        fresh.open_engine("split", compiled.files, classes=5)
        expected = pixels_from_bytes(images).reshape(len(images), -1) @ weights
        np.testing.assert_allclose(fresh.score(images), expected, atol=1e-4)


def test_two_builds_are_two_engines_and_one_name_is_one_content(board, net, tmp_path):
    first, second = compiled_by(board, net), compiled_by(board, net)
    assert first.id != second.id
    assert first.files[1] == second.files[1]  # the weights
    assert engine_id(reversed(first.files)) == first.id == engine_id(first.files)
    assert engine_id([EngineFile("other.bin", file.sha256, file.bytes) for file in first.files]) != first.id


def test_an_open_engine_leaves_no_folder_behind(board, net, tmp_path):
    files, more = compiled_by(board, net).files, compiled_by(board, net).files
    board.open_engine("split", files)
    board.open_engine("split", more)
    kept = {path.name for path in (tmp_path / "first").iterdir() if path.is_dir()}
    assert kept == {"engine.open"}
    board.close()
    assert not any(path.is_dir() for path in (tmp_path / "first").iterdir())


def test_a_large_engine_comes_and_goes_in_pieces_and_says_how_far_it_is(board, split_agent, net, tmp_path):
    heard, compiled = [], compiled_by(board, net, LARGE)
    board.fetch(compiled.files, tmp_path / "engine", heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == compiled.bytes
    assert len({*heard}) >= 4  # the small file, and three pieces
    with board_from(Local(), split_agent, deadline_s=20) as fresh:
        sent = []
        fresh.send(tmp_path / "engine", compiled.files, sent.append)
        assert (sent, sent[-1]) == (sorted(sent), compiled.bytes)
        assert len({*sent}) >= 4
        fresh.send(tmp_path / "engine", compiled.files, (again := []).append)
        assert len(again) == 2  # one word for each file that is there
    board.fetch(compiled.files, tmp_path / "engine", (again := []).append)
    assert len(again) == 2


def test_a_file_that_is_changed_here_is_not_sent(board, net, tmp_path):
    files = compiled_by(board, net).files
    board.fetch(files, tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"0" * files[1].bytes)
    with pytest.raises(ArtifactError, match=r"weights\.bin has the hash .*, not .*; build the engine again"):
        board.send(tmp_path, files)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.bin is missing; build the engine again"):
        board.send(tmp_path, files)
    board.fetch(files, tmp_path)
    board.send(tmp_path, files)


def test_a_file_that_changes_on_the_board_between_two_pieces_is_not_kept(board, net, tmp_path):
    files = compiled_by(board, net, LARGE).files
    stored = tmp_path / "first" / files[1].sha256

    last = stored.read_bytes()[-1]

    def spoil(moved):
        if moved > PIECE_BYTES:
            with stored.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last ^ 1]))

    with pytest.raises(BoardError, match=r"'get' cannot be right: 'data' of weights\.bin came with the hash"):
        board.fetch(files, tmp_path / "engine", spoil)
    assert [path.name for path in (tmp_path / "engine").iterdir()] == ["about.json"]


def test_a_file_that_was_changed_on_the_board_is_said_to_be(board, net, tmp_path):
    files = compiled_by(board, net).files
    stored = tmp_path / "first" / files[1].sha256
    stored.write_bytes(b"0" * files[1].bytes)
    with pytest.raises(ArtifactError, match="it was changed"):
        board.fetch(files, tmp_path / "engine")
    assert not (tmp_path / "engine" / "weights.bin").exists()
    with pytest.raises(ArtifactError, match="it was changed"):
        board.open_engine("split", files)


@pytest.mark.parametrize("name", [name for name, lie in LIES.items() if lie.op == "get"])
def test_what_a_lying_board_sends_is_not_kept(name, liar, agent, net, tmp_path):
    with board_from(liar(name), agent, 20) as board:
        files = board.compile("null", board.put(net)).files
        with pytest.raises(BoardError):
            board.fetch(files, tmp_path / "engine")
    assert list((tmp_path / "engine").iterdir()) == []


def test_a_full_disk_here_is_told_with_the_fix_and_keeps_nothing_half(board, net, small_disk):
    files = compiled_by(board, net, {"padding": 100_000}).files
    with pytest.raises(StorageError, match=r"cannot write .*weights\.bin: no space left .*; make room") as caught:
        board.fetch(files, small_disk)
    assert caught.value.exit_code == 4
    assert [path.name for path in small_disk.iterdir()] == ["about.json"]
    board.open_engine("split", files)  # and the board is still there


def test_a_folder_that_cannot_be_made_is_told(board, net, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, OSError)):
        board.fetch(compiled_by(board, net).files, tmp_path / "file" / "engine")


@pytest.mark.parametrize(
    ("stray", "words"),
    [
        ("folder", "'cache' is a folder"),
        ("link", "'link' is a link"),
        ("empty", "empty must have 1 to"),
        ("hidden", "'.lock' is not a plain file name"),
        ("odd", "'a b' is not a plain file name"),
        ("pipe", "'pipe' is no regular file"),
        ("many", "1 to 256 files, not 302"),
        ("nothing", "1 to 256 files, not 0"),
    ],
)
def test_a_folder_that_is_no_engine_is_refused_and_leaves_nothing(board, net, tmp_path, stray, words):
    onnx = board.put(net)
    with pytest.raises(ArtifactError, match=words):
        board.compile("split", onnx, {"stray": stray})
    assert [path.name for path in (tmp_path / "first").iterdir()] == [onnx]
    assert board.compile("split", onnx).files


@pytest.mark.parametrize("links", [True, False])
def test_a_disk_without_hard_links_gets_copies(links, board, net, images, tmp_path, split_agent, another):
    """The agent's own library call is refused there, as an SD card's file system refuses it."""
    refusing = tmp_path / "site"
    refusing.mkdir()
    if not links:
        (refusing / "sitecustomize.py").write_text(
            "import os\ndef link(*_): raise PermissionError(1, 'no links')\nos.link = link\n"
        )
    with board_from(another(PYTHONPATH=refusing, workdir=tmp_path / "w"), split_agent, 20) as other:
        files = compiled_by(other, net).files
        other.open_engine("split", files)
        assert other.score(images).shape == (30, 5)
        open_file = tmp_path / "w" / "engine.open" / "weights.bin"
        assert (open_file.stat().st_nlink == 2) is links
