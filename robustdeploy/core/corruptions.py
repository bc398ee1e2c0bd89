"""Corruptions of a recipe: each by its name with its severities, ``all`` as the ones that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import REGISTRIES, Registry
from robustdeploy.errors import UsageError


@dataclass(frozen=True)
class CorruptionAsked:
    """One corruption, built."""

    name: str
    corruption: Any
    """See ``robustdeploy.data.corruptions.protocol``."""

    @property
    def severities(self) -> tuple[int, ...]:
        """Those that are measured, from the mildest on."""
        return tuple(sorted(self.corruption.severities))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its rows, one for each severity: ``fog-3``."""
        return tuple(f"{self.name}-{severity}" for severity in self.severities)


def corruption_passes(choices: Sequence[Choice]) -> int:
    """Return how often each test image is scored under the corruptions of a recipe, by one net in one place."""
    return sum(len(each.severities) for each in listed_corruptions(choices))


def severity_label(severity: int) -> str:
    """Return the name of the rows that are over all corruptions at one severity."""
    return f"severity-{severity}"


def listed_corruptions(
    choices: Sequence[Choice], registries: Mapping[str, Registry[Any]] = REGISTRIES
) -> tuple[CorruptionAsked, ...]:
    """Build the corruptions of a recipe in its order; one that stands there twice, or at no severity, is refused."""
    registry = registries["corruptions"]
    asked: list[CorruptionAsked] = []
    for choice in choices:
        built = registry.build(choice.name, choice.options)
        parts = getattr(built, "PARTS", None)
        its = {choice.name: built} if parts is None else {p: registry.build(p, choice.options) for p in parts}
        asked += [CorruptionAsked(name, corruption) for name, corruption in its.items()]
    names = [each.name for each in asked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"evaluate.corruptions holds '{twice[0]}' twice; keep one, with all its severities")
    for each in asked:
        if not each.severities or len(set(each.severities)) < len(each.severities):
            raise UsageError(
                f"evaluate.corruptions: the severities of '{each.name}' are {list(each.severities)}; give at least one "
                "of 1 to 5, and none twice"
            )
    return tuple(asked)
