import json
import shutil
import sys

import pytest

from robustdeploy.devices import releases


def test_a_target_is_looked_at_down_to_its_sensors(command, tmp_path):
    done = command(tmp_path, "doctor", "--target", "host-cpu", "--json")
    assert done.code == 0, done.err
    found = {finding["what"]: finding for finding in done.document}
    assert found["onnxruntime"]["ok"]
    assert found["version"]["found"] == "within the target's bounds"
    assert "load_1m" in found["sensors"]["found"]
    assert found["architecture"]["found"] == "any will do"


@pytest.fixture
def elsewhere(tmp_path):
    """A target whose board says that it is an i686, as the kernel tells its programs there."""
    if shutil.which("setarch") is None:
        pytest.skip("no program here makes this machine look like another")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec setarch i686 "{sys.executable}" "$@"\n')
    python.chmod(0o755)

    def written(more):
        path = tmp_path / "elsewhere.yaml"
        path.write_text(f"name: elsewhere\nlink: {{name: local, python: {python}}}\n{more}\n")
        return path

    return written


def test_a_board_of_another_architecture_is_told_in_one_sentence(command, tmp_path, elsewhere):
    done = command(tmp_path, "doctor", "--target", elsewhere("arch: amd64"))
    assert done.code == 4
    assert (
        "NO  architecture: this machine: the board is of the architecture i686, but the target is for x86_64"
        in done.out
    )
    assert "ok  onnxruntime" in done.out


def test_a_host_that_cannot_build_for_the_board_is_told(command, tmp_path, elsewhere):
    done = command(tmp_path, "doctor", "--target", elsewhere("build_on: host"))
    assert done.code == 4
    assert "NO  built on: an engine that is built by onnxruntime " in done.out
    done = command(tmp_path, "doctor", "--target", elsewhere("build_on: host\nbackend: {name: 'null'}"))
    assert done.code == 0, done.out
    assert "ok  built on: this machine, whose null builds for the board" in done.out


def test_memory_disk_system_and_opset_are_told(command, tmp_path):
    found = {each["what"]: each["found"] for each in command(tmp_path, "doctor", "-t", "host-cpu", "--json").document}
    assert found["memory"].endswith(" MiB free")
    assert "MiB free where the agent keeps its files" in found["disk there"]
    assert found["system"]
    assert found["opset"].startswith("20, and up to ")


@pytest.fixture
def bare(tmp_path):
    """A target whose board lacks its toolchain, as Python there sees it."""
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "onnxruntime.py").write_text("raise ImportError('no module of that name')\n")
    python = tmp_path / "bare"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}/away" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "bare.yaml").write_text(f"name: bare\nlink: {{name: local, python: {python}}}\n")
    return "bare.yaml"


def test_a_board_without_its_toolchain_is_told_with_the_command(command, tmp_path, bare):
    done = command(tmp_path, "doctor", "--target", bare)
    assert done.code == 4
    assert "NO  onnxruntime: not usable" in done.out
    assert "fix: ONNX Runtime cannot be used: no module of that name; python3 -m pip install onnxruntime" in done.out


def test_a_toolchain_that_reads_no_such_opset_is_told(command, tmp_path, monkeypatch):
    monkeypatch.setitem(releases.OPSETS, "onnxruntime", (("1.0", 19),))
    done = command(tmp_path, "doctor", "--target", "host-cpu")
    assert done.code == 4
    assert "NO  opset: this machine: onnxruntime" in done.out
    assert "reads ONNX up to opset 19, and the net is exported with opset 20; set the target's opset to 19" in done.out


def test_each_of_several_boards_is_looked_at_and_whether_they_are_alike(command, tmp_path, boards):
    def looked_at(*links, emulated="true"):
        (tmp_path / "t.yaml").write_text(f"name: t\nlink: {json.dumps(links)}\nemulated: {emulated}\n")
        return command(tmp_path, "doctor", "--target", "t.yaml")

    links = [boards.link("a"), boards.link("b")]
    done = looked_at(*links)
    assert done.code == 0, done.out
    assert done.out.count("board 1, ") == done.out.count("board 2, ") > 5
    assert "ok  boards: 2 that are alike, each a machine of its own" in done.out
    done = looked_at(*links, emulated="false")
    assert done.code == 4
    assert "NO  boards: this machine, board 2 of 2 and this machine, board 1 of 2 are one machine" in done.out
    (boards.folder / "b").unlink()
    done = looked_at(*links)
    assert done.code == 4
    assert "NO  board 2, board: the agent cannot be started with " in done.out


def test_a_torchvision_that_does_not_fit_torch_is_told(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    done = command(tmp_path, "doctor")
    assert done.code == 4
    assert "NO  torchvision fits torch: torchvision cannot be imported" in done.out
