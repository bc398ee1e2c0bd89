"""Foreign words made safe to show: names, keys, paths and answers that others wrote, without what steers a terminal.

Escape sequences, control characters and the marks that turn the order of letters around are written out as ``\\x1b``.
"""

from __future__ import annotations

import json
import re
from typing import Any

_JOINERS = "\u200c\u200d"
"""Needed to spell Persian and many signs; they hide nothing."""


def _steers(character: str) -> bool:
    return not character.isprintable() and character not in _JOINERS and character != " "


def one_line(text: object) -> str:
    """Return ``text`` on one line, every character that does not show itself written out."""
    return "".join(_written(c) if _steers(c) else c for c in str(text))


def shown_name(name: str) -> str:
    """Return ``name`` if all of it shows; a name with other characters is a ValueError."""
    if one_line(name) != name:
        raise ValueError(f"the name {one_line(name)} has characters that do not show")
    return name


def printable(text: str) -> str:
    """Return lines of ours, which may hold foreign words, safe to print; the ends of lines stay."""
    return "\n".join(map(one_line, text.split("\n")))


def json_text(document: Any, **options: Any) -> str:
    """Return ``document`` as JSON in which no character steers a terminal; it reads back as the same values."""
    text = json.dumps(document, ensure_ascii=False, **options)
    return re.sub(r"[^\n -~]", lambda found: _escaped(found[0]) if _steers(found[0]) else found[0], text)


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
