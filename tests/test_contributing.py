"""CONTRIBUTING.md against the code: what it names is there, and it names all there is."""

import importlib.util
import re
import tomllib
from pathlib import Path

from robustdeploy.core.kinds import KINDS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_page_can_be_read_at_one_sitting():
    assert len(PAGE.splitlines()) <= 150


def test_every_kind_of_plug_in_has_a_row_and_a_page_of_its_own():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .* \| \[.*\]\((docs/how-to/[\w-]+\.md)\) \|$", PAGE, re.MULTILINE))
    assert set(rows) == set(KINDS)
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "how-to").glob("add-*.md")}
    assert sorted(rows.values()) == sorted(pages)


def test_the_page_names_files_that_exist():
    named = re.findall(r"`((?:tests|scripts|docs|robustdeploy|benchmarks)/[\w/.-]*)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_floor_of_the_contract_is_on_the_page_in_order():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    floors = [layer.replace("robustdeploy.", "") for layer in contract["layers"]]
    picture = PAGE.partition("## The floors")[2].partition("```\n")[2].partition("```")[0]
    shown = [line.rpartition("  ")[0].split("  ")[0].strip() for line in picture.splitlines() if line.strip()]
    assert shown == floors
    assert all(importlib.util.find_spec(f"robustdeploy.{name}") for floor in floors for name in floor.split(" | "))
