"""The wheel: what is in it, and that its light half works straight from the unzipped file, without torch."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST_RELEASE = Version("0.1.0")


def python(cwd, *words):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def git(cwd, *words):
    author = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *author, *map(str, words)], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    python(ROOT, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
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


def described(wheel):
    """A wheel's metadata, and the folder that it lies in."""
    stem = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{stem}/METADATA").decode()), stem


def test_the_wheel_names_its_licence_and_its_command(wheel):
    metadata, stem = described(wheel)
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(f"{stem}/licenses/LICENSE").decode()
        scripts = archive.read(f"{stem}/entry_points.txt").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert "robustdeploy = robustdeploy.cli:main" in scripts
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert len(metadata.get_payload()) > 500, "the README is the description"


def test_the_wheel_has_the_version_of_the_commit_and_says_it(wheel, installed, tmp_path):
    metadata, _ = described(wheel)
    assert call(installed, tmp_path, "--version").stdout == f"robustdeploy {metadata['Version']}\n"
    assert metadata["Version"] == python(ROOT, "-m", "hatchling", "version")


def test_what_was_never_installed_says_so(tmp_path):
    shutil.copytree(ROOT / "robustdeploy", tmp_path / "robustdeploy", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import robustdeploy, sys; print(robustdeploy.__version__, robustdeploy.__file__)"
    version, file = python(tmp_path, "-S", "-c", code).split(" ", 1)
    assert (version, Path(file).parent) == ("0+unknown", tmp_path / "robustdeploy")


@pytest.fixture
def source(tmp_path):
    """The files that decide a version, in a folder of their own that git does not know yet."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitattributes", ".git_archival.txt"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def version_of(folder):
    return python(folder, "-W", "ignore", "-m", "hatchling", "version")


def committed(source, *tags):
    git(source, "init", "-q")
    git(source, "add", "-A")
    git(source, "commit", "-q", "-m", "first")
    for tag in tags:
        git(source, "tag", tag)


def test_a_tag_is_the_version_and_a_commit_after_it_says_which(source):
    committed(source, "v1.2.3", "nightly-7")
    assert version_of(source) == "1.2.3"
    git(source, "commit", "-q", "--allow-empty", "-m", "second")
    assert re.fullmatch(r"1\.2\.4\.dev1\+g[0-9a-f]+", version_of(source))


def test_without_a_tag_the_version_is_older_than_any_release_and_names_the_commit(source, tmp_path):
    assert version_of(source) == "0.0+untagged"
    committed(source, "nightly-7")
    found = version_of(source)
    assert re.fullmatch(r"0\.1\.dev1\+untagged\.g[0-9a-f]+", found)
    assert Version("0.0+untagged") < Version(found) < OLDEST_RELEASE
    git(tmp_path, "clone", "-q", "--depth", "1", source.as_uri(), "shallow")
    assert version_of(tmp_path / "shallow") == found


def test_an_archive_by_git_knows_its_tag(source, tmp_path):
    committed(source, "v1.2.3")
    git(source, "archive", "--output", tmp_path / "archive.tar", "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", tmp_path / "unpacked", filter="data")
    assert version_of(tmp_path / "unpacked") == "1.2.3"


# How a fix is put together: to_install(packages, extra), probe_extra(extra, packages), or written out.
NAMED = re.compile(r"""to_install\([^()]+, ["'](\w+)["']\)|probe_extra\("(\w+)"|robustdeploy\[(\w+)\]""")


def named(paths):
    return {"".join(found) for path in paths for found in NAMED.findall(path.read_text())}


def test_the_extras_are_those_that_errors_and_pages_name(wheel):
    extras = set(PROJECT["optional-dependencies"])
    assert set(described(wheel)[0].get_all("Provides-Extra")) == extras
    assert named((ROOT / "robustdeploy").rglob("*.py")) == extras
    assert named([ROOT / "docs/how-to/install.md"]) == extras
    assert named([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "targets").glob("*.yaml")]) <= extras


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


def test_an_image_is_built_of_what_git_tracks():
    """Else git, which tells the version there, would miss files and call the tree changed."""

    def names(file):
        lines = (ROOT / file).read_text().splitlines()
        return {line.removeprefix("**/").rstrip("/") for line in lines if line and not line.startswith("#")}

    assert names(".dockerignore") == names(".gitignore")
