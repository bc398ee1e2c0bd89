"""Together: what is told of several subjects in the same words stands on the page once, with all of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from robustdeploy.core.gate import Verdict
from robustdeploy.report.steps import Step

_NAMED = 3
"""Subjects that are always told by their names."""
FEW = 4
"""Warnings that stand in the verdict one by one; more are folded, so that the key figures stay in sight."""


def together(lines: Iterable[str], subjects: Sequence[str]) -> tuple[str, ...]:
    """Merge lines ``SUBJECT: words`` that have the same words, in the order of the first of each."""
    found: dict[tuple[bool, str], list[str]] = {}
    for line in lines:
        subject, colon, words = line.partition(": ")
        named = bool(colon) and subject in subjects
        found.setdefault((named, words if named else line), []).append(subject)
    return tuple(f"{_named(names, subjects)}: {words}" if named else words for (named, words), names in found.items())


def _named(names: Sequence[str], subjects: Sequence[str]) -> str:
    """Name subjects; all of them, where they are many, by their number."""
    everyone = len(subjects) > _NAMED and set(names) == set(subjects)
    return f"all {len(subjects)} subjects on targets" if everyone else ", ".join(names)


def verdict_lines(verdict: Verdict, subjects: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return what a verdict says of its subjects: outcomes, how far they are believed, and what was not checked.

    Each line is a tone, which the page draws, or a word that names it, and a text.
    """
    outcomes: dict[str, list[str]] = {}
    believed: dict[str, list[str]] = {}
    for each in verdict.subjects:
        outcomes.setdefault(each.outcome.value, []).append(each.subject)
    for one in verdict.robustness:
        believed.setdefault(one.credibility.value, []).append(one.text)
    return {
        "outcomes": [(outcome, _named(names, subjects)) for outcome, names in outcomes.items()],
        "believed": [(word, text) for word, texts in believed.items() for text in together(texts, subjects)],
        "unchecked": [("unchecked", text) for text in together(verdict.unchecked, subjects)],
    }


def steps_of(chains: Mapping[str, Sequence[Step]]) -> tuple[Step, ...]:
    """Return the steps of several chains, each step once: they share those in torch."""
    return tuple({(step.subject, step.name): step for steps in chains.values() for step in steps}.values())
