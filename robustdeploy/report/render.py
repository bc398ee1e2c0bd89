"""Render a report in the formats that were asked for, each a file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from robustdeploy.core.choices import choice_from
from robustdeploy.core.files import atomic_write_text
from robustdeploy.core.registry import FORMATS
from robustdeploy.core.report import Report
from robustdeploy.engine.ledger import LEDGER
from robustdeploy.engine.verify import RECIPE
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

    A format is named as ``csv`` or, with options, ``csv:head=no``. ``suffix`` goes between the name and the ending of
    each file.

    A rendering that lies there already under its usual name is written too, lest it tell of an older report. All are
    made before the first is written. An unknown format is a UsageError, and nothing is written.
    """
    asked = [choice_from(word, FORMATS) for word in dict.fromkeys(formats)]
    texts: dict[Path, str] = {}
    for choice in asked:
        made: Format = FORMATS.build(choice.name, choice.options)
        path = _path_of(made, choice.name, folder, suffix)
        if path in texts:
            raise UsageError(f"two formats would write {path.name}; give one of them another filename")
        # Before any is written: a format that fails must not leave new and old renderings side by side.
        texts[path] = made(report)
    for name in FORMATS.names():
        made = FORMATS.build(name, {})
        path = _path_of(made, name, folder, suffix)
        if path not in texts and path.is_file():
            texts[path] = made(report)
    for path, text in texts.items():
        atomic_write_text(path, text)
    return list(texts)


def _path_of(made: Format, name: str, folder: Path, suffix: str) -> Path:
    """Return where a rendering is written; one that would replace something else of the run is a UsageError."""
    plain = Path(made.filename)
    if plain.name != made.filename:
        raise UsageError(f"the report format '{name}' would write '{made.filename}', which is no plain file name")
    path = folder / f"{plain.stem}{suffix}{plain.suffix}"
    own = path.name in (RECIPE, LEDGER) or (path.name.startswith((".", "report")) and path.suffix in ("", ".json"))
    if own or path.is_dir():
        raise UsageError(f"the report format '{name}' would write '{path.name}', which the run has for itself")
    return path
