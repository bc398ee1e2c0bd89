"""Print a command's result: words, or one JSON document."""

from __future__ import annotations

import json
import sys
from typing import Any


def show(text: str, document: Any, as_json: bool) -> None:
    """Print ``text``, or ``document`` when JSON was asked for, on stdout."""
    if as_json:
        json.dump(document, sys.stdout, indent=2, default=str, ensure_ascii=False, allow_nan=False)
        sys.stdout.write("\n")
    elif text:
        print(text)


def verdict_text(verdict: Any) -> str:
    """Return a verdict as lines: the outcome, what made the evaluation unsound, and each rule."""
    lines = [str(verdict.outcome)]
    lines += [f"  unsound: {reason}" for reason in verdict.reasons]
    lines += [f"  {rule.outcome.value:<12} {rule.rule}: {rule.text}" for rule in verdict.rules]
    return "\n".join(lines)


def verdict_document(verdict: Any) -> dict[str, Any]:
    """Return a verdict as JSON values."""
    document: dict[str, Any] = verdict.model_dump(mode="json")
    return document
