"""Row file: ``row.json``, how a row's net was made and what was measured of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustdeploy.errors import ArtifactError

ROW_FILE = "row.json"


def read_row(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's row file, None where there is none; a broken one is an ArtifactError."""
    path = folder / ROW_FILE
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is no JSON ({error}); train and measure its row again") from error
    return found
