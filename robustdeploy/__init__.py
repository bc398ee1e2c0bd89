"""robustdeploy: prune a network while training it to be robust, deploy it, attack and time what runs there."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_net": "nets.store",
    "load_recipe": "core.load",
    "load_report": "report.load",
    "load_target": "core.load",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public function when it is first asked for; this file also runs on boards, which lack the rest."""
    if name not in _HOMES:
        raise AttributeError(f"module 'robustdeploy' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustdeploy.{_HOMES[name]}"), name)
