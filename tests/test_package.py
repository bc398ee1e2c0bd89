"""The wheel: what is in it, and that its light half works straight from the unzipped file, without torch."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """The wheel unzipped as an installer would, beside a torch that nobody may import."""
    site = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for heavy in ("torch", "torchvision", "torch_pruning"):
        (site / f"{heavy}.py").write_text(f"raise ImportError('{heavy} was imported')\n")
    return site


def call(site, cwd, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "robustdeploy", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_wheel_holds_everything_that_is_read_at_run_time(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "robustdeploy"
    ours = {p.relative_to(ROOT).as_posix() for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    for kind in ("recipes", "targets", "comparisons", "threats"):
        ours |= {f"robustdeploy/_{kind}/{path.name}" for path in (ROOT / kind).glob("*.yaml")}
    ours |= {f"robustdeploy/_ci/{path.name}" for path in (ROOT / "examples/ci").iterdir()}
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {"robustdeploy/py.typed", "robustdeploy/report/report.schema.json"} <= names
    assert {"robustdeploy/report/formats/report.html.j2", "robustdeploy/report/formats/report.css"} <= names
    assert sum(name.endswith(".dist-info/licenses/LICENSE") for name in names) == 1


def test_the_wheel_names_its_licence_and_its_command(wheel):
    stem = f"robustdeploy-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{stem}/METADATA").decode())
        licence = archive.read(f"{stem}/licenses/LICENSE").decode()
        scripts = archive.read(f"{stem}/entry_points.txt").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert "robustdeploy = robustdeploy.cli:main" in scripts
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert len(metadata.get_payload()) > 500, "the README is the description"


def test_the_shipped_words_are_found_inside_the_package(installed, tmp_path):
    for kind in ("recipes", "targets"):
        done = call(installed, tmp_path, "ls", kind, "--json")
        assert done.returncode == 0, done.stderr
        entries = json.loads(done.stdout)
        assert [entry["name"] for entry in entries] == sorted(path.stem for path in (ROOT / kind).glob("*.yaml"))
        assert all(Path(entry["origin"]).is_relative_to(installed) for entry in entries)


def test_every_kind_is_listed_without_importing_a_plug_in(installed, tmp_path):
    done = call(installed, tmp_path, "ls", "--json")
    assert done.returncode == 0, done.stderr
    assert all(json.loads(done.stdout).values())


@pytest.mark.parametrize("name", ["host-cpu", "jetson-orin", "aarch64-board", "null"])
def test_a_target_is_checked_without_torch(name, installed, tmp_path):
    done = call(installed, tmp_path, "validate", ROOT / "targets" / f"{name}.yaml")
    assert (done.returncode, done.stdout.rsplit(": ")[-1]) == (0, "ok\n"), done.stderr


def test_the_schema_of_the_report_is_printed_without_torch(installed, tmp_path):
    done = call(installed, tmp_path, "schema", "report")
    assert done.returncode == 0, done.stderr
    shipped = json.loads((installed / "robustdeploy/report/report.schema.json").read_text())
    assert json.loads(done.stdout) == shipped


@pytest.mark.slow
def test_a_report_is_judged_and_compared_without_torch(installed, chain, tmp_path):
    report = chain / "runs/tiny/report.json"
    verdict = json.loads(report.read_text())["verdict"]["outcome"]
    done = call(installed, tmp_path, "gate", report, "--json")
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (0, verdict), done.stderr
    (tmp_path / "strict.yaml").write_text("rules:\n  - {id: RD-OPS-01, metric: ops_fraction, at_most: 0.01}\n")
    done = call(installed, tmp_path, "gate", report, "--rules", "strict.yaml")
    assert done.returncode == 1, done.stderr
    done = call(installed, tmp_path, "compare", report, report)
    assert done.returncode == 0, done.stderr


def test_the_guard_against_torch_works(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import robustdeploy; print(robustdeploy.__file__); import robustdeploy.nets.store"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert Path(done.stdout.strip()).is_relative_to(installed)
    assert "torch was imported" in done.stderr


def test_help_is_there_in_half_a_second_of_work(installed, tmp_path):
    """Seconds of processor time, best of three, since this machine may be busy with other tests."""
    times = []
    for _ in range(3):
        before = os.times()
        done = call(installed, tmp_path, "--help")
        after = os.times()
        assert done.returncode == 0, done.stderr
        spent = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        times.append(spent)
    assert min(times) < 0.5
