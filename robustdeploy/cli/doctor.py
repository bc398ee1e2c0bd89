"""``robustdeploy doctor``: what is installed, what a target still needs, one fix per line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import typer

from robustdeploy.cli.options import JsonOption, OptionalTarget
from robustdeploy.cli.result import show
from robustdeploy.core.files import temporary_folder
from robustdeploy.core.load import load_target
from robustdeploy.core.registry import LINKS
from robustdeploy.devices.architecture import check_architecture
from robustdeploy.devices.board import board_from
from robustdeploy.devices.builder import check_builder
from robustdeploy.devices.toolchain import check_version
from robustdeploy.errors import EnvironmentFailure, ToolchainError
from robustdeploy.export.agent import build_agent, foreign_plugins


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    fix: str = ""


def doctor(target: OptionalTarget = None, as_json: JsonOption = False) -> None:
    """Say what this machine or a board lacks.

    With --target it looks at the board; nothing is changed. Exits with 4 if something is missing.
    """
    findings = list(_host() if target is None else _target(target))
    lines = []
    for finding in findings:
        lines.append(f"{'ok ' if finding.ok else 'NO '} {finding.what}: {finding.found}")
        lines += [f"      fix: {finding.fix}"] if finding.fix and not finding.ok else []
    show(lines, [asdict(finding) for finding in findings], as_json)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(4)


def _host() -> Iterator[Finding]:
    yield Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or later")
    for package in (
        "torch",
        "torchvision",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "scikit-learn",
        "scipy",
    ):
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, "not installed", f"uv pip install {package}")
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    yield Finding("training device", True, device)
    free = shutil.disk_usage(".").free / 2**30
    yield Finding("disk", free > 2, f"{free:.0f} GiB free here", "make room: a run needs up to 2 GiB")
    ssh = shutil.which("ssh")
    yield Finding(
        "ssh client", ssh is not None, ssh or "not found", "apt-get install openssh-client (boards over SSH need it)"
    )


def _target(name: str) -> Iterator[Finding]:
    target = load_target(name)
    yield Finding("target", True, f"{target.name}: {target.description} ({target.status})")
    link = LINKS.build(target.link.name, target.link.options)
    with temporary_folder() as folder:
        agent = folder / "agent.pyz"
        build_agent(agent, foreign_plugins())
        try:
            with board_from(link, agent) as board:
                facts = board.facts
                yield Finding(
                    "board",
                    True,
                    f"{board.pipe.where}: {facts['machine']}, {facts['cpu_model'] or facts['board_model']}",
                )
                yield _checked(
                    "architecture",
                    lambda: check_architecture(facts["machine"], target.arch, board.pipe.where),
                    "any will do" if target.arch == "any" else f"{target.arch}, as the target says",
                )
                yield Finding("Python there", True, f"{facts['python']} with numpy {facts['numpy']}")
                probe = board.probe(target.backend.name, target.backend.options)
                yield Finding(target.backend.name, probe.usable, probe.version or "not usable", probe.fix)
                if probe.usable:
                    yield _checked(
                        "version",
                        lambda: check_version(target.backend.name, probe.version, target.backend.version, "board"),
                        "within the target's bounds",
                    )
                if probe.usable and target.build_on == "host":
                    yield _checked(
                        "built on",
                        lambda: check_builder(board, target, agent),
                        f"this machine, whose {target.backend.name} builds for the board",
                    )
                sensors = board.sensors()
                readable = ("clocks_khz", "governors", "thermal", "load_1m")
                shown = {key: sensors[key] for key in readable if sensors.get(key)}
                yield Finding(
                    "sensors", True, ", ".join(f"{key} {value}" for key, value in shown.items()) or "none readable"
                )
        except ToolchainError as error:
            yield Finding(target.backend.name, False, str(error), "see above")
        except EnvironmentFailure as error:
            yield Finding("board", False, str(error))


def _checked(what: str, check: Callable[[], object], found: str) -> Finding:
    try:
        check()
    except EnvironmentFailure as error:
        return Finding(what, False, str(error))
    return Finding(what, True, found)
