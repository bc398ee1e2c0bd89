"""Kinds of plug-ins: what each is called, and where its plug-ins are found. A new kind is one line here.

A field of a recipe or a target that chooses a plug-in says so in its annotation, ``Annotated[PlugIn, Of("attacks")]``.
Loading, JSON Schema, completion and ``ls`` follow from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in."""

    noun: str
    """What one of them is called in a sentence, e.g. ``attack``."""
    package: str
    """The package whose files are plug-ins."""
    group: str
    """The entry point group through which other packages add theirs."""
    heavy: bool = False
    """Its plug-ins load torch when they are imported, which takes seconds."""


KINDS: Mapping[str, Kind] = {
    "nets": Kind("net", "robustdeploy.nets", "robustdeploy.nets"),
    "preprocess": Kind("preprocessing step", "robustdeploy.nets.preprocess", "robustdeploy.preprocess", heavy=True),
    "data": Kind("data set", "robustdeploy.data", "robustdeploy.data"),
    "attacks": Kind("attack", "robustdeploy.attacks", "robustdeploy.attacks", heavy=True),
    "query-attacks": Kind("query attack", "robustdeploy.onboard.attacks", "robustdeploy.query-attacks"),
    "substitutes": Kind(
        "substitute attack", "robustdeploy.attacks.substitutes", "robustdeploy.substitutes", heavy=True
    ),
    "engine-attacks": Kind("engine attack", "robustdeploy.attacks.engine", "robustdeploy.engine-attacks", heavy=True),
    "ensembles": Kind("ensemble", "robustdeploy.evaluate.ensembles", "robustdeploy.ensembles"),
    "distances": Kind("distance", "robustdeploy.attacks.distance", "robustdeploy.distances", heavy=True),
    "patches": Kind("patch attack", "robustdeploy.attacks.patches", "robustdeploy.patches", heavy=True),
    "corruptions": Kind("corruption", "robustdeploy.data.corruptions", "robustdeploy.corruptions"),
    "backends": Kind("backend", "robustdeploy.onboard.backends", "robustdeploy.backends"),
    "pruners": Kind("pruner", "robustdeploy.prune", "robustdeploy.pruners", heavy=True),
    "tasks": Kind("training task", "robustdeploy.train.tasks", "robustdeploy.tasks", heavy=True),
    "schedules": Kind("schedule", "robustdeploy.train.schedules", "robustdeploy.schedules"),
    "links": Kind("link", "robustdeploy.devices", "robustdeploy.links"),
    "precisions": Kind("precision", "robustdeploy.export.precision", "robustdeploy.precisions", heavy=True),
    "formats": Kind("report format", "robustdeploy.report.formats", "robustdeploy.formats"),
    "trackers": Kind("tracker", "robustdeploy.tracking", "robustdeploy.trackers"),
}


@dataclass(frozen=True)
class Of:
    """In an annotation: the field chooses a plug-in of one of these kinds."""

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        object.__setattr__(self, "kinds", kinds)
