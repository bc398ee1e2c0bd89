"""Whose word lets a factory run: the user's own, never that of a file; and what is never a factory at all."""

import json
import sys

import pytest

from robustdeploy.core.factories import check_factory_name, origin
from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice
from robustdeploy.core.trust import check_trusted, remember, state_folder
from robustdeploy.errors import ArtifactError, RecipeError
from robustdeploy.nets.build import build_net

LOUD = """
from pathlib import Path
Path({mark!r}).write_text("imported")
from os import system
from torch.hub import load
from torch.nn import Linear
from torchvision.models import resnet18
import subprocess as run
import torch.nn as nn
number = 3
def make(num_classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
other = make
class NoNet:
    def __init__(self, num_classes): Path({mark!r}).write_text("called")
"""


@pytest.fixture
def loud(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported; the fixture gives the mark's path."""
    mark = tmp_path / "mark"
    (tmp_path / "loud_nets.py").write_text(LOUD.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loud_nets", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return mark


def built(name, **options):
    return build_net(Choice(name=name, options=options), 5, (3, 8, 8), [0.5] * 3, [0.5] * 3)


NEVER = [
    "torch.hub:load",
    "torch:load",
    "torch.jit:load",
    "torch.serialization:load",
    "torch.utils.cpp_extension:load",
    "torch.nn:Sequential",
    "torchvision.models.quantization:resnet18",
    "builtins:exec",
    "builtins:eval",
    "os:system",
    "posix:system",
    "subprocess:run",
    "runpy:run_path",
    "importlib:import_module",
    "pickle:load",
    "_pickle:load",
    "ctypes:CDLL",
    "__main__:main",
    "numpy:load",
    "joblib:load",
    "yaml:unsafe_load",
    "pip:main",
    "robustdeploy.devices.local:Local",
    "a b:c",
    "a:b.c",
    ":make",
    "mine:",
    "../mine:make",
    "mine:make:more",
]


@pytest.mark.parametrize("name", NEVER)
def test_what_is_never_a_factory_is_refused_by_its_name_whoever_gives_it(name):
    with pytest.raises(RecipeError, match="factory"):
        check_factory_name(name)
    with pytest.raises(RecipeError, match="factory"):
        built(name)
    with pytest.raises(RecipeError, match="factory"):
        load_recipe("digits-resnet8", [f"net={json.dumps(name)}"])
    with pytest.raises((ArtifactError, RecipeError)):
        check_trusted(Choice(name=name), "net.json", trust=True)


@pytest.mark.parametrize("name", ["get_model", "resnet999", "list_models", "ResNet"])
def test_of_torchvision_only_the_classifiers_that_it_lists_are_nets(name):
    with pytest.raises(RecipeError, match="unknown net"):
        built(f"torchvision.models:{name}")
    with pytest.raises(RecipeError, match="unknown net"):
        load_recipe("digits-resnet8", [f"net='torchvision.models:{name}'"])


def test_weights_of_torchvision_are_not_fetched_by_either_spelling():
    with pytest.raises(RecipeError, match="trained from scratch"):
        built("torchvision.models:resnet18", weights="DEFAULT")


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("missing", "defines no missing"),
        ("number", "must be callable"),
        ("run", "must be callable"),
        ("system", "os is a module of Python itself"),
        ("load", "torch.hub belongs to torch"),
    ],
)
def test_a_module_is_not_imported_for_a_factory_that_is_rejected(loud, attribute, words):
    with pytest.raises(RecipeError, match=words):
        built(f"loud_nets:{attribute}")
    assert not loud.exists()


def test_a_class_that_is_no_net_is_not_called(loud):
    with pytest.raises(RecipeError, match=r"is no torch\.nn\.Module"):
        built("loud_nets:NoNet")
    assert loud.read_text() == "imported"


@pytest.mark.parametrize("attribute", ["make", "other", "resnet18"])
def test_a_users_own_factory_is_called(loud, attribute):
    assert built(f"loud_nets:{attribute}").training


def test_a_module_that_leaves_or_fails_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = {"leaving_nets": "def make(num_classes): pass\nraise SystemExit(0)", "torn_nets": "def ("}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(RecipeError, match="cannot be imported"):
            built(f"{name}:make")


CHOICE = Choice(name="loud_nets:make", options={"width": 4})


def test_a_files_word_is_not_enough_and_the_sentence_says_what_would_run(loud):
    with pytest.raises(ArtifactError) as caught:
        check_trusted(CHOICE, loud.parent / "net.json", trust=False)
    told = str(caught.value)
    assert str(loud.parent / "net.json") in told
    assert "{name: loud_nets:make, width: 4}" in told
    assert str(loud.parent / "loud_nets.py") in told
    assert "--trust" in told
    assert not loud.exists()


@pytest.mark.parametrize("trust", [True, ["loud_nets:make"], "loud_nets:make", [CHOICE], [Choice(name="x:y"), CHOICE]])
def test_the_users_word_is(loud, trust):
    check_trusted(CHOICE, "net.json", trust)


@pytest.mark.parametrize(
    "trust", [(), [""], ["loud_nets"], ["loud_nets:made"], [Choice(name="loud_nets:make", options={"width": 5})]]
)
def test_a_word_for_something_else_is_not(loud, trust):
    with pytest.raises(ArtifactError, match="--trust"):
        check_trusted(CHOICE, "net.json", trust)


def test_who_trained_with_a_factory_need_not_vouch_for_it_again(loud, tmp_path, monkeypatch):
    remember(CHOICE)
    check_trusted(CHOICE, "net.json", trust=False)
    with pytest.raises(ArtifactError):  # other options are another call
        check_trusted(Choice(name="loud_nets:make", options={"width": 5}), "net.json", trust=False)
    there = tmp_path / "elsewhere"
    there.mkdir()
    (there / "loud_nets.py").write_text(f"open({str(loud)!r}, 'w')\n")
    monkeypatch.syspath_prepend(there)
    assert origin(CHOICE.name) == there / "loud_nets.py"
    with pytest.raises(ArtifactError):  # the same name, but other code
        check_trusted(CHOICE, "net.json", trust=False)
    assert not loud.exists()


@pytest.mark.parametrize("state", ["a file", "missing", "relative"])
def test_without_a_state_folder_nothing_is_remembered_and_nothing_fails(loud, tmp_path, monkeypatch, state):
    if state == "a file":
        (tmp_path / "state").write_text("in the way")
    elif state == "relative":
        monkeypatch.setenv("XDG_STATE_HOME", "here")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        remember(CHOICE)
        assert state_folder() == tmp_path / "home/.local/state/robustdeploy"
        assert (tmp_path / "home/.local/state/robustdeploy/factories").is_dir()
        return
    if state == "a file":
        remember(CHOICE)
    with pytest.raises(ArtifactError):
        check_trusted(CHOICE, "net.json", trust=False)
