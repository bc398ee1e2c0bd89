"""The subject: what a number is about, ``net/precision@place``, and the patterns that select subjects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import AfterValidator

TORCH: Final = "torch"
"""The place of the reference: torch, on the host."""
DENSE, PRUNED, IMPORTED = "dense", "pruned", "imported"
"""Nets of a run: the one that nothing was removed from, the one under the budget, and one that others trained."""
FP32: Final = "fp32"
"""The precision that every net is exported in."""
# No dot in net or precision: places in a run use it for other things, and `/` and `@` keep the parts apart.
_FORM = re.compile(r"([a-z0-9*?][a-z0-9*?_-]*)/([a-z0-9*?][a-z0-9*?_-]*)@([a-z0-9*?][a-z0-9._*?-]*)")


@dataclass(frozen=True)
class Subject:
    """A net, in a precision, in a place: a target's name, or ``torch`` for the host's reference."""

    net: str
    precision: str
    place: str

    def __str__(self) -> str:
        return f"{self.net}/{self.precision}@{self.place}"

    @property
    def deployed(self) -> bool:
        """Whether it is what runs on a target, not the host's reference."""
        return self.place != TORCH

    @property
    def reference(self) -> Subject:
        """The same net in the same precision in torch, on the host; below full precision that is its twin."""
        return Subject(self.net, self.precision, TORCH)

    def of(self, net: str) -> Subject:
        """Return the subject of another net in the same precision and place."""
        return replace(self, net=net)


def subject_from(text: str) -> Subject:
    """Read ``net/precision@place``; anything else is a ValueError with one sentence."""
    found = _FORM.fullmatch(text)
    if found is None or set("*?") & set(text):
        raise ValueError(f"'{text}' is no subject; write net/precision@place, such as pruned/fp32@host-cpu")
    return Subject(*found.groups())


def _checked_subject(text: str) -> str:
    return str(subject_from(text))


def _checked_pattern(text: str) -> str:
    if _FORM.fullmatch(text) is None:
        raise ValueError(f"'{text}' selects no subject; write net/precision@place, each part with * for any of it")
    return text


SubjectName = Annotated[str, AfterValidator(_checked_subject)]
SubjectPattern = Annotated[str, AfterValidator(_checked_pattern)]


def selects(pattern: str | None, subject: str, net: str) -> bool:
    """Say whether a pattern selects a subject. None selects ``net``, the run's own, wherever it is deployed.

    ``*`` stands for any target, never for the reference: that is selected where its place is spelt ``torch``.
    """
    its = subject_from(subject)
    nets, precisions, places = parts_of(pattern, net)
    # fnmatchcase and not fnmatch, which ignores case on some systems.
    there = fnmatchcase(its.place, places) and (its.deployed or places == TORCH)
    return there and fnmatchcase(its.net, nets) and fnmatchcase(its.precision, precisions)


def parts_of(pattern: str | None, net: str = "*") -> tuple[str, str, str]:
    """Return the net, the precision and the place of a pattern; None is that of the run's own ``net``."""
    found = _FORM.fullmatch(pattern or f"{net}/*@*")
    if found is None:
        raise ValueError(f"'{pattern}' selects no subject")
    return found[1], found[2], found[3]


def overlap(one: str | None, other: str | None, net: str = PRUNED) -> bool:
    """Say whether two patterns may select the same subject."""
    sides = parts_of(one, net), parts_of(other, net)
    pairs = zip(*sides, strict=True)
    same_kind = (sides[0][2] == TORCH) == (sides[1][2] == TORCH)
    return same_kind and all(fnmatchcase(a, b) or fnmatchcase(b, a) for a, b in pairs)


def places_of(subjects: Iterable[str]) -> Sequence[str]:
    """Return the targets that subjects are deployed on, each once, in their order."""
    return list(dict.fromkeys(its.place for its in map(subject_from, subjects) if its.deployed))
