"""Turn nouns into the plain values that YAML and JSON hold, and look values up in either."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from robustdeploy.core.complaint import Place
from robustdeploy.core.model import Noun
from robustdeploy.core.recipe import Choice


def plain(value: Any) -> Any:
    """Return a noun as the values its YAML would hold: mappings, lists, text, numbers."""
    if isinstance(value, Choice):
        if not value.options:
            return value.name
        if {"name", "options"} & set(value.options):
            return {"name": value.name, "options": plain(value.options)}
        return {"name": value.name, **plain(value.options)}
    if isinstance(value, Noun):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def in_words(choice: Choice) -> str:
    """Write a plug-in with its options: ``resnet8, width 24``."""
    options = (f"{name.replace('_', ' ')} {plain(value)}" for name, value in choice.options.items())
    return ", ".join([choice.name, *options])


def value_at(root: Any, place: Place, default: Any = None) -> Any:
    """Value at a place of nested mappings, lists and nouns, or ``default`` where the way ends."""
    for step in place:
        if isinstance(root, Mapping):
            if step not in root:
                return default
            root = root[step]
        elif isinstance(step, int):
            if not (isinstance(root, list | tuple) and step < len(root)):
                return default
            root = root[step]
        elif not hasattr(root, step):
            return default
        else:
            root = getattr(root, step)
    return root
