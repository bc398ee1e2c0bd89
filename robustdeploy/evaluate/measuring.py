"""Evaluating: load the engine, attack what runs there, time it, and write rows with their evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustdeploy.core.archive import Arrays
from robustdeploy.core.files import atomic_write_json
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import BoardRecord, OnnxRecord
from robustdeploy.core.report import SCHEMA_VERSION, Diagnostic, Measurement
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.data.images import Reading, numbered
from robustdeploy.data.load import reading_facts
from robustdeploy.data.prints import Prints, prints_of
from robustdeploy.data.replay_set import Belonging
from robustdeploy.devices.board import Board
from robustdeploy.devices.build import Built
from robustdeploy.devices.fleet import Fleet
from robustdeploy.engine.stage import Work
from robustdeploy.evaluate.adversarial import HostAttacks, answerable, load_attacks
from robustdeploy.evaluate.adversaries import in_order, in_torch, settings_of
from robustdeploy.evaluate.attack import (
    Adversary,
    Bench,
    Found,
    Images,
    Progress,
    adversaries_from,
    attack_board,
    shared,
)
from robustdeploy.evaluate.box import project
from robustdeploy.evaluate.challenge import challenge_diagnostic, challenged
from robustdeploy.evaluate.classes import class_rows, one_class_diagnostic
from robustdeploy.evaluate.corruptions import UnderCorruptions, corrupted_on_boards
from robustdeploy.evaluate.curve import curve_rows
from robustdeploy.evaluate.diagnostics import HostFindings, diagnose, scores_respond
from robustdeploy.evaluate.distances import distance_diagnostics, distance_rows
from robustdeploy.evaluate.evidence import EvaluationRows, figures_from
from robustdeploy.evaluate.fidelity import precision_diagnostics
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.judge import Judged, judge
from robustdeploy.evaluate.ladder import ladder_diagnostic
from robustdeploy.evaluate.latency import Stopwatch, timings_record
from robustdeploy.evaluate.latency_rows import latency_diagnostics
from robustdeploy.evaluate.opening import Opened, golden_diagnostic, open_on
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes, scores_told
from robustdeploy.evaluate.overlap import overlap_diagnostic
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.patches import UnderPatches, patch_outcomes, patches_asked, patches_on_boards
from robustdeploy.evaluate.relay import Relay
from robustdeploy.evaluate.rows import accuracy_rows
from robustdeploy.evaluate.strength import asked_for_labels, strength_diagnostic
from robustdeploy.evaluate.substitute import Victim, by_substitute
from robustdeploy.evaluate.tables import table_diagnostic
from robustdeploy.evaluate.vulnerability import vulnerability_rows
from robustdeploy.export.precision.protocol import Limits
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.engine import Files
from robustdeploy.onboard.types import Bytes, Labels, Scores
from robustdeploy.train.facts import PRINTS_FILE

_DENSE = Subject(DENSE, FP32, TORCH)
LOOKED_AT = 256
"""Test images at which gradients and scores are looked at: whether they are there, and tell of the net."""


@dataclass(frozen=True)
class Request:
    """What to evaluate, on which board, with which files of the run."""

    recipe: Recipe
    """With the evaluation that is asked for."""
    subject: Subject
    reference: Subject
    """What it is compared with, in torch: itself, its twin, or the net in float32 where it has no twin."""
    limits: Limits
    """How far it may be from that."""
    target: Target
    test: Images
    available: int
    """How many test images there are, of which ``test`` may be the first."""
    classes: tuple[str, ...]
    net: Path
    """Folder of the trained net."""
    onnx: Path
    """The exported file, in the subject's precision."""
    twin: Path | None
    """The same, where its torch twin is what was attacked."""
    exported: OnnxRecord
    """What is known of that file."""
    engine: Path
    """Folder of the compiled one."""
    built: Built
    """What is known of that."""
    dense_engine: tuple[Path, Files] | None
    """Folder and files of the dense net's engine, which takes turns with this one while both are timed."""
    found: Path
    """What was found on the net in torch."""
    dense_found: Path | None
    """The same of the dense net that it is compared with in torch."""
    golden: Mapping[str, np.ndarray[Any, Any]]
    """Held-out images, with the scores ONNX Runtime gave them on the host."""
    extra_rows: tuple[Measurement, ...]
    """Rows of earlier stages, such as parity."""
    device: str
    """Torch device of the host's nets."""
    trust: Trust = False
    """Whose factories may be called to load them."""
    reading: Reading = field(default_factory=Reading)
    """What became of the test set's files."""


def evaluate(request: Request, fleet: Fleet, work: Work, progress: Progress) -> BoardRecord:
    """Evaluate on a target's boards. Sealed parts of an interrupted evaluation of the same engine are used again."""
    target = request.target
    # Before the board is opened: a damaged file must not cost the time of sending an engine.
    host = load_host_net(request.net, request.device, request.trust, request.twin)
    # Without what the net has no gradients or scores for.
    request = replace(request, recipe=answerable(request.recipe, host))
    recipe, threat = request.recipe, request.recipe.attacked_within
    adversaries = adversaries_from(recipe.evaluate.attacks)
    found = load_attacks(request.found, recipe, request.test, deployed=True)
    opened = fleet.each(
        lambda board: open_on(board, target, request.built, request.engine, request.golden, request.limits)
    )
    parts = Parts(work.folder, work.mark, work.ledger)
    # Judged in the batch that the latency is of: one deployment, one answer.
    bench = Bench(request.test, threat, recipe.seed, parts, progress, target.latency.batch)
    timed = Relay(fleet, partial(_stopwatch, request, opened, progress))
    clean = Judged(**shared(bench, fleet, "clean", partial(_judged, batch=bench.batch)))
    # Between the attacks and not in one row, so that runs meet the board in different states.
    timed.take()
    dense = _dense_found(request)
    outcomes = _attacked(bench, adversaries, (host, found, dense), _victim(request, fleet, clean), clean, timed)
    # On the board and not in torch: an int8 head may round away what the host's scores still show.
    unmoved = fleet.first(lambda board: _unmoved_margins(bench, board, clean.scores))
    # From what was stored: gradients are followed on the host once for all targets.
    subject = request.subject
    curve = curve_rows(bench, found.curve, fleet, recipe, (subject, request.reference))
    beyond = _beyond_the_ball(bench, fleet, clean.labels, request, (found, dense))
    latency, first, classes = timed.finish(), opened[fleet.boards[0]], len(request.classes)
    on_board = [row for row in curve if row.subject == str(subject)]
    nets = _in_float32(subject, found, dense)
    checks = (
        *_of_attacks(request, bench, host, adversaries, outcomes, (clean.scores, unmoved), on_board),
        *beyond.patches.diagnostic(subject),
        *_of_what_is_there(request, fleet, opened),
        *latency_diagnostics(latency),
    )
    # Rows are made here, with the evidence at hand; the report only collects them and never computes a figure.
    rows = EvaluationRows(
        schema_version=SCHEMA_VERSION,
        measurements=(
            *accuracy_rows(outcomes, settings_of(adversaries, classes), subject, request.reference),
            *class_rows(outcomes, request.classes, subject),
            *curve,
            *beyond.rows(recipe, subject, request.reference),
            *(row for its, each in nets.items() for row in _means_in_torch(each, recipe.seed, its)),
            *request.extra_rows,
            *timed.rows(latency, subject),
        ),
        diagnostics=(
            *(each.model_copy(update={"subject": str(subject)}) for each in checks),
            *(check for its, each in nets.items() for check in distance_diagnostics(each.distances, its)),
        ),
        figures=figures_from(outcomes, threat, request.classes, latency, subject),
    )
    told = {"facts": {**first.facts, **fleet.deeds()}, "timings": timings_record(latency)}
    _keep(work, outcomes, beyond.arrays, told, rows)
    return BoardRecord(engine=first.engine, n=len(request.test.ids), reading=reading_facts(request.reading, "test_"))


@dataclass(frozen=True)
class _Beyond:
    """What was judged beside the threat's ball."""

    patches: UnderPatches
    corruptions: UnderCorruptions
    arrays: Mapping[str, np.ndarray[Any, Any]]
    """The evidence, by its name in ``outcomes.npz``."""

    def rows(self, recipe: Recipe, subject: Subject, reference: Subject) -> Iterator[Measurement]:
        """Return all of it as rows."""
        yield from self.patches.rows(subject, reference)
        yield from self.corruptions.rows(recipe, _DENSE)


def _beyond_the_ball(
    bench: Bench, fleet: Fleet, clean: Labels, request: Request, in_torch: tuple[HostAttacks, HostAttacks | None]
) -> _Beyond:
    """Judge what runs on the boards with patches and under corruptions, and collect how every net in torch does."""
    (found, dense), subject, reference = in_torch, request.subject, request.reference
    nets = {reference: found} | ({} if dense is None else {_DENSE: dense})
    patched = {its: {label: each.predictions for label, each in of.patches.items()} for its, of in nets.items()}
    labelled = {subject: clean, **{its: of.clean for its, of in nets.items()}}
    patched = {subject: patches_on_boards(bench, fleet, found.patches), **patched}
    asked = patches_asked(request.recipe, bench.images.images.shape[1:])
    patches = UnderPatches(bench.images.labels, asked, bench.batch, labelled, patched)
    corrupted = {subject: corrupted_on_boards(bench, fleet, request.recipe, found.corrupted)}
    corrupted |= {its: dict(of.corrupted) for its, of in nets.items()}
    shape = bench.images.images.shape[1:]
    corruptions = UnderCorruptions(bench.images.labels, shape, bench.seed, bench.batch, corrupted)
    arrays = patch_outcomes(found.patches, patched[subject], {} if dense is None else dense.patches)
    return _Beyond(patches, corruptions, {**corruptions.arrays(subject, reference), **arrays})


def _of_attacks(
    request: Request,
    bench: Bench,
    host: HostNet,
    adversaries: tuple[Adversary, ...],
    outcomes: Outcomes,
    answers: tuple[Scores, int],
    on_board: Sequence[Measurement],
) -> Iterator[Diagnostic]:
    """Check what was found by attacks.

    ``answers`` are the board's scores, and how many images' margins did not move; ``on_board`` are its rows over eps.
    """
    (scores, unmoved), limits, n = answers, request.limits, len(request.test.ids)
    findings, classes = _findings(host, bench), len(request.classes)
    yield strength_diagnostic(adversaries, bench.threat, n, on_board)
    forms = {"unsaturated": host.unsaturated, "labels_alone": host.labels_alone}
    yield from diagnose(outcomes, bench.threat, scores, findings, on_board, classes, limits.agreement, **forms)
    yield from precision_diagnostics(request.exported, limits)
    yield from ladder_diagnostic(outcomes, adversaries)
    yield one_class_diagnostic(outcomes, request.classes)
    by_labels = host.labels_alone or asked_for_labels(adversaries)
    yield scores_respond(unmoved, min(n, LOOKED_AT), by_labels=by_labels, unsaturated=host.unsaturated)


def _of_what_is_there(request: Request, fleet: Fleet, opened: Mapping[Board, Opened]) -> Iterator[Diagnostic]:
    """Check the files that were evaluated, and that it is they that answer on the boards."""
    yield overlap_diagnostic(_prints(request.test), request.test.ids, request.net / PRINTS_FILE)
    yield table_diagnostic(request.onnx, request.test.images, request.available)
    challenges = fleet.each(partial(_challenged, request, opened))
    yield challenge_diagnostic(max(challenges.values()), request.limits.another)
    yield golden_diagnostic(max(opened.values(), key=lambda each: each.golden_gap), request.limits)


def _challenged(request: Request, opened: Mapping[Board, Opened], board: Board) -> int:
    # What stands in for a toolchain computes no net, and its golden scores say so already.
    if opened[board].stands_in:
        return 0
    return challenged(board, request.onnx, request.test.images, request.limits.another)


def _keep(
    work: Work,
    outcomes: Outcomes,
    more: Mapping[str, np.ndarray[Any, Any]],
    told: Mapping[str, Any],
    rows: EvaluationRows,
) -> None:
    """Write what was found and measured into the stage's folder."""
    # Images and labels as well as predictions: whoever doubts an accuracy can score the images again.
    outcomes.save(work.folder / "outcomes.npz", more)
    for name, content in {**told, "rows": rows.model_dump(mode="json")}.items():
        atomic_write_json(work.folder / f"{name}.json", content)
    work.keep("outcomes.npz", "facts.json", "timings.json", "rows.json")


def _dense_found(request: Request) -> HostAttacks | None:
    """Read what was found on the dense net in torch, where it is compared with that."""
    if request.dense_found is None:
        return None
    return load_attacks(request.dense_found, request.recipe, request.test, deployed=False)


def _in_float32(subject: Subject, found: HostAttacks, dense: HostAttacks | None) -> dict[Subject, HostAttacks]:
    """Return what was found on both nets, named by float32 whatever the subject's precision, for what is told of that.

    Distances and the vulnerability of features are measured on the nets in float32 alone.
    """
    beside = {} if dense is None else {_DENSE: dense}
    return {Subject(subject.net, FP32, TORCH): found, **beside}


def _means_in_torch(found: HostAttacks, seed: int, subject: Subject) -> Iterator[Measurement]:
    yield from distance_rows(found.distances, seed, subject)
    yield from vulnerability_rows(found.moves, seed, subject)


def _stopwatch(request: Request, opened: Mapping[Board, Opened], progress: Progress, board: Board) -> Stopwatch:
    """Make what times the engine on one board, and the dense net's in turns with it where there is one."""
    if request.dense_engine is not None:
        board.send(*request.dense_engine)
    dense = request.dense_engine[1] if request.dense_engine else None
    return Stopwatch(board, request.target, opened[board], request.golden["images"], progress, dense=dense)


def _prints(test: Images) -> Prints:
    return prints_of(numbered(torch.from_numpy(test.images), torch.from_numpy(test.labels)))


def _unmoved_margins(bench: Bench, board: Board, scores: Scores) -> int:
    """Count images whose margin stays exactly as it was when they are moved along random signs, as far as may be."""
    test = bench.images
    images, labels = test.images[:LOOKED_AT], test.labels[:LOOKED_AT]
    low, high = bench.threat.box(images)
    draws = Draws(key(bench.seed, "scores-respond"), test.ids[:LOOKED_AT])
    up = draws.uniform(0, images[0].size).reshape(images.shape) < 0.5
    # Corners of the box, the largest moves that the threat allows: if these change no score, no smaller ones do. A ball
    # in ℓ2 or ℓ1 does not reach them, and each pixel moves by as much as is left for it.
    moved = board.score(project(images, np.where(up, high, low), bench.threat))
    return int((CLASSIFICATION.margin(moved, labels) == CLASSIFICATION.margin(scores[:LOOKED_AT], labels)).sum())


def _findings(host: HostNet, bench: Bench) -> HostFindings | None:
    images, labels = bench.images.images[:LOOKED_AT], bench.images.labels[:LOOKED_AT]
    lost, wild = host.lost_gradients(images, labels)
    if not host.followable:
        return None
    return HostFindings(
        faithful=host.faithful_gradients(images, labels, bench.threat, key(bench.seed, "faithful-gradient")),
        without=host.zero_gradients(images, labels),
        lost=lost,
        wild=wild,
        n=len(labels),
        paths=host.paths(images, labels, bench.threat, key(bench.seed, "paths")),
        unsteady=host.unsteadiness(images),
    )


def _judged(board: Board, block: Images, number: int, tell: Callable[[], None], batch: int) -> Arrays:
    """Judge the images of one block as they are."""
    return dict(vars(judge(board, block.images, batch)))


def _victim(request: Request, fleet: Fleet, clean: Judged) -> Victim:
    """Return what runs on the boards as one who sees labels alone meets it."""

    def ask(images: Bytes) -> Labels:
        labels: Labels = CLASSIFICATION.predictions(fleet.first(lambda board: board.score(images)))
        return labels

    return Victim(ask, request.golden["images"], len(request.classes), clean.labels)


def _attacked(
    bench: Bench,
    adversaries: tuple[Adversary, ...],
    on_host: tuple[HostNet, HostAttacks, HostAttacks | None],
    victim: Victim,
    clean: Judged,
    timed: Relay,
) -> Outcomes:
    (host, found, dense), images = on_host, bench.images.images
    scores = scores_told(clean.scores, bench.images.labels)

    def one(adversary: Adversary, ahead: AttackOutcome | None) -> AttackOutcome:
        replayed = found.attacks.get(adversary.label)
        if adversary.substitute is not None:
            replayed = by_substitute(adversary, bench, host, victim)
        outcome = attack_board(adversary, bench, host, timed.fleet, replayed, ahead)
        timed.take()
        return replace(outcome, belongs=_belonging(adversary, bench))

    unattacked = AttackOutcome("", "transfer", images, clean.labels, found.clean, scores=scores)
    attacks = in_order(adversaries, unattacked, one)
    dense_clean: Labels | None = None
    dense_attacks: tuple[AttackOutcome, ...] = ()
    if dense is not None:
        dense_clean, there = dense.clean, dense.attacks
        as_they_are = AttackOutcome("", "transfer", images, dense_clean, dense_clean)
        theirs = in_torch(adversaries, deployed=False)

        def beside(adversary: Adversary, ahead: AttackOutcome | None) -> AttackOutcome:
            return replace(_in_torch(adversary, there[adversary.label], ahead), belongs=_belonging(adversary, bench))

        dense_attacks = in_order(theirs, as_they_are, beside)
    return Outcomes(
        ids=bench.images.ids,
        images=bench.images.images,
        labels=bench.images.labels,
        board_clean=clean.labels,
        host_clean=found.clean,
        attacks=attacks,
        dense_clean=dense_clean,
        dense_attacks=dense_attacks,
        moved=int(clean.moved.sum()),
        restless=int(clean.restless.sum()),
        batch=bench.batch,
        scores=scores,
    )


def _belonging(adversary: Adversary, bench: Bench) -> Belonging | None:
    """Tell which replays there are of the test images; None of an attack that replays none."""
    if adversary.kind != "replay":
        return None
    replay: Any = adversary.gradient
    belongs: Belonging = replay.belonging(bench.images.images, bench.images.labels, bench.threat)
    return belongs


def _in_torch(adversary: Adversary, found: Found, ahead: AttackOutcome | None) -> AttackOutcome:
    """Tell of an attack on a net that runs in torch alone; all labels are that net's."""
    whole = adversary.whole.label if adversary.whole else ""
    told = adversary.label, adversary.kind, found.images, found.predictions, found.predictions
    return AttackOutcome(*told, substituted=found.substituted, ensemble=whole, ahead=ahead)
