"""Chosen: the trackers that words such as ``mlflow:experiment=cars`` name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from robustdeploy.core.registry import TRACKERS
from robustdeploy.errors import RecipeError, ToolchainError, UsageError
from robustdeploy.tracking.protocol import Tracker
from robustdeploy.tracking.trackers import Trackers

# A comma inside a value, as addresses may have one, is followed by no further option.
_BETWEEN = re.compile(r",(?=[A-Za-z][\w-]*=)")


def listening(words: Iterable[str] | None, quiet: bool) -> Trackers:
    """Return the terminal and the trackers that ``--track`` names, as `chosen` reads it."""
    return Trackers(chosen(words or ()), quiet=quiet)


def chosen(words: Iterable[str]) -> list[Tracker]:
    """Return the trackers of ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``, ready to be opened.

    An unknown name or option is a UsageError; a package that one of them lacks is a ToolchainError.
    """
    # Named twice, a tracker would tell everything twice.
    return [_chosen(word) for word in dict.fromkeys(words)]


def _chosen(word: str) -> Tracker:
    name, _, given = word.partition(":")
    name = name.strip()
    if name not in TRACKERS:
        raise UsageError(f"--track {word}: {TRACKERS.unknown(name)}")
    options = {}
    for part in filter(None, _BETWEEN.split(given)):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--track {word}: '{part}' is no option; write {name}:option=value,option=value")
        options[key.strip().replace("-", "_")] = value.strip()
    try:
        made: Tracker = TRACKERS.build(name, options)
    except RecipeError as error:
        raise UsageError(*(f"--track {word}: {line}" for line in error.args)) from None
    # Before any work: a tracker that was asked for must not turn out to be missing after hours.
    if not (found := made.probe()).usable:
        raise ToolchainError(f"the tracker {name} cannot work here: {found.fix}")
    return made
