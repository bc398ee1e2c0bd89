"""Traits: what a backend declares of itself, true on whatever machine it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEVICE = ("machine", "cpu_model", "board_model")
"""What engines are tied to where their backend does not say: the device as a whole."""


@dataclass(frozen=True)
class Traits:
    """A backend's class attributes; `robustdeploy.onboard.types.Backend` says what each means."""

    tied_to: tuple[str, ...] = DEVICE
    builds_on_host: bool = False
    cross_compiles: bool = False
    stands_in: bool = False


def traits_of(backend: Any) -> Traits:
    """Return what the class ``backend`` declares; what it leaves out is the most careful answer."""
    cross_compiles = bool(getattr(backend, "CROSS_COMPILES", False))
    return Traits(
        tied_to=tuple(getattr(backend, "TIED_TO", DEVICE)),
        # What can be built for another machine can be built for an equal one.
        builds_on_host=cross_compiles or bool(getattr(backend, "BUILDS_ON_HOST", False)),
        cross_compiles=cross_compiles,
        stands_in=bool(getattr(backend, "STANDS_IN", False)),
    )
