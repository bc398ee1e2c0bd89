"""Choices in words: plug-ins that a command line names, ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``."""

from __future__ import annotations

import re
from typing import Any

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import Registry
from robustdeploy.errors import RecipeError, UsageError

# A comma inside a value, as addresses may have one, is followed by no further option.
_BETWEEN_OPTIONS = re.compile(r",(?=[A-Za-z][\w-]*=)")
# One between two plug-ins is followed by a name, which has no "=" behind it.
_BETWEEN_CHOICES = re.compile(r",(?![A-Za-z][\w-]*=)")


def choice_from(word: str, registry: Registry[Any]) -> Choice:
    """Return the plug-in of ``registry`` that ``word`` names, with its options, all of them checked.

    What is wrong is a UsageError, which names no option of the command line: that is its caller's.
    """
    name, _, given = word.partition(":")
    name = name.strip()
    options = {}
    for part in filter(None, _BETWEEN_OPTIONS.split(given)):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"'{part}' is no option; write {name}:option=value,option=value")
        options[key.strip().replace("-", "_")] = value.strip()
    try:
        registry.build(name, options)
    except RecipeError as error:
        raise UsageError(*error.args) from None
    return Choice(name=name, options=options)


def words_in(text: str) -> list[str]:
    """Split several choices at the commas between them: ``html,csv:columns=short,head=no,md`` are three."""
    return [word.strip() for word in _BETWEEN_CHOICES.split(text) if word.strip()]
