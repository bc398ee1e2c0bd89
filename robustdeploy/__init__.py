"""robustdeploy: prune a network while training it to be robust, deploy it, attack and time what runs there."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("robustdeploy")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "load_net": "nets.store",
    "load_recipe": "core.load",
    "load_report": "report.load",
    "load_target": "core.load",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public function when it is first asked for: most of them bring torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'robustdeploy' has no attribute {name!r}")
    return getattr(importlib.import_module(f"robustdeploy.{_HOMES[name]}"), name)
