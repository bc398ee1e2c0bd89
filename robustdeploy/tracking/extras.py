"""Extras: whether the packages that a tracker needs are installed, seen without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from robustdeploy.onboard.types import Probe


def probe_extra(extra: str, packages: Sequence[str]) -> Probe:
    """Say whether ``packages`` are there, or how to install ``extra`` of robustdeploy, which has them."""
    missing = [package for package in packages if not _is_installed(package)]
    if missing:
        lacking = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        return Probe(usable=False, fix=f"{lacking}: pip install 'robustdeploy[{extra}]'")
    return Probe(usable=True)


def _is_installed(package: str) -> bool:
    # find_spec only looks for files: to import mlflow takes seconds that a misspelt command should not cost.
    found = find_spec(package)
    return found is not None and found.origin is not None  # a mere folder of that name has none
