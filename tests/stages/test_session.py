"""What the stages of one command share: a board for each link, connected to anew where it was lost."""

import os
import platform
import signal
import threading
from pathlib import Path

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.target import Target, Toolchain
from robustdeploy.devices.architecture import architecture_of
from robustdeploy.engine.run import Run
from robustdeploy.errors import BoardError
from robustdeploy.stages.session import Session

HERE = architecture_of(platform.machine())
OTHER = "aarch64" if HERE == "x86_64" else "x86_64"


@pytest.fixture
def session(tmp_path):
    recipe = load_recipe("digits-resnet8", registries=None)
    with Session(Run(tmp_path, recipe), recipe) as session:
        yield session


def target(name, **fields):
    return Target(name=name, **fields)


def test_targets_of_one_link_share_a_board_and_others_do_not(session, tmp_path):
    first = session.fleet(target("a"))
    assert session.fleet(target("b", backend=Toolchain(name="null"))) is first
    assert session.fleet(target("c", link={"name": "local", "options": {"workdir": str(tmp_path / "w")}})) is not first
    session.leave(target("b"))
    session.leave(target("b"))
    assert first.is_broken
    assert session.fleet(target("a")) is not first


def test_a_board_of_another_architecture_is_refused_first_and_later(session):
    for _ in range(2):
        with pytest.raises(BoardError, match=f"architecture {HERE}, but the target is for {OTHER}"):
            session.fleet(target("a", arch=OTHER))
    assert session.fleet(target("a", arch=HERE)).boards[0].facts["machine"]
    with pytest.raises(BoardError, match=f"architecture {HERE}, but the target is for {OTHER}"):
        session.fleet(target("b", arch=OTHER))


def test_a_board_that_was_lost_is_connected_to_anew(session):
    first = session.fleet(target("a"))
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    agent = next(int(pid) for pid in children if b"agent.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(agent, signal.SIGKILL)
    assert first.boards[0].sensors()["boot_id"]
    assert session.fleet(target("a")) is first


def test_a_board_that_answered_what_cannot_be_is_left_for_a_fresh_one(session):
    first = session.fleet(target("a"))
    first.boards[0]._agent.impossible("sensors", "load_1m", "is a lie")
    assert first.is_broken
    again = session.fleet(target("a"))
    assert again is not first
    assert again.boards[0].sensors()["boot_id"]
