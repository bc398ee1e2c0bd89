"""Ensembles: what stands for several attacks in a recipe, each on the images that those before it left standing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import REGISTRIES, Registry


class Ensemble(Protocol):
    """A plug-in that names attacks and runs none itself."""

    @property
    def label(self) -> str:
        """Name of the row for all parts together, e.g. ``autoattack``."""
        ...

    @property
    def parts(self) -> Sequence[Choice]:
        """Gradient and query attacks by name, in their order."""
        ...


@dataclass(frozen=True)
class Whole:
    """An ensemble as it was asked for."""

    name: str
    label: str
    options: Mapping[str, Any]

    def part(self, label: str) -> str:
        """Return the name of a part's rows, e.g. ``autoattack-apgd-100``."""
        return f"{self.name}-{label}"


def listed(
    choices: Sequence[Choice], registries: Mapping[str, Registry[Any]] = REGISTRIES
) -> Iterator[tuple[Choice, Whole | None]]:
    """Yield the attacks of a recipe, each ensemble as its parts with what these are parts of."""
    ensembles: Registry[Ensemble] = registries["ensembles"]
    for choice in choices:
        if choice.name not in ensembles:
            yield choice, None
            continue
        built: Ensemble = ensembles.build(choice.name, choice.options)
        whole = Whole(choice.name, built.label, vars(built))
        yield from ((part, whole) for part in built.parts)
