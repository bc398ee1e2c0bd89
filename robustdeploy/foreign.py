"""Foreign words made safe to show: names, keys, paths and answers that others wrote, without what steers a terminal.

Escape sequences, control characters, characters that take no place and the marks that turn the order of letters around
are written out as ``\\x1b``. This file also runs on boards (Python 3.10).
"""

from __future__ import annotations

import json
import re
from typing import Any

_HIDDEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""Characters that Python calls printable and that no font shows."""
_FOLLOWERS = frozenset("\u200c\u200d" + "".join(map(chr, range(0xFE00, 0xFE10))))
"""Joiners and variation selectors: Persian, many Indian scripts and pictures need them, behind a letter of theirs."""
_SPACES = "\u00a0\u202f"
"""Before units and French marks; they show as the space that they are."""
_FIRST_SCRIPT_WITH_JOINERS = "\u0590"
_PLAIN = re.compile(r"[ -~]*")


def one_line(text: object) -> str:
    """Return ``text`` on one line, every character that does not show itself written out."""
    whole = str(text)
    if _PLAIN.fullmatch(whole):
        return whole
    return "".join(c if _shows(c, before) else _written(c) for c, before in _with_before(whole))


def sentence(text: object) -> str:
    """Return ``text`` on one line, as `one_line` does, with a space where a line ended."""
    first, *others = str(text).splitlines() or [""]
    parts = [first.rstrip() if others else first, *(part for line in others if (part := line.strip()))]
    return one_line(" ".join(parts))


def shown_name(name: str) -> str:
    """Return ``name`` if all of it shows; a name with other characters is a ValueError."""
    if one_line(name) != name:
        raise ValueError(f"the name {one_line(name)} has characters that do not show")
    return name


def printable(text: str) -> str:
    """Return lines of ours, which may hold foreign words, safe to print; the ends of lines stay."""
    return "\n".join(map(one_line, text.split("\n")))


def json_text(document: Any, *, ascii_only: bool = False, **options: Any) -> str:
    """Return ``document`` as JSON in which no character steers a terminal; it reads back as the same values."""
    text = json.dumps(document, ensure_ascii=ascii_only, **options)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c == "\n" or _shows(c, before) else _escaped(c) for c, before in _with_before(text))


def _with_before(text: str) -> zip[tuple[str, str]]:
    return zip(text, " " + text, strict=False)


def _shows(character: str, before: str) -> bool:
    if character in _FOLLOWERS:
        return before >= _FIRST_SCRIPT_WITH_JOINERS and before not in _FOLLOWERS and before.isprintable()
    return character in _SPACES or (character.isprintable() and character not in _HIDDEN)


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
