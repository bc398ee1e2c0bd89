"""The glossary: it has the words that recipes, targets, stages, plug-ins and verdicts are made of."""

import importlib
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

from robustdeploy.core.gate import Credibility, Gate, Outcome
from robustdeploy.core.kinds import KINDS
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Measurement, Report
from robustdeploy.core.subject import Subject
from robustdeploy.core.target import Scenario, Target

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)[1:]
TERMS = {term.strip().lower() for term, _ in ROWS}
PLAIN = {
    "name",
    "description",
    "created",
    "producer",
    "label",
    "value",
    "unit",
    "n",
    "low",
    "high",
    "sha256",
    "options",
}
"""Words that mean here what they mean elsewhere."""


def stages():
    """Names of the stages, by their own classes."""
    for path in sorted((ROOT / "robustdeploy/stages").glob("*.py")):
        if path.stem != "__init__":
            module = importlib.import_module(f"robustdeploy.stages.{path.stem}")
            for each in vars(module).values():
                if isinstance(each, type) and each.__module__ == module.__name__ and is_dataclass(each):
                    named = {field.name: field.default for field in fields(each)}
                    if isinstance(named.get("name"), str) and "needs" in dir(each):
                        yield named["name"]


def told(word):
    """Whether a row explains a word: as it is, in the singular, or by one of its parts that are words here."""
    words = word.lower().replace("_", " ").replace("-", " ").removesuffix(" mib")
    return any(each in TERMS for each in (word.lower(), words, words.removesuffix("s"), words.split()[-1]))


@pytest.mark.parametrize("noun", [Recipe, Target, Gate, Report, Measurement, Subject], ids=lambda noun: noun.__name__)
def test_every_field_of_a_noun_is_a_word_of_the_glossary(noun):
    names = noun.model_fields if hasattr(noun, "model_fields") else [field.name for field in fields(noun)]
    assert [name for name in names if name not in PLAIN and not told(name)] == []
    assert told(noun.__name__) or noun is Measurement  # which is a row


def test_every_stage_kind_verdict_and_scenario_is_one():
    found = {*stages()}
    assert {"train", "export", "attack", "compile", "measure"} <= found
    words = [*found, *(kind.noun for kind in KINDS.values()), *Outcome, *Credibility]
    assert [word for word in words if not told(word)] == []
    meaning = dict(ROWS)["scenario"]
    assert [each for each in get_args(Scenario) if each not in meaning] == []


def test_the_words_stand_in_order_once():
    words = [term for term, _ in ROWS]
    assert words == sorted(set(words), key=str.lower)
    assert len(words) > 100
