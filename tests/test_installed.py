"""The package as others get it: its wheel in fresh environments, outside the checkout. Minutes each, so exhaustive."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# With a folder of wheels and torch's CPU build in it, all of this takes a fifth of the disk.
TORCH = os.environ.get("ROBUSTDEPLOY_TEST_TORCH", "torch")
OVERRIDE = ROOT / "requirements/lean.txt"

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(shutil.which("uv") is None, reason="uv, which makes the environments, is not here"),
]


def called(cwd, *words, code=0, **environment):
    """Run a command without what this environment would lend it; return what it printed."""
    lent = ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    own = {name: value for name, value in os.environ.items() if name not in lent}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env={**own, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    called(folder, "uv", "build", "--quiet", "--out-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture
def install(tmp_path, wheel):
    """Install the wheel with some of its extras in an environment of its own; return its folder of programs."""
    place = tmp_path / "venv"
    called(tmp_path, "uv", "venv", "--quiet", "--python", sys.executable, place)

    def installed(*extras):
        wanted = f"{wheel}[{','.join(extras)}]" if extras else wheel
        called(tmp_path, "uv", "pip", "install", "--quiet", "--python", place, "--override", OVERRIDE, TORCH, wanted)
        return place / "bin"

    return installed


SHORT = """
name: short
net: {name: resnet8, width: 16}
threat: {norm: linf, eps: 0.1}
train: {task: fastat, epochs: 6, batch_size: 64, lr: 0.2, device: cpu}
budget: {ops: 0.3}
evaluate: {limit: 100, curve_limit: 30, attacks: [fgsm, {name: square, queries: 30}]}
gate: [{id: RD-ACC-01, metric: clean_accuracy, at_least: 0.05}]
"""


def test_a_wheel_runs_the_whole_path_outside_the_checkout(install, wheel, tmp_path):
    program, version = install() / "robustdeploy", wheel.name.split("-")[1]
    assert called(tmp_path, program, "--version") == f"robustdeploy {version}\n"
    (tmp_path / "short.yaml").write_text(SHORT)
    called(tmp_path, program, "run", "short.yaml", "--name", "short", "--target", "host-cpu")
    report = json.loads((tmp_path / "runs/short/report.json").read_text())
    assert (report["producer"], report["verdict"]["outcome"]) == (f"robustdeploy {version}", "PASS")


def test_it_runs_as_a_tool(wheel, tmp_path):
    places = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    with_torch = ["--quiet", "--overrides", OVERRIDE, "--with", TORCH]
    called(tmp_path, "uv", "tool", "install", *with_torch, ROOT, **places)
    listed = called(tmp_path, tmp_path / "bin/robustdeploy", "ls", "targets")
    assert "host-cpu" in listed
    assert called(tmp_path, "uvx", *with_torch, "--from", wheel, "robustdeploy", "ls", "targets", **places) == listed


FOUND = """
import json, sys
from robustdeploy.core.registry import REGISTRIES
name = sys.argv[1]
(kind,) = {"backends", "trackers"} & {kind for kind, plug_ins in REGISTRIES.items() if name in plug_ins}
probe = REGISTRIES[kind].build(name, {}).probe()
print(json.dumps([probe.usable, probe.fix]))
"""
# Ray is no plug-in. TensorRT's libraries come from an index of NVIDIA's, which its installer asks for.
EXTRAS = sorted(set(PROJECT["optional-dependencies"]) - {"ray", "tensorrt"})


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_is_named_for_and_without_it_the_fix_names_it(extra, install, tmp_path):
    usable, fix = json.loads(called(tmp_path, install() / "python", "-c", FOUND, extra))
    assert not usable
    assert f"pip install 'robustdeploy[{extra}]'" in fix
    assert json.loads(called(tmp_path, install(extra) / "python", "-c", FOUND, extra)) == [True, ""]


def test_the_extra_ray_makes_the_runs_of_a_sweep(install, tmp_path):
    code = "import ray; print(ray.__version__)"
    assert re.fullmatch(r"2\.\d+\.\d+\n", called(tmp_path, install("ray") / "python", "-c", code))
