"""Chosen: the trackers that words such as ``mlflow:experiment=cars`` name."""

from __future__ import annotations

from collections.abc import Iterable

from robustdeploy.core.choices import choice_from
from robustdeploy.core.registry import TRACKERS
from robustdeploy.errors import ToolchainError, UsageError
from robustdeploy.tracking.protocol import Tracker
from robustdeploy.tracking.trackers import Trackers


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
    try:
        choice = choice_from(word, TRACKERS)
    except UsageError as error:
        raise UsageError(*(f"--track {word}: {line}" for line in error.args)) from None
    made: Tracker = TRACKERS.build(choice.name, choice.options)
    # Before any work: a tracker that was asked for must not turn out to be missing after hours.
    if not (found := made.probe()).usable:
        raise ToolchainError(f"the tracker {choice.name} cannot work here: {found.fix}")
    return made
