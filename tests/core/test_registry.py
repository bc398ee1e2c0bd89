import dataclasses
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Annotated, Literal

import pytest
from pydantic import Field

from robustdeploy.core import registry as module
from robustdeploy.core.options import options_type
from robustdeploy.core.registry import ATTACKS, ENSEMBLES, QUERY_ATTACKS, Registry
from robustdeploy.errors import RecipeError


def test_names_come_from_file_names_without_importing(registries):
    assert registries["trackers"].names() == ("my-board", "silent")
    assert "testplugins.trackers.silent" not in sys.modules
    assert registries["trackers"].summary("my-board") == "The my_board plug-in."
    assert registries["trackers"].origin("my-board").name == "my_board.py"
    assert "testplugins.trackers.my_board" not in sys.modules


def test_unknown_name_is_told_with_the_nearest_and_all(registries):
    with pytest.raises(RecipeError, match=r"unknown attack 'pgdd'; did you mean 'pgd'\? \(known: fgsm, pgd\)"):
        registries["attacks"].get("pgdd")


def test_build_accepts_fractions_wherever_a_number_is(registries):
    made = registries["tasks"].build("pgd-at", {"alpha": "8/255", "pair": ["1/2", 1], "steps": 3})
    assert (made.alpha, made.pair, made.steps) == (8 / 255, (0.5, 1.0), 3)
    assert made() == made.alpha
    assert type(made) is registries["tasks"].get("pgd-at")


@pytest.mark.parametrize(
    ("options", "place", "sentence"),
    [
        ({"alpa": 0.1}, ("alpa",), "unknown key (value 0.1); did you mean 'alpha'?"),
        ({"alpha": float("nan")}, ("alpha",), "must be a finite number, not nan"),
        ({"alpha": float("inf")}, ("alpha",), "must be a finite number, not inf"),
        ({"alpha": "8/0"}, ("alpha",), "8/0 divides by zero"),
        ({"pair": [1, "x"]}, ("pair", 1), "must be a number, not 'x'"),
        ({"steps": 2.5}, ("steps",), "must be a whole number, not 2.5"),
        ({"steps": True}, ("steps",), "must be a number, not true"),
        ({"mode": "fats"}, ("mode",), "must be 'fast' or 'slow', not 'fats'; did you mean 'fast'?"),
        ({"steps": 0}, (), "steps must be at least 1, not 0"),
    ],
)
def test_a_wrong_option_is_told_at_its_place(registries, options, place, sentence):
    assert registries["tasks"].problems("fastat", options) == [(place, sentence)]
    with pytest.raises(RecipeError) as caught:
        registries["tasks"].build("fastat", options)
    assert sentence in str(caught.value)


def test_all_wrong_options_are_told_together(registries):
    assert len(registries["tasks"].problems("fastat", {"alpa": 1, "mode": 3, "pair": 7})) == 3


def test_names_resolved_elsewhere_are_accepted(registries):
    assert registries["nets"].problems("my.module:factory", {"anything": 1}) == []
    assert registries["nets"].problems("nonsense", {})[0][0] == ("name",)
    with pytest.raises(RecipeError):
        registries["nets"].get("my.module:factory")


def test_entry_points_are_plugins_too(registries, monkeypatch):
    group = "testplugins.tasks"
    entries = [EntryPoint("other", "testplugins.tasks.fastat:plugin", group)]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    registry = Registry("task", "testplugins.tasks", group)
    assert registry.names() == ("fastat", "other", "pgd-at")
    assert registry.origin("other").name == "fastat.py"
    assert registry.build("other", {"steps": 2}).steps == 2


def test_a_name_that_exists_twice_is_refused(registries, monkeypatch):
    entries = [EntryPoint("fastat", "elsewhere:Thing", "testplugins.tasks")]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    with pytest.raises(RecipeError, match="exists twice"):
        Registry("task", "testplugins.tasks", "testplugins.tasks").get("fastat")


def test_an_entry_point_that_cannot_be_imported_is_told(monkeypatch, registries):
    entries = [EntryPoint("gone", "not_there_at_all:Thing", "g")]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    problems = Registry("task", "testplugins.tasks", "g").problems("gone", {})
    assert problems == [(("name",), "the task 'gone' cannot be imported: No module named 'not_there_at_all'")]


def test_schema_tells_types_defaults_and_docstrings(registries):
    schema = registries["tasks"].json_schema("fastat")
    assert schema["additionalProperties"] is False
    assert schema["properties"]["alpha"]["description"] == "Step, in pixels."
    assert schema["properties"]["steps"]["default"] == 10


@dataclasses.dataclass(frozen=True)
class _Bounded:
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    kind: Literal["a"] | None = None
    needed: int = dataclasses.field(kw_only=True)
    made: float = dataclasses.field(default=0.0, init=False)


def test_options_type_keeps_bounds_and_required_fields_and_drops_what_is_not_an_option():
    names = [f.name for f in dataclasses.fields(options_type(_Bounded))]
    assert names == ["share", "kind", "needed"]


def test_attacks_query_attacks_and_ensembles_share_no_name():
    names = [name for registry in (ATTACKS, QUERY_ATTACKS, ENSEMBLES) for name in registry.names()]
    assert len(names) == len(set(names))


def test_every_registry_lists_its_names_without_torch():
    code = (
        "import sys; from robustdeploy.core.registry import REGISTRIES\n"
        "for registry in REGISTRIES.values():\n    [registry.summary(name) for name in registry.names()]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
