"""The site: it builds without a warning and without the network, and its reference has all that the code has."""

import importlib.util
import re
import sys
import warnings
from pathlib import Path
from typing import get_args

import pytest

from robustdeploy import api, errors
from robustdeploy.cli.group import COMMANDS, imported
from robustdeploy.core.gate import Gate
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.model import Noun
from robustdeploy.core.recipe import Recipe, Threat
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.core.target import Target

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reference():
    """The generated pages by their place."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "scripts" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reference()


def nouns(kind):
    """``kind`` and every noun inside it."""
    yield kind
    for field in kind.model_fields.values():
        parts = [field.annotation]
        while parts:
            part = parts.pop()
            parts += get_args(part)
            if isinstance(part, type) and issubclass(part, Noun) and part.__name__ != "Choice":
                yield from nouns(part)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_the_reference(name, reference):
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", reference["reference/cli.md"], re.MULTILINE | re.DOTALL)[1]
    command = imported(name)
    for each in command.params:
        words = each.opts if each.param_type_name == "option" else [each.metavar]
        assert all(re.search(rf"^\| `[^|]*{re.escape(word)}(?!\w)", section, re.MULTILINE) for word in words), words
    assert command.help.split("\n")[0] in section


@pytest.mark.parametrize(("kind", "page"), [(Recipe, "recipe"), (Target, "target"), (Gate, "gate")])
def test_every_field_is_in_the_reference(kind, page, reference):
    text = reference[f"reference/{page}.md"]
    for noun in {*nouns(kind)}:
        section = re.search(rf"^## {noun.__name__}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
        missing = [name for name in noun.model_fields if f"\n| `{name}` |" not in section]
        assert missing == [], noun
    if kind is Recipe:  # a dataclass, since boards know it too
        assert all(f"\n| `{name}` |" in text for name in Threat.__dataclass_fields__)


def test_every_plug_in_metric_error_and_function_is_in_the_reference(reference):
    plug_ins = reference["reference/plug-ins.md"]
    for kind, registry in REGISTRIES.items():
        assert [name for name in registry.names() if f"### {kind}: {name}\n" not in plug_ins] == []
    assert [name for name in METRICS if f"| `{name}` |" not in reference["reference/metrics.md"]] == []
    ours = [name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)]
    assert [name for name in ours if f"| `{name}` |" not in reference["reference/exit-codes.md"]] == []
    python = reference["reference/python.md"]
    assert [name for name in api.__all__ if f"::: robustdeploy.api.{name}\n" not in python] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built in this process as ``mkdocs build --strict`` builds it."""
    pytest.importorskip("material", reason="the site needs the group docs: uv sync --group docs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        # Those of the packages that build it; what mkdocs itself warns of ends the build.
        warnings.simplefilter("ignore")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    yield folder
    sys.modules.pop("scripts/pages.py", None)


@pytest.mark.slow
def test_the_site_builds_strictly_with_every_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    assert {page.replace("README", "index") for page in pages} <= built
    assert {"index", "contributing", "changelog", "reference/cli", "reference/python"} <= built
    assert not (site / "results").exists(), "the nets behind the results are no part of the site"


@pytest.mark.slow
def test_the_site_fetches_nothing(site):
    fetched = {}
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)", path.read_text()
        )
        if loaded:
            fetched[path.name] = loaded
    assert fetched == {}
    assert [path for path in site.rglob("*.css") if re.search(r"url\(['\"]?https?:", path.read_text())] == []


@pytest.mark.slow
def test_no_markup_is_left_on_a_page(site):
    """A list without an empty line before it, or a fence that was not understood, would show as it is written."""
    left = {}
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", path.read_text(), flags=re.DOTALL)
        shown = re.findall(r"```|\]\([^)\s]+\)|<p>[^<]*\n- |^:::.*$", text, re.MULTILINE)
        if shown:
            left[path.relative_to(site).as_posix()] = shown[:3]
    assert left == {}
