"""A backend double that is installed as another package's would be, and boards that differ from this machine."""

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from robustdeploy.core.registry import BACKENDS
from robustdeploy.devices import toolchain
from robustdeploy.devices.local import Local
from robustdeploy.export.agent import build_agent


@pytest.fixture(scope="session")
def split_agent(tmp_path_factory):
    """The agent with the backend ``split`` beside its own."""
    path = tmp_path_factory.mktemp("split") / "agent.pyz"
    build_agent(path, {"backends/split": Path(__file__).with_name("split.py")})
    return path


@pytest.fixture
def split(monkeypatch):
    """Let the host know the backend ``split``, by an entry point as of an installed package."""
    entry = importlib.metadata.EntryPoint("split", "split:Split", BACKENDS.group)
    registry = replace(BACKENDS)
    registry.__dict__["_entries"] = {"split": entry}
    monkeypatch.setattr(toolchain, "BACKENDS", registry)
    return registry


@pytest.fixture
def another(tmp_path):
    """Links to boards that differ from this machine: in their environment, or in their architecture."""

    def link(*before, workdir="", **environment):
        path = tmp_path / f"python{len(list(tmp_path.iterdir()))}"
        exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        path.write_text(f'#!/bin/sh\n{exports}exec {" ".join(before)} "{sys.executable}" "$@"\n')
        path.chmod(0o755)
        return Local(python=str(path), workdir=str(workdir))

    return link


@pytest.fixture
def liar(tmp_path):
    """A link to an agent that tells one lie."""

    def link(name):
        path = tmp_path / "python"
        script = Path(__file__).with_name("lies.py")
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E "{script}" "{name}" "$@"\n')
        path.chmod(0o755)
        return Local(python=str(path))

    return link
