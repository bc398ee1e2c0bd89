"""A newcomer's path: a fresh copy of the tree, the README's commands, then the tutorial to its last line."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
FILES = dict(re.findall(r"^```yaml (\S+)\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^    robustdeploy (.+)$", TUTORIAL, re.MULTILINE)
VERDICTS = {0, 1, 3}
"""Of a gate: which one it is differs with the processor that the net was trained on."""


def commands_of_the_readme():
    return re.findall(r"^```sh\n(.*?)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[:2]


def test_the_tutorial_goes_from_a_recipe_to_a_board_and_leaves_none_running():
    verbs = [line.split()[0] for line in COMMANDS]
    assert verbs[0] == "validate"
    assert [verb for verb in verbs if verb == "run"] == ["run"] * 3
    assert (COMMANDS.index("board create"), COMMANDS[-1]) < (COMMANDS.index("board start"), "board stop!")
    assert COMMANDS[-1] == "board stop"
    assert "--target aarch64-emulated" in COMMANDS[COMMANDS.index("board start") + 2]
    named = {word for line in COMMANDS for word in line.split() if word.endswith(".yaml")}
    assert named == FILES.keys()
    assert all(yaml.safe_load(text) for text in FILES.values())


def test_the_output_that_the_tutorial_shows_is_of_its_own_rules():
    shown = re.search(r"^```text\n(% \[95.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL).group(1)
    ids = [rule["id"] for rule in yaml.safe_load(FILES["first.yaml"])["gate"]]
    assert re.findall(r"MY-\w+-\d+", shown) == ids


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what git would hand out, and how to run a line of shell in it as somebody who has nothing yet."""
    if shutil.which("git") is None or shutil.which("pip") is None:
        pytest.skip("a newcomer needs git and pip")
    folder = tmp_path_factory.mktemp("newcomer") / "clone"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    home = folder.parent / "home"
    home.mkdir()
    # Downloads are shared with whoever runs this; runs, boards and what is remembered are not.
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    environment = {**os.environ, "HOME": str(home), "UV_CACHE_DIR": cache}
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "XDG_STATE_HOME"):
        environment.pop(name, None)

    def run(line, codes=frozenset({0})):
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in codes, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run
    run("uv run robustdeploy board stop", {0, 2})


@pytest.mark.exhaustive
def test_the_readmes_commands_work_in_a_fresh_copy(clone):
    first, second = commands_of_the_readme()
    assert "pruned/fp32@host-cpu" in clone(first, VERDICTS)
    # All tests in a test would not end; that they are found and run there is what can be shown.
    assert " passed" in clone(f"{second} tests/test_contributing.py")


@pytest.mark.exhaustive
def test_the_tutorial_works_to_its_last_line(clone):
    for line in COMMANDS:
        said = clone(f"uv run robustdeploy {line}", VERDICTS if line.startswith(("run ", "gate ")) else {0})
        if "aarch64-emulated" in line and line.startswith("run "):
            assert "pruned/fp32@aarch64-emulated" in said
    assert "STRICT-ROB-01" in clone("uv run robustdeploy gate first --rules strict.yaml", VERDICTS)
