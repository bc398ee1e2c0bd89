"""Check that a toolchain found on a board is one that the target supports."""

from __future__ import annotations

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from robustdeploy.errors import ToolchainError


def check_version(name: str, version: str, bounds: str, where: str) -> None:
    """Raise ToolchainError when ``version`` is outside the target's bounds."""
    try:
        inside = not bounds or SpecifierSet(bounds).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as problem:
        raise ToolchainError(f"{where}: {name} {version} cannot be compared with '{bounds}': {problem}") from problem
    if not inside:
        raise ToolchainError(
            f"{where}: {name} {version} was found, but the target supports {bounds}; install one of those, "
            "or widen backend.version in the target file"
        )
