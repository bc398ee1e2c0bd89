"""The evaluate stage: open the board, attack what runs there, time it, and write rows with their evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.files import atomic_write_json, sha256_of_file
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import LINKS
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.run import Run
from robustdeploy.core.stage import Stage
from robustdeploy.core.target import Target
from robustdeploy.devices.board import Board, Timed, board_from
from robustdeploy.errors import ToolchainError
from robustdeploy.evaluate.attack import (
    Adversary,
    Bench,
    Images,
    Progress,
    adversaries_from,
    attack_board,
    attack_dense,
)
from robustdeploy.evaluate.box import project
from robustdeploy.evaluate.diagnostics import Gradients, diagnose
from robustdeploy.evaluate.evidence import EvaluationRows, figures_from
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.rows import accuracy_rows, latency_rows, share_row
from robustdeploy.evaluate.toolchain import check_version
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Labels, Scores, Threat

GRADIENT_IMAGES = 256
"""Test images at which the host looks for missing gradients."""


@dataclass(frozen=True)
class Request:
    """What to evaluate, on which board, with which files of the run."""

    run: Run
    target: Target
    test: Images
    classes: tuple[str, ...]
    net: Path
    """Folder of the compact net."""
    dense: Path | None
    """Folder of the dense net, when one was trained."""
    export: Path
    """Folder with ``model.onnx``, ``agent.pyz`` and ``bundle.zip``."""
    golden: Mapping[str, np.ndarray[Any, Any]]
    """The bundle's own held-out images, with the scores ONNX Runtime gave them on the host."""
    extra_rows: tuple[Measurement, ...]
    """Rows of earlier stages, such as parity."""
    device: str
    """Torch device of the host's nets."""


@dataclass(frozen=True)
class _Opened:
    """What opening the board showed."""

    facts: dict[str, Any]
    engine: str
    golden_gap: float


def evaluate(request: Request, stage: Stage, progress: Progress) -> EvaluationRows:
    """Evaluate on the board and seal the stage. Sealed parts of an interrupted evaluation are used again."""
    folder = stage.begin()
    recipe, target = request.run.recipe, request.target
    adversaries = adversaries_from(recipe.evaluate.attacks)
    host = load_host_net(request.net, request.device)
    parts = Parts(folder, stage.fingerprint, request.run.ledger)
    bench = Bench(request.test, recipe.threat, recipe.seed, parts, progress)
    link = LINKS.build(target.link.name, target.link.options)
    with board_from(link, request.export / "agent.pyz") as board:
        opened = _open(board, request)
        scores = board.score(request.test.images)
        outcomes = _attacked(bench, adversaries, host, board, scores, recipe, request)
        curve = _curve(bench, host, board, recipe)
        timed = _timed(board, request, progress)
    on_board = [row for row in curve if row.where == "board"]
    settings = {adversary.label: adversary.settings for adversary in adversaries}
    rows = EvaluationRows(
        measurements=(
            *accuracy_rows(outcomes, settings),
            *curve,
            *request.extra_rows,
            *_latency(timed, target),
        ),
        diagnostics=(
            *diagnose(outcomes, recipe.threat, scores, _gradients(host, request.test), on_board, len(request.classes)),
            *_board_diagnostics(opened, timed, target),
        ),
        figures=figures_from(outcomes, recipe.threat, request.classes, timed),
    )
    outcomes.save(folder / "outcomes.npz")
    atomic_write_json(folder / "facts.json", opened.facts)
    atomic_write_json(folder / "timings.json", _timings_record(timed))
    atomic_write_json(folder / "rows.json", rows.model_dump(mode="json"))
    outputs = [folder / name for name in ("outcomes.npz", "facts.json", "timings.json", "rows.json")]
    stage.seal(outputs, {"engine": opened.engine, "n": len(request.test.ids)})
    parts.discard()
    return rows


def _gradients(host: HostNet, test: Images) -> Gradients:
    images, labels = test.images[:GRADIENT_IMAGES], test.labels[:GRADIENT_IMAGES]
    return Gradients(host.zero_gradients(images, labels), host.lost_gradients(images, labels), len(labels))


def _open(board: Board, request: Request) -> _Opened:
    """Probe the toolchain, send the file, build and load the engine, and let it score the golden images."""
    toolchain = request.target.backend
    probe = board.probe(toolchain.name, toolchain.options)
    if not probe.usable:
        raise ToolchainError(f"{board.pipe.where}: {toolchain.name} is not usable: {probe.fix}")
    check_version(toolchain.name, probe.version, toolchain.version, board.pipe.where)
    onnx = board.put(request.export / "model.onnx")
    compiled = board.compile(toolchain.name, onnx, toolchain.options)
    board.open_engine(toolchain.name, compiled.engine, toolchain.options)
    gap = float(np.abs(board.score(request.golden["images"]) - request.golden["scores"]).max())
    facts = {
        **board.facts,
        "where": board.pipe.where,
        "backend": toolchain.name,
        "backend_version": probe.version,
        "backend_details": dict(probe.details),
        "engine_sha256": compiled.engine,
        "engine_bytes": compiled.size,
        "compile_s": round(compiled.seconds, 3),
        "golden_images": len(request.golden["images"]),
        "golden_max_abs": gap,
        "status": request.target.status,
        "emulated": request.target.emulated,
    }
    return _Opened(facts, compiled.engine, gap)


def _attacked(
    bench: Bench,
    adversaries: tuple[Adversary, ...],
    host: HostNet,
    board: Board,
    scores: Scores,
    recipe: Recipe,
    request: Request,
) -> Outcomes:
    attacks = tuple(attack_board(adversary, bench, host, board) for adversary in adversaries)
    repeated = {}
    for attack in attacks:
        again = [board.score(part) for part in np.array_split(attack.images, max(1, len(attack.images) // 37))]
        repeated[attack.label] = np.concatenate(again).argmax(1)
    dense_clean: Labels | None = None
    dense_attacks: tuple[AttackOutcome, ...] = ()
    if request.dense is not None:
        dense = load_host_net(request.dense, request.device)
        dense_clean = dense.score(bench.images.images).argmax(1)
        dense_attacks = tuple(attack_dense(adversary, bench, dense) for adversary in adversaries)
    return Outcomes(
        ids=bench.images.ids,
        images=bench.images.images,
        labels=bench.images.labels,
        board_clean=scores.argmax(1),
        host_clean=host.score(bench.images.images).argmax(1),
        attacks=attacks,
        repeated=repeated,
        dense_clean=dense_clean,
        dense_attacks=dense_attacks,
    )


def _curve(bench: Bench, host: HostNet, board: Board, recipe: Recipe) -> tuple[Measurement, ...]:
    """Measure robustness over eps with PGD-10 on the first images, nested so that a success at less eps counts."""
    some = slice(0, recipe.evaluate.curve_limit)
    few = Images(bench.images.ids[some], bench.images.images[some], bench.images.labels[some])
    attack, rows = Pgd(steps=10), []
    for multiple in sorted(recipe.evaluate.eps_curve):
        eps = min(1.0, multiple * recipe.threat.eps)
        if (threat := Threat("linf", eps)).levels < 1:
            continue
        stop_if_interrupted()
        bench.progress(f"eps × {multiple:g}", 0, len(few.ids))

        def make(threat: Threat = threat, multiple: float = multiple) -> dict[str, Any]:
            found = host.attack(
                attack, few.images, few.labels, threat, key(bench.seed, "curve", str(multiple)), few.ids
            )
            found = project(few.images, found, threat)
            return {"board": board.score(found).argmax(1), "host": host.score(found).argmax(1)}

        part = bench.parts.get(f"curve-{multiple:g}", make)
        conditions = {"eps": eps, "multiple": multiple, "attack": "pgd", "steps": 10}
        for where in ("host", "board"):
            bits = part[where] == few.labels
            place: Any = where
            rows.append(
                share_row("robust_accuracy_at_eps", place, bits, conditions, attack=attack.label, kind="transfer")
            )
    return tuple(rows)


def _timed(board: Board, request: Request, progress: Progress) -> Timed | None:
    """Time the engine on the golden images; an emulated board's latency says nothing and is not taken."""
    if request.target.emulated:
        return None
    stop_if_interrupted()
    progress("latency", 0, 1)
    timed = board.time(request.target.latency.model_dump(), request.golden["images"])
    progress("latency", 1, 1)
    return timed


def _latency(timed: Timed | None, target: Target) -> tuple[Measurement, ...]:
    """Rows of latency, unless the board throttled or answered differently: then there is nothing to judge."""
    if timed is None or timed.throttled or not timed.same_scores:
        return ()
    timings = timed.timings
    conditions = {
        "batch": target.latency.batch,
        "duration_s": round(timings.duration_s, 2),
        "cv": round(timings.cv, 4),
        "drift": None if timings.drift is None else round(timings.drift, 4),
        "harness_overhead_ms": round(timings.overhead_ms, 6),
        "clocks": target.clocks,
    }
    return tuple(latency_rows(timings, conditions))


def _board_diagnostics(opened: _Opened, timed: Timed | None, target: Target) -> list[Diagnostic]:
    found = [
        Diagnostic(
            id="golden-scores",
            level="warn" if opened.golden_gap > 1e-3 else "ok",
            text=f"on the bundle's images the board's scores are within {opened.golden_gap:.2g} of the host runtime's",
            value=opened.golden_gap,
            threshold=1e-3,
        )
    ]
    if target.emulated:
        text = "the board is emulated, so its latency says nothing and was not taken"
        return [*found, Diagnostic(id="latency-valid", level="warn", text=text)]
    assert timed is not None
    if timed.throttled or not timed.same_scores:
        reasons = [*timed.throttled, *([] if timed.same_scores else ["the engine's scores changed while it was timed"])]
        text = f"latency was discarded: {'; '.join(reasons)}"
        return [*found, Diagnostic(id="latency-valid", level="warn", text=text)]
    drift = timed.timings.drift or 0.0
    text = (
        f"no throttling was seen; latency drifted by {drift:+.1%} and varied by {timed.timings.cv:.1%} over the window"
    )
    unsteady = abs(drift) > 0.01 or timed.timings.cv > 0.03
    level: Any = "warn" if unsteady else "ok"
    return [*found, Diagnostic(id="latency-valid", level=level, text=text, value=timed.timings.cv, threshold=0.03)]


def _timings_record(timed: Timed | None) -> dict[str, Any]:
    if timed is None:
        return {"taken": False, "reason": "the board is emulated"}
    return {
        "taken": True,
        "samples_ns": timed.timings.samples_ns.tolist(),
        "before": dict(timed.before),
        "after": dict(timed.after),
        "throttled": list(timed.throttled),
        "same_scores": timed.same_scores,
        "warmup_runs": timed.timings.warmup_runs,
        "overhead_ms": timed.timings.overhead_ms,
    }


def evaluation_inputs(request: Request) -> dict[str, str]:
    """SHA-256 of everything an evaluation reads."""
    digest = hashlib.sha256()
    for part in (request.test.ids, request.test.images, request.test.labels):
        digest.update(part.tobytes())
    files = {
        "onnx": request.export / "model.onnx",
        "agent": request.export / "agent.pyz",
        "net": request.net / "model.safetensors",
        **({"dense": request.dense / "model.safetensors"} if request.dense else {}),
    }
    return {"test_images": digest.hexdigest(), **{name: sha256_of_file(path) for name, path in files.items()}}
