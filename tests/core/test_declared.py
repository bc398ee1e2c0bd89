"""Options read from a plug-in's file are those that the plug-in itself has, and nothing that is unsure is refused."""

import dataclasses
from typing import Any, Literal, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from robustdeploy.core.declared import declared_options, declared_value
from robustdeploy.core.options import options_type
from robustdeploy.core.registry import REGISTRIES, Registry

NEEDS = {"ssh": {"host": "board"}, "transfer": {"source": "other"}, "replay": {"source": "other"}}
PLUGINS = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_what_a_file_declares_is_what_the_plug_in_has(kind, name):
    registry = REGISTRIES[kind]
    declared = {f.name: f for f in dataclasses.fields(declared_options(registry.origin(name), "plugin"))}
    real = {f.name: f for f in dataclasses.fields(options_type(registry.get(name)))}
    assert list(declared) == list(real)
    for field in real:
        required = [
            each[field].default is dataclasses.MISSING and each[field].default_factory is dataclasses.MISSING
            for each in (declared, real)
        ]
        assert required[0] == required[1]
    defaults = registry.build(name, NEEDS.get(name, {}))
    values = {f: getattr(defaults, f) for f in real}
    TypeAdapter(declared_options(registry.origin(name), "plugin")).validate_python(values)


@pytest.mark.parametrize("kind", ["attacks", "substitutes", "engine-attacks", "pruners", "tasks"])
def test_options_of_what_needs_torch_are_all_of_types_that_can_be_read(kind):
    for name in REGISTRIES[kind].names():
        for field in dataclasses.fields(declared_options(REGISTRIES[kind].origin(name), "plugin")):
            assert field.type is not Any, (name, field.name)


@pytest.mark.parametrize(
    ("kind", "name", "attribute"),
    [("pruners", name, "needs_budget") for name in REGISTRIES["pruners"].names()]
    + [("tasks", name, "replays") for name in REGISTRIES["tasks"].names()],
)
def test_a_trait_read_from_a_file_is_that_of_the_class(kind, name, attribute):
    registry = REGISTRIES[kind]
    assert registry.trait(name, attribute, "none") == getattr(registry.get(name), attribute, "none")


@pytest.mark.parametrize(
    "body", ["deep = 3 + 4", "@property\n    def deep(self): return 7", "deep: int = field(default=7)"]
)
def test_a_trait_that_a_file_does_not_tell_is_not_guessed(tmp_path, body):
    (tmp_path / "made.py").write_text(f"@dataclass\nclass Made:\n    {body}\nplugin = Made\n")
    with pytest.raises(LookupError):
        declared_value(tmp_path / "made.py", "plugin", "deep")
    assert declared_value(tmp_path / "made.py", "plugin", "other", 2) == 2


FILE = '''
"""A plug-in of somebody's."""
from dataclasses import dataclass, field
from typing import ClassVar, Literal
import torch_that_is_not_installed
from somewhere.else_ import Count
from robustdeploy.core.bounds import Share

@dataclass(frozen=True)
class Mine:
    known: ClassVar[int] = 3
    steps: Count = 1
    share: Share = 0.5
    mode: Literal["a", "b"] | None = None
    sizes: tuple[int, ...] = ()
    names: "list[str]" = field(default_factory=list)
    made: int = field(init=False, default=1)
    needed: float
    own: Strange = 1

plugin: type = Mine
'''


def test_a_foreign_file_is_read_as_far_as_it_can_be_without_importing_it(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    declared = declared_options(tmp_path / "mine.py", "plugin")
    types = {f.name: f.type for f in dataclasses.fields(declared)}
    assert list(types) == ["steps", "share", "mode", "sizes", "names", "needed", "own"]
    assert types["steps"] is Any  # its Count is not ours
    assert types["own"] is Any
    assert Literal["a", "b"] in get_args(types["mode"])
    adapter = TypeAdapter(declared)
    adapter.validate_python({"needed": "8/255", "mode": "b", "sizes": [1, 2], "names": ["x"], "own": object()})
    for wrong in ({}, {"needed": 1, "share": 1.5}, {"needed": 1, "mode": "c"}, {"needed": 1, "sizes": ["x"]}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plugin = made()",
        "class A: pass\nplugin = A",
        "@dataclass\nclass A(B):\n    x: int = 1\nplugin = A",
        "def (",
    ],
)
def test_a_file_that_does_not_tell_refuses_nothing(tmp_path, text):
    (tmp_path / "odd.py").write_text(text)
    assert declared_options(tmp_path / "odd.py", "plugin") is None


def test_a_quick_look_imports_no_heavy_plug_in(tmp_path, monkeypatch):
    folder = tmp_path / "somebodys" / "things"
    folder.mkdir(parents=True)
    (tmp_path / "somebodys" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "mine.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[Any] = Registry("thing", "somebodys.things", "somebodys.things", heavy=True)
    assert registry.problems("mine", {"needed": 1}, quick=True) == []
    (place, text), *rest = registry.problems("mine", {"needed": 1, "mode": "c"}, quick=True)
    assert (place, rest) == (("mode",), [])
    assert "'a' or 'b'" in text
    ((place, text),) = registry.problems("mine", {"needed": 1})
    assert place == ("name",)
    assert "torch_that_is_not_installed" in text


def test_torchvisions_classifiers_are_known_from_its_files():
    models = pytest.importorskip("torchvision.models")
    from robustdeploy.core.torchvision_package import classifiers

    assert classifiers() == set(models.list_models(module=models))
