"""Settings of an evaluation: the recipe's own, or others, whose results stand beside these under a label."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from robustdeploy.core.files import canonical_json, sha256_of_text
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Evaluate
from robustdeploy.core.report import Override

_MARK = "@"
_LATER: Mapping[str, Any] = {"threat": None, "distances": [], "vulnerability": False, "patches": [], "corruptions": []}
"""What came later, with the value that changes nothing."""


def evaluation_content(evaluate: Evaluate) -> dict[str, Any]:
    """Return what of a recipe decides an evaluation's numbers."""
    content: dict[str, Any] = plain(evaluate)
    # Left out where it changes nothing, so that older evaluations keep their fingerprint and their mark.
    return {name: value for name, value in content.items() if name not in _LATER or value != _LATER[name]}


def label_of(own: Evaluate, used: Evaluate) -> str:
    """Return what marks results of other settings than the recipe's own, e.g. ``3fa9c2d1``; nothing marks those."""
    text = canonical_json(evaluation_content(used))
    # Eight digits suffice, as a run has a handful of evaluations.
    return "" if text == canonical_json(evaluation_content(own)) else sha256_of_text(text)[:8]


def evaluation_name(target: str, label: str) -> str:
    """Return the name of an evaluation: ``host-cpu``, or ``host-cpu@3fa9c2d1`` under other settings."""
    return f"{target}{_MARK}{label}" if label else target


def target_of(evaluation: str) -> str:
    """Return the target of an evaluation by its name; no target's name holds the mark."""
    return evaluation.partition(_MARK)[0]


def label_in(evaluation: str) -> str:
    """Return the mark of other settings in an evaluation's name; nothing in that of the recipe's own."""
    return evaluation.partition(_MARK)[2]


def is_own(evaluation: str) -> bool:
    """Whether an evaluation has the recipe's own settings, by its name."""
    return _MARK not in evaluation


def report_suffix(evaluations: Sequence[str], everything: Collection[str]) -> str:
    """Return what the names of a report's files end in: nothing where it tells of ``everything`` that is the recipe's.

    One that tells of less stands beside, lest it take the place of the other and pass where that does not.
    """
    whole = all(map(is_own, evaluations)) and set(everything) <= set(evaluations)
    return "" if whole else f"-{'+'.join(evaluations)}"


def evaluations_of(report: str) -> list[str]:
    """Return the evaluations that a report's file name says it is of; none for those of the report of all."""
    stem = report.removesuffix(".json").removeprefix("report").removeprefix("-")
    return stem.split("+") if stem else []


def differences(own: Mapping[str, Any], used: Mapping[str, Any], prefix: str = "") -> Iterator[Override]:
    """Name the fields of which both have a value and not the same; one that an older version lacks is no difference."""
    for key in (key for key in own if key in used):
        mine, theirs = own[key], used[key]
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            yield Override(field=f"{prefix}{key}", recipe=mine, used=theirs)


def overrides(own: Evaluate, used: Mapping[str, Any]) -> tuple[Override, ...]:
    """Return which of the recipe's settings an evaluation with the settings ``used`` did not have."""
    # What was left out had the value that changes nothing; settings that are not known are no difference.
    told = {**_LATER, **used} if used else used
    return tuple(differences({"evaluate": plain(own)}, {"evaluate": told}))


def as_options(changed: tuple[Override, ...]) -> str:
    """Write overrides as the options that ask for them again."""
    return "".join(f" --set '{each.field}={canonical_json(each.used)}'" for each in changed)
