"""Render a report in the formats that were asked for, each a file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from robustdeploy.core.files import atomic_write_text
from robustdeploy.core.registry import FORMATS
from robustdeploy.core.report import Report
from robustdeploy.errors import UsageError


class Format(Protocol):
    """A way to write a report down. It reads the report and nothing else."""

    @property
    def filename(self) -> str:
        """Name of the file inside the run folder, e.g. ``report.html``."""
        ...

    def __call__(self, report: Report) -> str:
        """Return the file's whole text."""
        ...


def render(report: Report, formats: Sequence[str], folder: Path, suffix: str = "") -> list[Path]:
    """Write ``report`` into ``folder`` in every format named, and return the paths in that order.

    ``suffix`` goes between the name and the ending of each file.

    A rendering that lies there already is written too, lest it tell of an older report. All are made before the first
    is written. An unknown format is a RecipeError, and nothing is written.
    """
    texts: dict[Path, str] = {}
    for name in dict.fromkeys((*formats, *FORMATS.names())):
        made: Format = FORMATS.build(name, {})
        plain = Path(made.filename)
        path = folder / f"{plain.stem}{suffix}{plain.suffix}"
        if name not in formats and not path.is_file():
            continue
        if Path(made.filename).name != made.filename:
            raise UsageError(f"the report format '{name}' would write '{made.filename}', which is no plain file name")
        # Before any is written: a format that fails must not leave new and old renderings side by side.
        texts[path] = made(report)
    for path, text in texts.items():
        atomic_write_text(path, text)
    return list(texts)
