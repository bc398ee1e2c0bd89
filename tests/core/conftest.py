"""Plug-ins of the tests' own, so that what is checked here does not depend on the shipped ones."""

import sys
import textwrap

import pytest

from robustdeploy.core.registry import Registry

PLUGIN = '''
    """{summary}"""

    from dataclasses import dataclass
    from typing import Literal


    @dataclass(frozen=True)
    class Thing:
        """A thing."""

        alpha: float = 0.5
        """Step, in pixels."""
        steps: int = 10
        queries: int = 100
        restarts: int = 1
        loss: str = "cross-entropy"
        pair: tuple[float, float] = (0.0, 1.0)
        mode: Literal["fast", "slow"] = "fast"
        weights: bool = False

        label = "thing"
        parts = ()

        def __post_init__(self):
            if self.steps < 1:
                raise ValueError(f"steps must be at least 1, not {{self.steps}}")

        def __call__(self):
            return self.alpha


    plugin = Thing
'''
KINDS = {
    "nets": ["resnet8"],
    "preprocess": ["resize", "colour_order"],
    "data": ["digits", "fashion_mnist"],
    "attacks": ["fgsm", "pgd"],
    "query-attacks": ["square"],
    "substitutes": ["substitute"],
    "engine-attacks": ["straight_through"],
    "ensembles": ["autoattack"],
    "distances": ["deepfool", "cw"],
    "patches": ["patch"],
    "corruptions": ["fog", "jpeg"],
    "backends": ["onnxruntime", "null"],
    "pruners": ["masks"],
    "tasks": ["fastat", "pgd_at"],
    "schedules": ["one_cycle"],
    "links": ["local", "ssh"],
    "precisions": ["fp32", "int8"],
    "formats": ["html", "plain_text"],
    "trackers": ["silent", "my_board"],
}


@pytest.fixture(scope="session")
def plugin_package(tmp_path_factory):
    """A package with one folder of plug-ins per kind, importable for this session."""
    root = tmp_path_factory.mktemp("plugins")
    package = root / "testplugins"
    for kind, names in KINDS.items():
        folder = package / kind.replace("-", "_")
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "no_plugin.py").write_text("raise RuntimeError('never imported')\n")
        for name in names:
            (folder / f"{name}.py").write_text(textwrap.dedent(PLUGIN).format(summary=f"The {name} plug-in."))
    sys.path.insert(0, str(root))
    yield package
    sys.path.remove(str(root))


@pytest.fixture
def registries(plugin_package):
    def registry(kind):
        fallback = (lambda name: ":" in name) if kind == "nets" else None
        return Registry(
            kind.removesuffix("s"), f"testplugins.{kind.replace('-', '_')}", f"testplugins.{kind}", fallback
        )

    return {kind: registry(kind) for kind in KINDS}


@pytest.fixture
def write(tmp_path):
    """Write a YAML file and return its path."""

    def _write(text, name="x.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return _write
