"""What brings torch or scipy, imported when a command first calls it.

A command calls it after everything that can be refused without them has been: a mistake is told in two seconds, and
torch alone takes longer to load. Every other module is imported at the top of the one that uses it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _Later:
    """A module that is imported when something in it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


__all__ = [
    "against",
    "api",
    "bisecting",
    "evidence",
    "pages",
    "pairings",
    "preparation",
    "profiling",
    "rehearsal",
    "reporting",
    "setup",
    "sizes",
]

if TYPE_CHECKING:
    from robustdeploy import api
    from robustdeploy.evaluate import bisect as bisecting
    from robustdeploy.evaluate import evidence, sizes
    from robustdeploy.export import rehearsal
    from robustdeploy.report import against
    from robustdeploy.report import compare_page as pages
    from robustdeploy.report import pairing as pairings
    from robustdeploy.stages import preparation
    from robustdeploy.stages import profile as profiling
    from robustdeploy.stages import report as reporting
    from robustdeploy.train import setup
else:
    against = _Later("robustdeploy.report.against")
    api = _Later("robustdeploy.api")
    bisecting = _Later("robustdeploy.evaluate.bisect")
    evidence = _Later("robustdeploy.evaluate.evidence")
    pages = _Later("robustdeploy.report.compare_page")
    pairings = _Later("robustdeploy.report.pairing")
    preparation = _Later("robustdeploy.stages.preparation")
    profiling = _Later("robustdeploy.stages.profile")
    rehearsal = _Later("robustdeploy.export.rehearsal")
    setup = _Later("robustdeploy.train.setup")
    sizes = _Later("robustdeploy.evaluate.sizes")
    # Without torch, unlike the same verb of the api.
    reporting = _Later("robustdeploy.stages.report")
