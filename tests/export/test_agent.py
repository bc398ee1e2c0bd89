import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import robustdeploy
from robustdeploy.core.release import RELEASE
from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.errors import StorageError, UsageError
from robustdeploy.export.agent import build_agent
from robustdeploy.onboard.store import sha256_of
from robustdeploy.onboard.types import Threat

ROOT = Path(robustdeploy.__file__).parent
SOURCES = [ROOT / "errors.py", ROOT / "foreign.py", *sorted((ROOT / "onboard").rglob("*.py"))]
TOOLCHAINS = {"onnxruntime", "tensorrt", "tensorrt_rtx"}


def test_equal_sources_give_equal_bytes(tmp_path, agent, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert build_agent(Path("deep") / "other-name.pyz") == sha256_of(agent)


def test_the_agent_holds_the_package_for_boards_and_nothing_else(agent):
    held = zipfile.ZipFile(agent)
    ours = ["__init__.py", *(path.relative_to(ROOT).as_posix() for path in SOURCES)]
    assert held.namelist() == sorted(["__main__.py", *(f"robustdeploy/{name}" for name in ours)])
    # Without the commit: the agent of every commit with these sources is the same.
    assert f'__version__ = "{RELEASE}"\n' in held.read("robustdeploy/__init__.py").decode()
    assert re.fullmatch(r"[0-9.]+((a|b|rc|\.post)[0-9]+)*", RELEASE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_source_is_python_3_10_and_imports_only_the_standard_library_and_numpy(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 10))
    for node in ast.walk(tree):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found = [node.module]
        for name in found:
            assert name.partition(".")[0] in {*sys.stdlib_module_names, "numpy"}, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", [p for p in SOURCES if "backends" in str(p)], ids=lambda p: p.name)
def test_a_toolchain_is_imported_only_when_it_is_used(path):
    code = f"import sys; import robustdeploy.onboard.backends.{path.stem} as m; print([n for n in sys.modules])"
    code = (
        code if path.stem != "__init__" else "import sys; import robustdeploy.onboard.backends; print([*sys.modules])"
    )
    loaded = ast.literal_eval(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    )
    assert not TOOLCHAINS & set(loaded)


def test_help_with_wrong_arguments_and_an_old_python(agent):
    done = subprocess.run(
        [sys.executable, agent, "--nonsense"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"it takes '--work FOLDER' or nothing" in done.stderr
    assert done.stdout == b""


def test_a_board_without_numpy_is_told_the_fix(agent):
    done = subprocess.run([sys.executable, "-S", agent], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 4
    assert b"pip install numpy" in done.stderr
    assert b"Traceback" not in done.stderr


def test_plug_ins_of_other_packages_travel_too(tmp_path, net, images):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass\nimport numpy as np\n\n@dataclass(frozen=True)\nclass Invert:\n"
        "    shift: int = 0\n    def __call__(self, model, images, labels, threat, draws):\n"
        "        print('to stdout')\n        model(images.astype(np.float32))\n"
        "        return 255 - images - self.shift\n\nplugin = Invert\n"
    )
    build_agent(tmp_path / "agent.pyz", {"attacks/my_invert": mine})
    with board_from(Local(), tmp_path / "agent.pyz") as board:
        ours = ["boundary", "hop-skip-jump", "nes", "rays", "simba", "square", "surfree"]
        assert board.facts["attacks"] == sorted([*ours, "my-invert"])
        onnx = board.put(net)
        board.open_engine("null", board.compile("null", onnx).files)
        ids = images[:, 0, 0, 0].astype("int64")
        said = board.attack("my-invert", {"shift": 0}, Threat(), 1, images, ids, ids)
        assert (said.images == 255 - images).all()
        assert (said.queries == -1).all()
        assert (said.spent_ns == -1).all()
        assert board.queries_total == len(images)


@pytest.mark.parametrize("place", ["attacks/square", "attacks/../x", "wire", "nets/x", "attacks/a-b", "attacks/"])
def test_only_new_plug_ins_join_the_agent(tmp_path, net, place):
    with pytest.raises(UsageError, match="cannot join"):
        build_agent(tmp_path / "agent.pyz", {place: net})


@pytest.mark.slow
def test_the_agent_runs_where_only_numpy_and_onnxruntime_are_installed(tmp_path, agent, net, images, weights):
    python = os.environ.get("ROBUSTDEPLOY_BOARD_PYTHON", sys.executable)
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", str(venv)], check=True, capture_output=True)
    install = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "numpy", "onnxruntime"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("numpy and onnxruntime cannot be installed here")
    with board_from(Local(python=str(venv / "bin" / "python")), agent) as board:
        assert board.probe("onnxruntime").usable
        board.open_engine("onnxruntime", board.compile("onnxruntime", board.put(net)).files)
        expected = images.reshape(len(images), -1).astype(np.float32) / 255 @ weights
        np.testing.assert_allclose(board.score(images), expected, atol=1e-4)
        labels = expected.argmax(1)
        found = board.attack("square", {"queries": 20}, Threat(), 1, images, labels, labels).images
        assert np.abs(found.astype(int) - images).max() <= 8


def test_a_full_disk_leaves_no_half_agent(small_disk):
    with pytest.raises(StorageError, match=r"cannot write .*agent\.pyz: no space left .*; make room") as caught:
        build_agent(small_disk / "agent.pyz")
    assert caught.value.exit_code == 4
    assert list(small_disk.iterdir()) == []
    (small_disk / "agent.pyz").write_bytes(b"the agent before")
    with pytest.raises(StorageError):
        build_agent(small_disk / "agent.pyz")
    assert (small_disk / "agent.pyz").read_bytes() == b"the agent before"
