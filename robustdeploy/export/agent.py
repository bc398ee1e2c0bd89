"""The agent as one file: the package that runs on boards, zipped so that equal sources give equal bytes."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import robustdeploy
from robustdeploy.core.archive import unpacked
from robustdeploy.core.files import atomic_write_bytes, temporary_folder
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.registry import BACKENDS, QUERY_ATTACKS, Registry
from robustdeploy.errors import ArtifactError, UsageError

_MOST_BYTES = 16 * 2**20
_ABOUT = "robustdeploy/__init__.py"
_BESIDE = ("__init__.py", "errors.py", "foreign.py")
_VERSION = re.compile(rb"^__version__ = \"([0-9A-Za-z.+]{1,40})\"$", re.MULTILINE)
# Only files of this shape may differ between two agents of one version; everything else in them is ours.
_PLUG_IN = re.compile(r"robustdeploy/onboard/(attacks|backends)/[^\W\d]\w*\.py")
# The earliest time that a zip archive can hold. A real one would change the agent's hash with every build.
_EPOCH = (1980, 1, 1, 0, 0, 0)
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


@contextmanager
def own_agent(stored: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Give the agent that is built here, of the installed package, and ``say`` how ``stored`` differs from it.

    What a file holds is never started. One of another version or with other plug-ins is told so; one that says it is
    of this version and has other code was changed, which is an ArtifactError.
    """
    with temporary_folder() as folder:
        path = folder / "agent.pyz"
        build_agent(path, foreign_plugins())
        if note := agent_note(stored, path):
            say(f"note: {note}")
        yield path


def agents_in(run: Path) -> tuple[list[str], list[str]]:
    """Compare every agent of a run with the installed package: what was changed, and what is of another version."""
    problems: list[str] = []
    notes: list[str] = []
    for stored in sorted(run.glob("bundles/*/*/agent.pyz")):
        try:
            with own_agent(stored, notes.append):
                pass
        except ArtifactError as problem:
            problems.append(str(problem))
    return problems, notes


def agent_note(stored: Path, own: Path) -> str:
    """Say how the agent in ``stored`` differs from ``own`` by version or plug-ins; nothing where it does not.

    One that was changed otherwise is an ArtifactError.
    """
    content, here = read_bounded(stored, _MOST_BYTES), own.read_bytes()
    if content == here:
        return ""
    theirs, ours = unpacked(content, str(stored), _MOST_BYTES), unpacked(here, str(own), _MOST_BYTES)
    sent = f"what is sent is the agent of robustdeploy {robustdeploy.__version__}, which is installed here"
    found = _VERSION.search(theirs.get(_ABOUT, b""))
    # Told before the code is compared, since of two versions nearly every file differs.
    if found and (version := found[1].decode("ascii")) != robustdeploy.__version__:
        return f"{stored} is of robustdeploy {version}; {sent}"
    differing = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    own_names = {name for name, _ in _own_files()}
    # An agent runs with the user's rights on the board, so nothing in a run that somebody sent is ever started.
    if changed := [name for name in differing if name in own_names or not _PLUG_IN.fullmatch(name)]:
        raise ArtifactError(
            f"{stored} is not the agent of robustdeploy {robustdeploy.__version__}, which it says it is: {changed[0]} "
            "differs from the installed one. It was changed after it was made, or this installation was; it was not "
            "started, and `robustdeploy export --force` makes it again"
        )
    plug_ins = ", ".join(name.removeprefix("robustdeploy/onboard/") for name in differing)
    return f"{stored} was made with other plug-ins ({plug_ins or 'in another order'}); {sent}"


def _own_files() -> Iterator[tuple[str, bytes]]:
    package = Path(robustdeploy.__file__).parent
    yield "__main__.py", _MAIN.encode()
    for file in (*(package / name for name in _BESIDE), *(package / "onboard").rglob("*.py")):
        yield f"robustdeploy/{file.relative_to(package).as_posix()}", file.read_bytes()


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without this machine's clock, system or permissions, which would make equal agents differ."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    # zipfile enters the system that it runs on: Windows and Linux would make different bytes.
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    return entry
