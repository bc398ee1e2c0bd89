"""A toolchain as it is installed on a board: its version, what its engines are tied to, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from robustdeploy.core.files import canonical_json
from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.target import Target
from robustdeploy.core.traits import Traits, traits_of
from robustdeploy.devices.answers import impossible
from robustdeploy.devices.board import Board
from robustdeploy.devices.releases import check_opset, jetpack_advice
from robustdeploy.errors import BoardError, ToolchainError


@dataclass(frozen=True)
class Installed:
    """A toolchain that works on a board, in a version that the target supports."""

    name: str
    version: str
    details: Mapping[str, Any]
    identity: Mapping[str, str]
    """What its engines are tied to there, by name; nothing in it changes from boot to boot."""
    traits: Traits
    where: str


def installed_on(board: Board, target: Target) -> Installed:
    """Ask ``board`` for the target's toolchain.

    Raises ToolchainError where it does not work there or is of a version that the target does not support, and
    BoardError where the probe does not tell what the backend's engines are tied to.
    """
    name, where = target.backend.name, board.pipe.where
    probe = board.probe(name, target.backend.options)
    if not probe.usable:
        raise ToolchainError(f"{where}: {name} is not usable: {probe.fix}{_jetpack(board, target)}")
    try:
        check_version(name, probe.version, target.backend.version, where)
    except ToolchainError as error:
        raise ToolchainError(f"{error}{_jetpack(board, target)}") from None
    # Asked before anything is sent or built: some toolchains read a newer file in part, and fail in its middle.
    check_opset(name, probe.version, target.opset, where)
    traits = traits_of(BACKENDS.get(name))
    return Installed(name, probe.version, probe.details, _identity(board, traits, probe.details), traits, where)


def _jetpack(board: Board, target: Target) -> str:
    """Return what mends it on a Jetson, as the end of a sentence; its toolchain comes with the system alone."""
    advice = jetpack_advice(target.backend.name, target.backend.version, str(board.facts.get("l4t", "")))
    return f"; {advice}" if advice else ""


def _identity(board: Board, traits: Traits, details: Mapping[str, Any]) -> dict[str, str]:
    told: dict[str, Any] = {**details, **board.identity()}
    if missing := next((name for name in traits.tied_to if name not in told), None):
        raise BoardError(f"{board.pipe.where}: {impossible('probe', f'details.{missing}', 'is required and missing')}")
    return {
        # An identity is compared as text, and canonical JSON gives equal values equal text.
        name: value if isinstance(value := told[name], str) else canonical_json(value)
        for name in sorted(traits.tied_to)
    }


def check_version(name: str, version: str, bounds: str, where: str) -> None:
    """Raise ToolchainError when ``version`` is outside the target's bounds."""
    try:
        # Older versions of packaging count a pre-release as outside of all bounds unless they are told otherwise.
        inside = not bounds or SpecifierSet(bounds).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion) as problem:
        raise ToolchainError(f"{where}: {name} {version} cannot be compared with '{bounds}': {problem}") from problem
    if not inside:
        raise ToolchainError(
            f"{where}: {name} {version} was found, but the target supports {bounds}; install one of those, "
            "or widen backend.version in the target file"
        )
