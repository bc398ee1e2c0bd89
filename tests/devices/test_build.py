"""Where an engine may be built and run: real agents that differ in version, device and architecture."""

import json
import platform
import shutil

import numpy as np
import pytest

from robustdeploy.core.load import load_target
from robustdeploy.core.target import Target, Toolchain
from robustdeploy.devices import releases
from robustdeploy.devices.board import board_from
from robustdeploy.devices.build import Built, build_engine, check_fits
from robustdeploy.devices.builder import check_builder
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.devices.local import Local
from robustdeploy.devices.toolchain import installed_on
from robustdeploy.errors import ArtifactError, BoardError, ToolchainError
from robustdeploy.onboard.types import pixels_from_bytes

HERE = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
needs_setarch = pytest.mark.skipif(
    shutil.which("setarch") is None or HERE != "x86_64", reason="no program here makes this machine look like another"
)


def target(backend="split", build_on="board", **options):
    return Target(name="t", backend=Toolchain(name=backend, options=options), build_on=build_on)


def silence(*_):
    """Hear nothing."""


@pytest.mark.parametrize("where", ["board", "host"])
def test_an_engine_is_built_where_the_target_says_and_runs_on_the_board(
    where, split, split_agent, net, images, weights, tmp_path, another
):
    heard, kept = [], tmp_path / "kept"
    with board_from(another(workdir=kept), split_agent, 20) as board:
        built = build_engine(
            board, target(build_on=where), net, split_agent, tmp_path / "engine", lambda *told: heard.append(told)
        )
        on_board = {path.name for path in kept.iterdir()}
        assert {file.sha256 for file in built.files} <= on_board or where == "host"
        assert on_board == set() or where == "board"
        board.send(tmp_path / "engine", built.files)
        board.open_engine("split", built.files)
        expected = pixels_from_bytes(images).reshape(len(images), -1) @ weights
        np.testing.assert_allclose(board.score(images), expected, atol=1e-4)
    assert (built.backend, built.version, built.where) == ("split", "1.0", where)
    assert built.identity == {"machine": HERE, "flavour": "plain", "units": "[1,2]"}
    assert 0 < built.seconds < 20
    assert Built.model_validate_json(built.model_dump_json()) == built
    assert {told[0] for told in heard} == {"sending net.onnx (KiB)", "compiling", "fetching the engine (KiB)"}
    assert all(done <= total for _, done, total in heard)


@pytest.mark.parametrize(
    ("board_is", "words"),
    [
        (
            {"SPLIT_VERSION": "1.1"},
            r"built by split 1\.0 on this machine is not for 1\.1, which .*; install that version",
        ),
        ({"SPLIT_FLAVOUR": "sweet"}, "tied to flavour 'plain', not to the 'sweet' of"),
    ],
)
def test_a_host_that_differs_from_the_board_does_not_build_for_it(
    board_is, words, split, split_agent, net, tmp_path, another
):
    with board_from(another(**board_is), split_agent, 20) as board:
        with pytest.raises(ToolchainError, match=words) as caught:
            build_engine(board, target(build_on="host"), net, split_agent, tmp_path / "engine", silence)
        assert str(caught.value).endswith("set build_on to board")
        with pytest.raises(ToolchainError, match=words):
            check_builder(board, target(build_on="host"), split_agent)
        check_builder(board, target(), split_agent)
        assert build_engine(board, target(), net, split_agent, tmp_path / "engine", silence).where == "board"


@needs_setarch
def test_an_engine_for_another_architecture_is_built_by_what_cross_compiles(
    split, split_agent, net, tmp_path, another, monkeypatch
):
    asked = target(build_on="host")
    with board_from(another("setarch", "i686"), split_agent, 20) as board:
        with pytest.raises(ToolchainError, match="tied to machine 'x86_64', not to the 'i686' of"):
            build_engine(board, asked, net, split_agent, tmp_path / "engine", silence)
        monkeypatch.setattr(split.get("split"), "CROSS_COMPILES", True, raising=False)
        built = build_engine(board, asked, net, split_agent, tmp_path / "engine", silence)
        assert built.identity["machine"] == "i686"
        onnxruntime = target("onnxruntime", "host")
        with pytest.raises(ToolchainError, match=r"by onnxruntime .* is tied to machine 'x86_64', not to the 'i686'"):
            build_engine(board, onnxruntime, net, split_agent, tmp_path / "engine", silence)
        # An engine of the null backend is tied to nothing.
        assert build_engine(board, target("null", "host"), net, split_agent, tmp_path / "null", silence).identity == {}


def test_a_cross_compiler_makes_code_for_what_the_board_is(split, split_agent, net, tmp_path, another, monkeypatch):
    monkeypatch.setattr(split.get("split"), "CROSS_COMPILES", True, raising=False)
    with (
        board_from(another(SPLIT_FLAVOUR="sweet"), split_agent, 20) as board,
        pytest.raises(ToolchainError, match="tied to flavour 'plain', not to the 'sweet' of"),
    ):
        build_engine(board, target(build_on="host"), net, split_agent, tmp_path / "engine", silence)


@pytest.mark.parametrize("backend", ["null", "onnxruntime"])
def test_the_portable_backends_build_here_for_a_board_like_this_machine(backend, agent, net, images, tmp_path):
    with board_from(Local(), agent, 20) as board:
        built = build_engine(board, target(backend, "host"), net, agent, tmp_path / "engine", silence)
        board.send(tmp_path / "engine", built.files)
        board.open_engine(backend, built.files)
        assert len(board.score(images)) == len(images)
    assert built.identity == ({} if backend == "null" else {"machine": HERE})


def test_a_backend_that_builds_on_its_board_alone_says_so(split, split_agent, net, tmp_path, monkeypatch):
    monkeypatch.setattr(split.get("split"), "BUILDS_ON_HOST", False)
    with board_from(Local(), split_agent, 20) as board, pytest.raises(ToolchainError, match="on the board alone; set"):
        build_engine(board, target(build_on="host"), net, split_agent, tmp_path / "engine", silence)


def test_a_backend_that_declares_nothing_ties_its_engines_to_the_device(split, split_agent, monkeypatch):
    monkeypatch.delattr(split.get("split"), "TIED_TO")
    with board_from(Local(), split_agent, 20) as board:
        assert set(installed_on(board, target()).identity) == {"machine", "cpu_model", "board_model"}
        assert installed_on(board, target()).identity == board.identity()


def test_an_identity_outlives_the_agent(split, split_agent):
    found = []
    for _ in range(2):
        with board_from(Local(), split_agent, 20) as board:
            found.append((board.identity(), installed_on(board, target()).identity))
    assert found[0] == found[1]
    assert "boot_id" not in found[0][0]


def test_a_probe_that_does_not_tell_what_engines_are_tied_to_is_refused(split, split_agent, another):
    with (
        board_from(another(SPLIT_SILENT="1"), split_agent, 20) as board,
        pytest.raises(BoardError, match=r"'probe' cannot be right: 'details\.flavour' is required and missing"),
    ):
        installed_on(board, target())


@pytest.mark.parametrize(
    ("board_is", "words"),
    [
        ({"SPLIT_VERSION": "1.1"}, r"built by split 1\.0, and split 1\.1 is there; build it again"),
        ({"SPLIT_FLAVOUR": "sweet"}, "tied to flavour 'plain', not to the 'sweet' that is there; build it again"),
    ],
)
def test_an_engine_is_refused_where_it_was_not_built_for(board_is, words, split, split_agent, net, tmp_path, another):
    with board_from(Local(), split_agent, 20) as board:
        built = build_engine(board, target(), net, split_agent, tmp_path / "engine", silence)
        check_fits(built, installed_on(board, target()))
    with board_from(another(**board_is), split_agent, 20) as board, pytest.raises(ToolchainError, match=words):
        check_fits(built, installed_on(board, target()))


def test_a_toolchain_that_is_missing_or_of_another_version_is_told_before_anything_is_sent(agent, net, tmp_path):
    old = target("onnxruntime").model_copy(update={"backend": Toolchain(name="onnxruntime", version="<1")})
    with board_from(Local(workdir=str(tmp_path / "w")), agent, 20) as board:
        with pytest.raises(ToolchainError, match="the target supports <1"):
            build_engine(board, old, net, agent, tmp_path / "engine", silence)
        with pytest.raises(ToolchainError, match="tensorrt is not usable"):
            build_engine(board, target("tensorrt"), net, agent, tmp_path / "engine", silence)
        (tmp_path / "holiday.onnx").write_bytes(b"photo")
        with pytest.raises(ArtifactError, match=r"holiday\.onnx"):
            build_engine(board, target("null"), tmp_path / "holiday.onnx", agent, tmp_path / "engine", silence)
        assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../x"},
        {"name": "/etc/passwd"},
        {"sha256": "ab"},
        {"bytes": 0},
        {"bytes": -1},
        {"bytes": "many"},
        {"name": ".bashrc"},
    ],
)
def test_an_edited_record_of_an_engine_is_refused(changed):
    file = {"name": "a.so", "sha256": "ab" * 32, "bytes": 5}
    rest = {"seconds": 1, "backend": "split", "version": "1.0", "identity": {}, "where": "board"}
    assert Built.model_validate_json(json.dumps({"files": [file], **rest})).bytes == 5
    for files in ([{**file, **changed}], [], [file, file]):
        with pytest.raises(ValueError, match="files"):
            Built.model_validate_json(json.dumps({"files": files, **rest}))


@needs_setarch
def test_a_board_of_another_architecture_is_refused_right_after_hello(agent, another):
    link = another("setarch", "i686")
    asked = Target(name="t", arch="x86_64", link={"name": "local", "options": {"python": link.python}})
    with pytest.raises(BoardError) as caught, fleet_of(asked, agent, print):
        pytest.fail("the board was taken")
    assert str(caught.value) == (
        "this machine: the board is of the architecture i686, but the target is for x86_64; correct the target's arch, "
        "or its link"
    )
    with fleet_of(asked.model_copy(update={"arch": "any"}), agent, print) as fleet:
        assert fleet.boards[0].identity()["machine"] == "i686"
    with fleet_of(load_target("host-cpu").model_copy(update={"arch": HERE}), agent, print) as fleet:
        assert fleet.boards[0].identity()["machine"] == HERE


def test_a_board_of_an_older_opset_is_refused_before_anything_is_sent(agent, net, tmp_path, monkeypatch):
    monkeypatch.setitem(releases.OPSETS, "onnxruntime", (("1.0", 19),))
    kept = tmp_path / "kept"
    told = r"up to opset 19, .* with opset 20; set the target's opset to 19"
    with board_from(Local(workdir=str(kept)), agent, 20) as board, pytest.raises(ToolchainError, match=told):
        build_engine(board, load_target("host-cpu"), net, agent, tmp_path / "engine", silence)
    assert list(kept.iterdir()) == []


def test_a_board_without_room_is_refused_before_anything_is_sent(agent, net, tmp_path):
    kept = tmp_path / "kept"
    with board_from(Local(workdir=str(kept)), agent, 20) as board:
        board.facts = {**board.facts, "free_disk_bytes": 1000}
        with pytest.raises(
            BoardError, match="has 0 MiB free and 2 MiB are needed for the net and its engine; make room"
        ):
            build_engine(board, load_target("host-cpu"), net, agent, tmp_path / "engine", silence)
    assert list(kept.iterdir()) == []
