"""examples/ci: every file is what its system reads, and every command in it runs on a real run."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "ci"
PAGE = (ROOT / "docs/how-to/ci.md").read_text()
INSTALLS = "pip install"


def scripts(name):
    """The shell scripts of a CI file, in their order."""
    text = (FOLDER / name).read_text()
    if name == "Jenkinsfile":
        return re.findall(r"sh '([^']*)'", text)
    held = yaml.safe_load(text)
    if name == "github.yml":
        return [step["run"] for step in held["jobs"]["gate"]["steps"] if "run" in step]
    return held["robustness"]["script"]


FILES = ("github.yml", "gitlab-ci.yml", "Jenkinsfile")
CALLS = sorted(
    {line.strip() for name in FILES for text in scripts(name) for line in text.splitlines() if "robustdeploy " in line}
)
COMMANDS = [line for line in CALLS if not line.startswith(INSTALLS)]


@pytest.fixture
def checkout(desk):
    """A repository with the files that the examples name, the run that they would make, and a baseline."""
    (desk / "tiny.yaml").rename(desk / "recipe.yaml")
    (desk / "quick.yaml").rename(desk / "target.yaml")
    shutil.copy(FOLDER / "gates.yaml", desk)
    (desk / "runs/tiny").rename(desk / "runs/candidate")
    shutil.copytree(desk / "runs/candidate", desk / "runs/baseline")
    return desk


def test_the_page_shows_every_file():
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "gates.yaml"}
    for path in FOLDER.iterdir():
        assert f"examples/ci/{path.name}" in PAGE


@pytest.mark.parametrize(
    ("name", "schema"), [("github.yml", "github-workflows.json"), ("gitlab-ci.yml", "gitlab-ci.json")]
)
def test_a_job_is_what_the_schema_of_its_system_says(name, schema):
    schemas = resources.files("check_jsonschema.builtin_schemas.vendor")
    held = yaml.safe_load((FOLDER / name).read_text())
    if True in held:  # YAML 1.1 reads `on` as true, and GitHub does not
        held["on"] = held.pop(True)
    Draft7Validator(json.loads(schemas.joinpath(schema).read_text())).validate(held)
    assert not Draft7Validator(json.loads(schemas.joinpath(schema).read_text())).is_valid({**held, "jobs": 3})


def test_the_workflow_is_one():
    held = yaml.safe_load((FOLDER / "github.yml").read_text())
    assert set(held) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads `on` as true
    for step in held["jobs"]["gate"]["steps"]:
        assert len({"uses", "run"} & set(step)) == 1
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@v\d+", step.get("uses", "actions/checkout@v4"))
    reports = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())["robustness"]["artifacts"]["reports"]
    assert set(reports) == {"junit", "codequality"}


def test_braces_of_the_pipeline_match():
    text = re.sub(r"'[^']*'|//.*", "", (FOLDER / "Jenkinsfile").read_text())
    assert text.count("{") == text.count("}") > 0


@pytest.mark.slow
def test_every_command_of_robustdeploy_in_them_runs(checkout, command):
    assert len(COMMANDS) >= 6
    for line in sorted(COMMANDS, key=lambda line: ("validate" not in line, "run" not in line)):
        done = command(checkout, *line.split()[1:])
        assert done.code in ((0, 1, 3) if " gate " in line else (0,)), (line, done.err)
    named = set(
        re.findall(r"ci/([\w.-]+\.(?:md|txt|xml|json|sarif))", "".join((FOLDER / f).read_text() for f in FILES))
    )
    assert named == {path.name for path in (checkout / "ci").iterdir()}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("first", [True, False])
def test_a_whole_job_runs_in_a_shell_with_and_without_a_baseline(name, first, checkout):
    if first:
        shutil.rmtree(checkout / "runs/baseline")
    summary = checkout / "summary.md"
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    more = {"GITHUB_STEP_SUMMARY": str(summary), "BASELINE": "runs/baseline", "CI_COMMIT_BRANCH": "main"}
    environment = {**os.environ, "PATH": paths, "CI_DEFAULT_BRANCH": "main", **more}
    for text in scripts(name):
        if text.startswith(INSTALLS) or (first and name != "gitlab-ci.yml" and "--baseline" in text):
            continue
        done = subprocess.run(
            ["bash", "-ec", text], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in ((0, 1, 3) if " gate " in text else (0,)), (text, done.stderr)
    assert (checkout / "runs/baseline/report.json").is_file()
    assert name != "github.yml" or summary.read_text().startswith("# ")
