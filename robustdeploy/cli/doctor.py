"""``robustdeploy doctor``: what is installed, what a target still needs, one fix per line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import typer

from robustdeploy.cli.options import JsonOption, OptionalTarget
from robustdeploy.cli.result import show
from robustdeploy.core.files import temporary_folder
from robustdeploy.core.load import load_target
from robustdeploy.core.registry import LINKS
from robustdeploy.core.target import Target
from robustdeploy.core.torchvision_package import part_of_torchvision
from robustdeploy.devices.architecture import EMULATED, check_architecture, check_emulated
from robustdeploy.devices.board import Board, board_from
from robustdeploy.devices.builder import check_builder
from robustdeploy.devices.fleet import Fleet, check_fit
from robustdeploy.devices.link import Link
from robustdeploy.devices.releases import check_opset, jetpack_advice, jetpack_of, newest_opset
from robustdeploy.devices.toolchain import check_version
from robustdeploy.errors import EnvironmentFailure, ToolchainError
from robustdeploy.evaluate.telemetry import disturbance
from robustdeploy.export.agent import build_agent, foreign_plugins

LEAST_BYTES = 64 << 20
"""Room for the agent, a net and its engine, as the link asks for it."""


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
    # A torchvision for another build of torch is installed all right and cannot be imported.
    yield _checked("torchvision fits torch", lambda: part_of_torchvision("ops"), "it loads")
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
    with temporary_folder() as folder, ExitStack() as stack:
        agent = folder / "agent.pyz"
        build_agent(agent, foreign_plugins())
        boards: list[Board] = []
        for number, choice in enumerate(target.links, 1):
            which = f"board {number}, " if len(target.links) > 1 else ""
            link = LINKS.build(choice.name, choice.options)
            # All stay open until they are compared.
            yield from (
                replace(each, what=f"{which}{each.what}") for each in _board(link, target, agent, stack, boards)
            )
        if len(boards) > 1:
            alike = f"{len(boards)} that are alike, each a machine of its own"
            yield _checked("boards", lambda: check_fit(Fleet(boards, lambda line: None), target), alike)


def _board(link: Link, target: Target, agent: Path, stack: ExitStack, boards: list[Board]) -> Iterator[Finding]:
    """Look at one board; one that answers joins ``boards``."""
    try:
        board = stack.enter_context(board_from(link, agent))
        yield from _machine(board, target)
        yield from _toolchain(board, target, agent)
        yield _channels(target)
        yield _sensors(board)
        yield _harness(board, target, agent.parent)
        boards.append(board)
    except ToolchainError as error:
        yield Finding(target.backend.name, False, str(error), "see above")
    except EnvironmentFailure as error:
        yield Finding("board", False, str(error))


def _machine(board: Board, target: Target) -> Iterator[Finding]:
    facts, where = board.facts, board.pipe.where
    yield Finding("board", True, f"{where}: {facts['machine']}, {facts['cpu_model'] or facts['board_model']}")
    yield _checked(
        "architecture",
        lambda: check_architecture(facts["machine"], target.arch, where),
        "any will do" if target.arch == "any" else f"{target.arch}, as the target says",
    )
    if target.emulated or EMULATED in facts["board_model"]:
        yield _checked(
            "emulated",
            lambda: check_emulated(facts["board_model"], target.emulated, where),
            "as the target says; no latency is taken",
        )
    pack = jetpack_of(facts["l4t"])
    jetson = f", Jetson Linux {facts['l4t']}" + (f" ({pack.name})" if pack else "") if facts["l4t"] else ""
    yield Finding("system", True, f"{facts['os'] or facts['system']}{jetson}")
    yield Finding("Python there", True, f"{facts['python']} with numpy {facts['numpy']}")
    free, total = facts["free_memory_bytes"], facts["memory_bytes"]
    yield Finding("memory", True, f"{_mib(free)} of {_mib(total)} free" if total else "not readable")
    room = facts["free_disk_bytes"]
    fix = "make room there, or set the link's folder"
    yield Finding("disk there", room >= LEAST_BYTES, f"{_mib(room)} free where the agent keeps its files", fix)


def _toolchain(board: Board, target: Target, agent: Path) -> Iterator[Finding]:
    name, where = target.backend.name, board.pipe.where
    probe = board.probe(name, target.backend.options)
    advice = jetpack_advice(name, target.backend.version, board.facts["l4t"])
    fix = "; ".join(part for part in (probe.fix, advice) if part)
    yield Finding(name, probe.usable, probe.version or "not usable", fix)
    if not probe.usable:
        return
    yield _checked(
        "version",
        lambda: check_version(name, probe.version, target.backend.version, "board"),
        "within the target's bounds",
        advice,
    )
    newest = newest_opset(name, probe.version)
    yield _checked(
        "opset",
        lambda: check_opset(name, probe.version, target.opset, where),
        f"{target.opset}, and {'any' if newest is None else f'up to {newest}'} can be read there",
    )
    if target.build_on == "host":
        yield _checked(
            "built on",
            lambda: check_builder(board, target, agent),
            f"this machine, whose {name} builds for the board",
        )


def _channels(target: Target) -> Finding:
    multiple = target.channel_multiple
    kept = f"in multiples of {multiple}" if multiple > 1 else "in any number"
    measure = "" if target.emulated else f"; `robustdeploy profile --target {target.name}` finds what is best here"
    return Finding("channels", True, f"kept {kept} when pruning for it, as the target says{measure}")


def _sensors(board: Board) -> Finding:
    sensors = board.sensors()
    readable = ("clocks_khz", "governors", "gpu_clocks_hz", "thermal", "load_1m")
    shown = {key: sensors[key] for key in readable if sensors.get(key)}
    return Finding("sensors", True, ", ".join(f"{key} {value}" for key, value in shown.items()) or "none readable")


def _harness(board: Board, target: Target, folder: Path) -> Finding:
    """Time an engine that does next to nothing in a process of its own: what is left is the agent's own share."""
    if target.emulated:
        return Finding("timing", True, "the board is emulated, so nothing is timed there")
    (folder / "nothing.onnx").write_bytes(b"no net")
    files = board.compile("null", board.put(folder / "nothing.onnx")).files
    plan = {"warmup_s": 0.05, "min_s": 0.2, "max_s": 2.0, "min_samples": 1000}
    run = board.run("null", files, {}, plan, np.zeros((2, 1, 1, 1), np.uint8))
    samples = np.sort(run.window.samples_ns) / 1000
    p50, p99, empty = np.median(samples), samples[int(0.99 * len(samples))], np.median(run.window.empty_ns)
    found = f"a call of the null backend takes {p50:.3g} µs (p99 {p99:.3g} µs), an empty one {empty:.0f} ns"
    started = f"a process of its own starts in {run.start_ns * 1e-9:.2g} s"
    busy = disturbance(run)
    return Finding("timing", True, f"{found}; {started}{f'; {busy}' if busy else ''}")


def _mib(size: int) -> str:
    return f"{size >> 20:,} MiB"


def _checked(what: str, check: Callable[[], object], found: str, fix: str = "") -> Finding:
    try:
        check()
    except EnvironmentFailure as error:
        return Finding(what, False, str(error), fix)
    return Finding(what, True, found)
