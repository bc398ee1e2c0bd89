"""The evaluate stage: open the board, attack what runs there, time it, and write rows with their evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustdeploy.core.files import atomic_write_json, sha256_of_file, sha256_of_text
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.registry import LINKS
from robustdeploy.core.report import Measurement
from robustdeploy.core.run import Run
from robustdeploy.core.stage import Stage
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.data.images import Reading, numbered
from robustdeploy.data.load import reading_facts
from robustdeploy.data.prints import Prints, prints_of
from robustdeploy.devices.board import Board, board_from
from robustdeploy.evaluate.attack import (
    BLOCK,
    Adversary,
    Bench,
    Images,
    Progress,
    adversaries_from,
    attack_board,
    attack_dense,
)
from robustdeploy.evaluate.classes import class_rows, one_class_diagnostic
from robustdeploy.evaluate.curve import curve_rows
from robustdeploy.evaluate.diagnostics import HostFindings, diagnose, scores_respond
from robustdeploy.evaluate.evidence import EvaluationRows, figures_from
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.judge import Judged, joined, judge
from robustdeploy.evaluate.latency import Stopwatch, latency_diagnostic, measured_latency, timings_record
from robustdeploy.evaluate.opening import golden_diagnostic, open_on
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.overlap import overlap_diagnostic
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.rows import accuracy_rows
from robustdeploy.evaluate.strength import strength_diagnostic
from robustdeploy.evaluate.tables import table_diagnostic
from robustdeploy.onboard.attacks.square import margin_of
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.types import Labels, Scores
from robustdeploy.train.facts import PRINTS_FILE

LOOKED_AT = 256
"""Test images at which gradients and scores are looked at: whether they are there, and tell of the net."""


@dataclass(frozen=True)
class Request:
    """What to evaluate, on which board, with which files of the run."""

    run: Run
    target: Target
    test: Images
    available: int
    """How many test images there are, of which ``test`` may be the first."""
    classes: tuple[str, ...]
    net: Path
    """Folder of the compact net."""
    dense: Path | None
    """Folder of the dense net, when one was trained."""
    export: Path
    """Folder with ``model.onnx`` and ``bundle.zip``."""
    agent: Path
    """The agent, built of the installed package: what lies in a run folder is never started."""
    golden: Mapping[str, np.ndarray[Any, Any]]
    """The bundle's own held-out images, with the scores ONNX Runtime gave them on the host."""
    extra_rows: tuple[Measurement, ...]
    """Rows of earlier stages, such as parity."""
    device: str
    """Torch device of the host's nets."""
    trust: Trust = False
    """Whose factories may be called to load them."""
    reading: Reading = field(default_factory=Reading)
    """What became of the test set's files."""


def evaluate(request: Request, stage: Stage, progress: Progress) -> EvaluationRows:
    """Evaluate on the board and seal the stage. Sealed parts of an interrupted evaluation are used again."""
    folder = stage.begin()
    recipe, target = request.run.recipe, request.target
    adversaries = adversaries_from(recipe.evaluate.attacks)
    host = load_host_net(request.net, request.device, request.trust)
    link = LINKS.build(target.link.name, target.link.options)
    with board_from(link, request.agent) as board:
        opened = open_on(board, target, request.export, request.golden)
        # A number belongs to one exact engine: parts that another build of it made are not used.
        parts = Parts(folder, sha256_of_text(f"{stage.fingerprint} {opened.engine}"), request.run.ledger)
        bench = Bench(request.test, recipe.threat, recipe.seed, parts, progress, target.latency.batch)
        stopwatch = Stopwatch(board, target, opened, request.golden["images"], progress)
        clean = _judged_clean(bench, board)
        stopwatch.take()
        outcomes = _attacked(bench, adversaries, host, board, clean, request, stopwatch)
        unmoved = _unmoved_margins(bench, board, clean.scores)
        curve = curve_rows(bench, host, board, recipe)
        latency = stopwatch.finish()
    on_board = [row for row in curve if row.where == "board"]
    settings = {adversary.label: adversary.settings for adversary in adversaries}
    classes = len(request.classes)
    rows = EvaluationRows(
        measurements=(
            *accuracy_rows(outcomes, settings),
            *class_rows(outcomes, request.classes),
            *curve,
            *request.extra_rows,
            *measured_latency(latency, target),
        ),
        diagnostics=(
            strength_diagnostic(adversaries, recipe.threat, len(request.test.ids), on_board),
            *diagnose(outcomes, recipe.threat, clean.scores, _findings(host, bench), on_board, classes),
            one_class_diagnostic(outcomes, request.classes),
            scores_respond(unmoved, len(request.test.ids[:LOOKED_AT])),
            overlap_diagnostic(_prints(request.test), request.test.ids, request.net / PRINTS_FILE),
            table_diagnostic(request.export / "model.onnx", request.test.images, request.available),
            golden_diagnostic(opened),
            latency_diagnostic(latency),
        ),
        figures=figures_from(outcomes, recipe.threat, request.classes, latency),
    )
    outcomes.save(folder / "outcomes.npz")
    atomic_write_json(folder / "facts.json", opened.facts)
    atomic_write_json(folder / "timings.json", timings_record(latency))
    atomic_write_json(folder / "rows.json", rows.model_dump(mode="json"))
    outputs = [folder / name for name in ("outcomes.npz", "facts.json", "timings.json", "rows.json")]
    stage.seal(
        outputs,
        {"engine": opened.engine, "n": len(request.test.ids), "reading": reading_facts(request.reading, "test_")},
    )
    parts.discard()
    return rows


def _prints(test: Images) -> Prints:
    return prints_of(numbered(torch.from_numpy(test.images), torch.from_numpy(test.labels)))


def _unmoved_margins(bench: Bench, board: Board, scores: Scores) -> int:
    """Count images whose margin stays exactly as it was when they are moved to a random corner of the box."""
    test = bench.images
    images, labels = test.images[:LOOKED_AT], test.labels[:LOOKED_AT]
    low, high = bench.threat.box(images)
    draws = Draws(key(bench.seed, "scores-respond"), test.ids[:LOOKED_AT])
    up = draws.uniform(0, images[0].size).reshape(images.shape) < 0.5
    moved = board.score(np.where(up, high, low))
    return int((margin_of(moved, labels) == margin_of(scores[:LOOKED_AT], labels)).sum())


def _findings(host: HostNet, bench: Bench) -> HostFindings:
    images, labels = bench.images.images[:LOOKED_AT], bench.images.labels[:LOOKED_AT]
    return HostFindings(
        faithful=host.faithful_gradients(images, labels, bench.threat, key(bench.seed, "faithful-gradient")),
        without=host.zero_gradients(images, labels),
        lost=host.lost_gradients(images, labels),
        n=len(labels),
        unsteady=host.unsteadiness(images),
    )


def _judged_clean(bench: Bench, board: Board) -> Judged:
    """Judge the images as they are, block by block, so that no message to the board holds it up for long."""
    judged = []
    for number, block in bench.images.blocks():
        stop_if_interrupted()
        bench.progress("clean", number * BLOCK, len(bench.images.ids))
        judged.append(judge(board, block.images, bench.batch))
    bench.progress("clean", len(bench.images.ids), len(bench.images.ids))
    return joined(judged)


def _attacked(
    bench: Bench,
    adversaries: tuple[Adversary, ...],
    host: HostNet,
    board: Board,
    clean: Judged,
    request: Request,
    stopwatch: Stopwatch,
) -> Outcomes:
    attacks = []
    for adversary in adversaries:
        attacks.append(attack_board(adversary, bench, host, board))
        stopwatch.take()
    dense_clean: Labels | None = None
    dense_attacks: tuple[AttackOutcome, ...] = ()
    if request.dense is not None:
        dense = load_host_net(request.dense, request.device, request.trust)
        dense_clean = dense.score(bench.images.images).argmax(1)
        dense_attacks = tuple(attack_dense(adversary, bench, dense) for adversary in adversaries)
    return Outcomes(
        ids=bench.images.ids,
        images=bench.images.images,
        labels=bench.images.labels,
        board_clean=clean.labels,
        host_clean=host.score(bench.images.images).argmax(1),
        attacks=tuple(attacks),
        dense_clean=dense_clean,
        dense_attacks=dense_attacks,
        moved=int(clean.moved.sum()),
        restless=int(clean.restless.sum()),
        batch=bench.batch,
    )


def evaluation_inputs(request: Request) -> dict[str, str]:
    """SHA-256 of everything an evaluation reads."""
    digest = hashlib.sha256()
    for part in (request.test.ids, request.test.images, request.test.labels):
        digest.update(part.tobytes())
    files = {
        "onnx": request.export / "model.onnx",
        "agent": request.agent,
        "net": request.net / "model.safetensors",
        **({"dense": request.dense / "model.safetensors"} if request.dense else {}),
        **({"prints": prints} if (prints := request.net / PRINTS_FILE).is_file() else {}),
    }
    return {"test_images": digest.hexdigest(), **{name: sha256_of_file(path) for name, path in files.items()}}
