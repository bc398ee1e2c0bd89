"""The README's promises: its two commands, what works where, the links and the pictures; and that it stays short."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from robustdeploy.core.load import load_target
from robustdeploy.core.shipped import shipped_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIRST = "pip install uv && uv run robustdeploy run --target host-cpu"
SECOND = "uv run pytest -n 2 --dist loadfile"
MOST_LINES = 120


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_commands_are_the_promised_ones():
    first, second = blocks("sh")[:2]
    assert (first.strip(), second.strip()) == (FIRST, SECOND)


def test_ci_runs_the_readmes_own_test_command():
    script = (ROOT / ".ci/run").read_text()
    (extract,) = re.findall(r"^command=\$\((awk .*)\)$", script, re.MULTILINE)
    done = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SECOND
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert script.rstrip().endswith('bash -euo pipefail -c "$command"')


def test_nothing_is_left_to_be_filled_in():
    assert re.findall(r"@[A-Z]{3,}@", README) == []


def test_it_is_read_at_one_sitting_and_says_first_what_it_is_for():
    assert len(README.splitlines()) <= MOST_LINES
    purpose = README.split("\n\n")[1]
    assert len(re.findall(r"[.!?](?:\s|$)", purpose)) == 3


def test_every_picture_and_page_is_there():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (ROOT / link).exists()] == []
    assert any(link.endswith(".png") for link in local)
    pages = ("tutorial", "diagnostics", "threats", "statistics", "targets", "run-folder", "commands", "glossary")
    assert {f"docs/{name}.md" for name in pages} <= set(local)


def test_what_works_on_which_target_is_told_of_each():
    rows = [line.strip("|").split("|") for line in rows_of("target")]
    states = {name: row[-1].strip() for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert states.keys() == set(shipped_names("targets"))
    for name, state in states.items():
        target = load_target(name)
        assert ("contract-tested, not run on hardware" in state) == (target.status == "contract-tested")
        assert ("emulated" in state) == target.emulated


def rows_of(head):
    lines = README[README.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    return lines[2:]


def test_the_licence_is_the_one_that_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache-2.0" in README
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
