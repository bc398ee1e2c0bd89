"""Every command line of every page, and the Python of docs/python.md: what is shown can be typed."""

import re
import runpy
import shlex
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
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
API = """
    name: api
    net: {name: resnet8, width: 8}
    threat: {eps: 0.1}
    train: {epochs: 1, device: cpu}
    baseline: false
    evaluate: {limit: 20, curve_limit: 10, eps_curve: [1], attacks: [fgsm, {name: square, queries: 5}]}
"""


def command_lines(text):
    """Each call of robustdeploy in a block of shell or an indented one, as its arguments."""
    fenced = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    unfenced = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = "".join(f"{line}\n" for line in re.findall(r"^    +(\S.*)$", unfenced, re.MULTILINE))
    for line in (fenced + indented).replace("\\\n", " ").splitlines():
        # Of an example only the calls themselves, not what stands around them.
        for part in re.split(r"&&|\|\||;|\s\|\s|\s>", line.partition(" #")[0]):
            words = part.split()
            if "robustdeploy" in words and not {"pip", "import"} & set(words[: words.index("robustdeploy")]):
                yield shlex.split(part)[words.index("robustdeploy") + 1 :]


COMMANDS = {page: list(command_lines(text)) for page, text in PAGES.items()}


def parsed(words):
    """Let the real command line parse ``words``, down to the command's own options, and run nothing."""
    group = typer.main.get_command(app)
    with group.make_context("robustdeploy", list(words)) as top:
        name, command, rest = group.resolve_command(top, [*getattr(top, "_protected_args", []), *top.args])
        with command.make_context(name, rest, parent=top) as context:
            return name, context.params


@pytest.mark.parametrize("page", [page for page, lines in COMMANDS.items() if lines])
def test_every_command_line_of_a_page_is_one(page):
    for words in COMMANDS[page]:
        if "--install-completion" in words or "COMMAND" in words:
            continue
        name, options = parsed(words)
        assert name == words[0]
        target = options.get("target") or ()
        for each in [target] if isinstance(target, str) else target:
            if each in shipped_names("targets"):
                assert load_target(each).name == each
        if name in ("run", "prune") and options["recipe"] in shipped_names("recipes"):
            given = overrides(options["set_"], options["ops_target"], options["seed"], options["data"])
            # Those pages choose a plug-in of their own; test_how_to.py installs it and runs the line.
            if not page.startswith("docs/how-to/add-"):
                assert load_recipe(options["recipe"], given).name == options["recipe"]


def test_there_are_commands_to_check():
    verbs = {words[0] for lines in COMMANDS.values() for words in lines}
    assert {"run", "prune", "export", "evaluate", "report", "gate", "init", "plan", "board", "doctor"} <= verbs
    assert sum(map(len, COMMANDS.values())) > 100


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
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGES["docs/python.md"], re.MULTILINE | re.DOTALL)
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


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "\n```yaml" in text])
def test_blocks_of_yaml_are_yaml(page):
    assert all(yaml.safe_load(each) for each in re.findall(r"^```yaml.*?\n(.*?)^```$", PAGES[page], re.M | re.S))


def test_every_data_set_is_named_where_images_of_ones_own_are_told():
    text = PAGES["docs/how-to/your-own-data.md"]
    assert [name for name in REGISTRIES["data"].names() if f"`{name}`" not in text] == []
