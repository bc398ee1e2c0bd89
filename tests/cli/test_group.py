"""The lazy group: it lists every command without importing one, and imports the one that is wanted alone."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import robustdeploy.cli
from robustdeploy.cli.app import app
from robustdeploy.cli.group import COMMANDS, described, imported

FOLDER = Path(robustdeploy.cli.__file__).parent
LOADED = """
import json, sys
from robustdeploy.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["robustdeploy", *words]
    try:
        main()
    except SystemExit as end:
        print(end.code, file=sys.stderr)
print("loaded:", " ".join(sorted(sys.modules)))
"""


def loaded_by(*lines, folder):
    """Run command lines in one process; return stdout, their exit codes and the modules that are loaded then."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(lines)], cwd=folder, capture_output=True, text=True, check=True
    )
    out, _, modules = done.stdout.rpartition("loaded: ")
    return out, done.stderr.strip(), set(modules.split())


def is_command(path):
    """Whether a module beside the group holds a function of its own name."""
    functions = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    return path.stem in {function.name for function in functions}


def test_the_group_lists_every_command_that_there_is():
    assert {path.stem.removesuffix("_") for path in FOLDER.glob("*.py") if is_command(path)} == set(COMMANDS)
    assert len(set(COMMANDS)) == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_listed_is_what_the_command_says(name):
    command = imported(name)
    assert command.name == name
    assert described(name) == inspect.getdoc(command.callback)
    first = described(name).partition("\n")[0]
    assert first.endswith(".")
    assert len(first) <= 50, "the help cuts it"


def test_the_help_imports_no_command(tmp_path):
    out, code, modules = loaded_by(["--help"], folder=tmp_path)
    assert code == "0"
    assert [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line] == list(COMMANDS)
    assert all(described(name).partition("\n")[0] in out for name in COMMANDS)
    assert {f"robustdeploy.cli.{name}" for name in COMMANDS} & modules == set()


def test_a_command_imports_no_other(tmp_path):
    out, code, modules = loaded_by(["run", "--help"], folder=tmp_path)
    assert (code, "--ops-target" in out) == ("0", True)
    assert {f"robustdeploy.cli.{name}" for name in COMMANDS} & modules == {"robustdeploy.cli.run"}
    assert {"torch", "scipy", "onnx", "PIL"} & modules == set()


def test_the_help_of_no_command_loads_torch(tmp_path):
    out, codes, modules = loaded_by(*([name, "--help"] for name in COMMANDS), folder=tmp_path)
    assert codes.split() == ["0"] * len(COMMANDS)
    assert [line.split()[2] for line in out.splitlines() if line.startswith("Usage: ")] == list(COMMANDS)
    assert {"torch", "torchvision", "onnx", "onnxruntime", "scipy", "sklearn"} & modules == set()


def test_a_wrong_command_is_told_with_the_nearest(tmp_path):
    _, said, modules = loaded_by(["prun"], folder=tmp_path)
    assert "No such command 'prun'. Did you mean 'prune'" in said
    assert {f"robustdeploy.cli.{name}" for name in COMMANDS} & modules == set()


def test_the_commands_can_be_had_by_other_programs():
    group = typer.main.get_command(app)
    with group.make_context("robustdeploy", ["gate", "x"]) as top:
        name, command, rest = group.resolve_command(top, ["gate", "x"])
    assert (name, rest) == ("gate", ["x"])
    assert "rules" in {each.name for each in command.params}


LEAVING = """
import sys
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        sys.exit(0)
"""


def test_code_of_others_that_leaves_the_program_is_no_pass(tmp_path, command, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaving.py").write_text(LEAVING)
    (tmp_path / "parsing.py").write_text(f"{LEAVING}\nsys.exit(0)\n")
    for module, told in {
        "leaving": "left the program by sys.exit(0), so there is no result",
        "parsing": "SystemExit: 0",
    }.items():
        done = command(tmp_path, "prune", "--set", f"net={module}:Net", "--set", "gate=[]", "--quiet")
        assert done.code == 2
        assert told in done.err
        assert "belongs under `if __name__ == '__main__':`" in done.err


def test_the_list_of_query_attacks_says_what_each_reads(command, tmp_path):
    told = command(tmp_path, "ls", "query-attacks")
    assert told.code == 0
    needs = {line.split()[0]: line.rpartition("(needs ")[2].rstrip(")") for line in told.out.splitlines()}
    assert needs["square"] == needs["simba"] == needs["nes"] == "scores"
    assert needs["rays"] == needs["hop-skip-jump"] == "labels"
    listed = json.loads(command(tmp_path, "ls", "query-attacks", "--json").out)
    assert {entry["name"]: entry["needs"] for entry in listed} == needs
