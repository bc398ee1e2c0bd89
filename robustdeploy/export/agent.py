"""The agent as one file: the package that runs on boards, zipped so that equal sources give equal bytes."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import robustdeploy
from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.registry import BACKENDS, QUERY_ATTACKS, Registry
from robustdeploy.core.release import RELEASE
from robustdeploy.errors import UsageError

_BESIDE = ("errors.py", "foreign.py")
# The earliest time that a zip archive can hold. A real one would change the agent's hash with every build.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PACKAGE = f'''"""What of robustdeploy runs on boards."""

__version__ = "{RELEASE}"
'''
_MAIN = '''"""Start the agent."""
import sys

if sys.version_info < (3, 10):
    sys.exit("robustdeploy agent: it needs Python 3.10 or later, this is %d.%d" % sys.version_info[:2])

from robustdeploy.onboard.__main__ import main

sys.exit(main())
'''


def foreign_plugins() -> dict[str, Path]:
    """Return the query attacks and backends of other packages, as `build_agent` takes them: they run on the board."""
    kinds: Mapping[str, Registry[Any]] = {"attacks": QUERY_ATTACKS, "backends": BACKENDS}
    return {
        f"{folder}/{name.replace('-', '_')}": file
        for folder, registry in kinds.items()
        for name, file in registry.foreign().items()
    }


def build_agent(path: Path, extra: Mapping[str, Path] | None = None) -> str:
    """Write the agent to ``path`` and return its SHA-256.

    ``extra`` adds plug-ins of other packages, e.g. ``{"attacks/mine": file}`` or ``{"backends/mine": file}``; each must
    be one file that needs nothing but numpy and its toolchain.
    """
    entries = dict(_own_files())
    for place, file in (extra or {}).items():
        folder, _, module = place.partition("/")
        name = f"robustdeploy/onboard/{place}.py"
        if folder not in ("attacks", "backends") or not module.isidentifier() or name in entries:
            raise UsageError(f"{place!r} cannot join the agent; it must be a new 'attacks/NAME' or 'backends/NAME'")
        entries[name] = file.read_bytes()
        # The board finds plug-ins by this line in their source, so one without it would travel and never be found.
        if not re.search(rb"^plugin\b[^=\n]*=(?!=)", entries[name], re.MULTILINE):
            raise UsageError(f"{file} cannot join the agent: a plug-in that runs on boards ends with 'plugin = …'")
    buffer = io.BytesIO()
    # Not compressed: two versions of zlib pack the same sources into different bytes.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            archive.writestr(_entry(name), entries[name])
    content = buffer.getvalue()
    atomic_write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def _own_files() -> Iterator[tuple[str, bytes]]:
    package = Path(robustdeploy.__file__).parent
    yield "__main__.py", _MAIN.encode()
    yield "robustdeploy/__init__.py", _PACKAGE.encode()
    for file in (*(package / name for name in _BESIDE), *(package / "onboard").rglob("*.py")):
        yield f"robustdeploy/{file.relative_to(package).as_posix()}", file.read_bytes()


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without this machine's clock, system or permissions, which would make equal agents differ."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    # zipfile enters the system that it runs on: Windows and Linux would make different bytes.
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    return entry
