"""The evaluate stage: open the board, attack what runs there, time it, and write rows with their evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustdeploy.core.files import atomic_write_json, sha256_of_file, sha256_of_text
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import LINKS
from robustdeploy.core.report import Measurement
from robustdeploy.core.run import Run
from robustdeploy.core.stage import Stage
from robustdeploy.core.target import Target
from robustdeploy.devices.board import Board, board_from
from robustdeploy.evaluate.attack import (
    Adversary,
    Bench,
    Images,
    Progress,
    adversaries_from,
    attack_board,
    attack_dense,
)
from robustdeploy.evaluate.curve import curve_rows
from robustdeploy.evaluate.diagnostics import Gradients, diagnose
from robustdeploy.evaluate.evidence import EvaluationRows, figures_from
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.latency import latency_diagnostic, measured_latency, time_engine, timings_record
from robustdeploy.evaluate.opening import golden_diagnostic, open_on
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.rows import accuracy_rows
from robustdeploy.onboard.types import Labels, Scores

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


def evaluate(request: Request, stage: Stage, progress: Progress) -> EvaluationRows:
    """Evaluate on the board and seal the stage. Sealed parts of an interrupted evaluation are used again."""
    folder = stage.begin()
    recipe, target = request.run.recipe, request.target
    adversaries = adversaries_from(recipe.evaluate.attacks)
    host = load_host_net(request.net, request.device)
    link = LINKS.build(target.link.name, target.link.options)
    with board_from(link, request.export / "agent.pyz") as board:
        opened = open_on(board, target, request.export, request.golden)
        # A number belongs to one exact engine: parts that another build of it made are not used.
        parts = Parts(folder, sha256_of_text(f"{stage.fingerprint} {opened.engine}"), request.run.ledger)
        bench = Bench(request.test, recipe.threat, recipe.seed, parts, progress)
        scores = board.score(request.test.images)
        outcomes = _attacked(bench, adversaries, host, board, scores, recipe, request)
        curve = curve_rows(bench, host, board, recipe)
        timed = time_engine(board, target, request.golden["images"], progress)
    on_board = [row for row in curve if row.where == "board"]
    settings = {adversary.label: adversary.settings for adversary in adversaries}
    rows = EvaluationRows(
        measurements=(
            *accuracy_rows(outcomes, settings),
            *curve,
            *request.extra_rows,
            *measured_latency(timed, target),
        ),
        diagnostics=(
            *diagnose(outcomes, recipe.threat, scores, _gradients(host, request.test), on_board, len(request.classes)),
            golden_diagnostic(opened),
            latency_diagnostic(timed),
        ),
        figures=figures_from(outcomes, recipe.threat, request.classes, timed),
    )
    outcomes.save(folder / "outcomes.npz")
    atomic_write_json(folder / "facts.json", opened.facts)
    atomic_write_json(folder / "timings.json", timings_record(timed))
    atomic_write_json(folder / "rows.json", rows.model_dump(mode="json"))
    outputs = [folder / name for name in ("outcomes.npz", "facts.json", "timings.json", "rows.json")]
    stage.seal(outputs, {"engine": opened.engine, "n": len(request.test.ids)})
    parts.discard()
    return rows


def _gradients(host: HostNet, test: Images) -> Gradients:
    images, labels = test.images[:GRADIENT_IMAGES], test.labels[:GRADIENT_IMAGES]
    return Gradients(host.zero_gradients(images, labels), host.lost_gradients(images, labels), len(labels))


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
