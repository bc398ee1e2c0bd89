"""The README's promises: its two commands, every command line, the Python block, the links and the pictures."""

import os
import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from robustdeploy.cli.app import app
from robustdeploy.cli.options import overrides
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.core.shipped import shipped_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIRST = "pip install uv && uv run robustdeploy run --target host-cpu"
SECOND = "uv run pytest -n 2 --dist loadfile"
API = """
    name: api
    net: {name: resnet8, width: 8}
    threat: {eps: 0.1}
    train: {epochs: 1, device: cpu}
    baseline: false
    evaluate: {limit: 20, curve_limit: 10, eps_curve: [1], attacks: [fgsm, {name: square, queries: 5}]}
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def command_lines():
    """Each call of robustdeploy in a block of shell, as its arguments."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;|\||>", line.partition(" #")[0]):
                words = shlex.split(part, comments=True)
                if "robustdeploy" in words:
                    yield words[words.index("robustdeploy") + 1 :]


COMMANDS = list(command_lines())


def parsed(words):
    """Let the real command line parse ``words``, down to the command's own options, and run nothing."""
    group = typer.main.get_command(app)
    with group.make_context("robustdeploy", list(words)) as top:
        name, command, rest = group.resolve_command(top, [*getattr(top, "_protected_args", []), *top.args])
        with command.make_context(name, rest, parent=top) as context:
            return name, context.params


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


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 7
    assert {"run", "prune", "export", "evaluate", "report", "gate"} <= {words[0] for words in COMMANDS}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_line_of_the_readme_is_one(words):
    name, options = parsed(words)
    assert name == words[0]
    if target := options.get("target"):
        targets = [target] if isinstance(target, str) else list(target)
        assert [load_target(each).name for each in targets] == targets
    if name in ("run", "prune"):
        given = overrides(options["set_"], options["ops_target"], options["seed"], options["data"])
        assert load_recipe(options["recipe"], given).name == options["recipe"]


@pytest.mark.parametrize("words", [["prune", "--ops", "0.3"], ["deploy"], ["export", "--target"]])
def test_a_wrong_command_line_would_be_noticed(words):
    with pytest.raises(Exception, match=r"No such|requires an argument"):
        parsed(words)


@pytest.mark.slow
def test_the_python_block_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(API)
    (tmp_path / "quick.yaml").write_text(
        "extends: host-cpu\nname: quick\nlatency: {warmup_s: 0, min_s: 0.05, max_s: 1, min_samples: 70}\n"
    )
    (code,) = blocks("python")
    small = code.replace('"digits-resnet8"', '"tiny.yaml"').replace('"host-cpu"', '"quick.yaml"')
    assert small.count("tiny.yaml") == 1
    assert small.count("quick.yaml") == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "api.py").write_text(small)
    names = runpy.run_path("api.py")
    assert capsys.readouterr().out.strip() in ("PASS", "FAIL", "INCONCLUSIVE")
    import torch

    with torch.no_grad():
        assert names["net"](torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert len(code.strip().splitlines()) <= 8, "a few lines are promised"


def test_every_picture_and_page_is_there():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (ROOT / link).exists()] == []
    assert any(link.endswith(".png") for link in local)
    assert {"docs/diagnostics.md", "docs/threats.md", "docs/targets.md", "docs/run-folder.md"} <= set(local)


def test_what_the_readme_lists_is_what_there_is():
    for name in [*shipped_names("targets"), *REGISTRIES["data"].names()]:
        assert f"`{name}`" in README, name
    rows = [line.strip("|").split("|") for line in rows_of("target")]
    states = {name: row[-1].strip() for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert states.keys() == set(shipped_names("targets"))
    for name, state in states.items():
        assert ("not run on hardware" in state) == (load_target(name).status == "contract-tested")


def rows_of(head):
    lines = README[README.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    return lines[2:]


def test_blocks_of_yaml_are_yaml():
    assert all(yaml.safe_load(block) for block in blocks("yaml"))


def test_the_licence_is_the_one_that_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache-2.0" in README
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
