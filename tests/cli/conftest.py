import hashlib
import json
import os
from collections import Counter

import pytest

from robustdeploy.core.files import sha256_of_file
from robustdeploy.engine.ledger import Ledger


def tree(folder):
    """Every file below a folder with its content, to see that nothing was written."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(command):
    """Call a command that must fail cleanly: its exit code, a sentence on stderr, an empty stdout, nothing written."""

    def call(folder, *words, code=2, writes=False):
        before = tree(folder)
        done = command(folder, *words)
        assert done.code == code, (done.code, done.out, done.err)
        assert done.out == ""
        last = done.err.strip().splitlines()
        errors = [line for line in last if line.startswith("error: ")]
        assert len(errors) == 1, done.err
        assert "Traceback" not in done.err
        if not writes:
            assert tree(folder) == before
        as_json = command(folder, *words, "--json")
        assert as_json.code == code
        assert set(as_json.document) == {"error"}
        return done.err[done.err.index("error: ") :].strip()

    return call


@pytest.fixture
def reseal():
    """Play someone who edits files, their manifest and the ledger so that all hashes agree again."""

    def call(run, place, changed, inputs=None, **more):
        path = run / place / "manifest.json"
        manifest = json.loads(path.read_text())
        for name, content in changed.items():
            (run / place / name).write_bytes(content)
            manifest["outputs"][name] = hashlib.sha256(content).hexdigest()
        manifest["inputs"] |= {name: hashlib.sha256(content).hexdigest() for name, content in (inputs or {}).items()}
        for part, values in more.items():
            manifest[part] |= values
        path.write_text(json.dumps(manifest))
        Ledger(run / "ledger.jsonl").append("sealed", stage="export", folder=place, manifest=sha256_of_file(path))

    return call


@pytest.fixture
def listed(monkeypatch):
    """How often each folder was listed."""
    found = Counter()
    scandir = os.scandir

    def spy(path="."):
        found[str(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    return found
