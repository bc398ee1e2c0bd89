"""Assemble ``report.json`` from the sealed stages of a run, and judge it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from robustdeploy.core.amount import absolute
from robustdeploy.core.files import canonical_json, sha256_of_file, sha256_of_text
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.plain import plain
from robustdeploy.core.reading import read_json
from robustdeploy.core.recipe import Budget, Recipe, Threat
from robustdeploy.core.records import BoardRecord, ChannelCount, NetRecord, OnnxRecord
from robustdeploy.core.report import (
    BudgetLine,
    Diagnostic,
    Figures,
    LayerTime,
    Measurement,
    Omission,
    Report,
    SubjectEvidence,
)
from robustdeploy.core.settings import label_in, overrides
from robustdeploy.core.subject import DENSE, Subject
from robustdeploy.cost import COUNTED
from robustdeploy.engine.ledger import utc_now
from robustdeploy.engine.lineage import Manifests, behind, evidence_sha256, remedy
from robustdeploy.engine.manifest import FILE_NAME, Manifest, producer
from robustdeploy.engine.places import board_place, evaluation_of
from robustdeploy.engine.stage import Finished
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.evidence import EvaluationRows, read_rows
from robustdeploy.report.builds import build_diagnostics
from robustdeploy.report.collapse import collapse_diagnostics
from robustdeploy.report.course import course_of, making_of
from robustdeploy.report.judge import judge
from robustdeploy.report.latency_budget import latency_budget_diagnostics
from robustdeploy.report.nonzero import nonzero_rows
from robustdeploy.report.omissions import omissions_of, skipped_row, untold_targets


@dataclass(frozen=True)
class Measured:
    """A subject that was measured, with the net and the ONNX file that it is of."""

    subject: Subject
    net: Finished[NetRecord]
    export: Finished[OnnxRecord]
    board: Finished[BoardRecord]
    layer_times: tuple[LayerTime, ...] = ()
    """By the profile of its target, where there is one."""


def assemble(
    name: str,
    recipe: Recipe,
    own: Finished[NetRecord],
    made: Sequence[Measured],
    made_now: Manifests,
    lost: Mapping[str, str] = {},
    untold: Sequence[str] = (),
) -> Report:
    """Put everything a report says together, of every subject; nothing is measured here.

    ``own`` is the run's own net, which must be among what was measured. ``made_now`` holds all manifests of the run,
    and ``lost`` says of subjects that should have been measured why they were not. With no subject there is nothing
    to tell: a UsageError. ``untold`` names targets that the run has and the report leaves out.
    """
    net = own.folder.name
    mine = [each for each in made if each.subject.net == net]
    if not mine:
        told = "; ".join(f"{subject}: {why}" for subject, why in lost.items())
        raise UsageError(f"no target was evaluated, so there is nothing to report{f' ({told})' if told else ''}")
    # Of the run's own net: the budget was its, and a dense net beside it was asked for none.
    budget = _budget(own.record, mine[0].export.record)
    nets = {each.subject.net for each in made}
    parts = [_part(recipe, each, made_now, nets) for each in made]
    measurements = tuple(_merged(row for part in parts for row in part.rows))
    diagnostics = (
        *_merged(diagnostic for part in parts for diagnostic in part.found.diagnostics),
        *collapse_diagnostics(own.record.events),
        *latency_budget_diagnostics(own.record.latency),
    )
    subjects = _subjects(parts, lost, measurements)
    diagnostics += tuple(build_diagnostics(subjects, measurements))
    omissions = (*(omission for part in parts for omission in part.omissions), *untold_targets(untold))
    last = mine[-1].board
    return Report(
        name=name,
        net=net,
        subjects=subjects,
        label=label_in(evaluation_of(parts[0].evidence.evaluation)),
        overrides=overrides(recipe.evaluate, last.manifest.parameters.get("evaluate", {})),
        # The only value that differs between two reports of one version on the same evidence.
        created=utc_now().isoformat(timespec="seconds"),
        producer=producer(),
        making=making_of(recipe, own),
        data={**own.record.data, "test": last.record.n, **last.record.reading},
        sha256=_common(recipe, own),
        **_balls(last.manifest, recipe),
        budget=budget,
        measurements=measurements,
        diagnostics=diagnostics,
        omissions=omissions,
        figures=_figures(own, made, parts, parts[made.index(mine[0])]),
        rules=recipe.gate,
        # Judged here and again by whoever loads the report: a pure function of what stands in it.
        verdict=judge(measurements, diagnostics, recipe.gate, omissions, subjects, net),
    )


def _figures(own: Finished[NetRecord], made: Sequence[Measured], parts: Sequence[_Part], its_part: _Part) -> Figures:
    """Collect what is drawn; ``its_part`` is the run's own net's, whose samples are shown."""
    return Figures(
        channels=own.record.channels,
        **{name: _of_all(parts, name) for name in ("latency", "dense_latency", "answers")},
        course=course_of(own),
        samples=its_part.found.figures.samples,
        layer_times={str(each.subject): each.layer_times for each in made if each.layer_times},
    )


def _of_all(parts: Sequence[_Part], name: str) -> dict[str, Any]:
    """Merge what each target's evaluation has to be drawn, by subject."""
    return {subject: drawn for part in parts for subject, drawn in getattr(part.found.figures, name).items()}


def _subjects(
    parts: Sequence[_Part], lost: Mapping[str, str], rows: Sequence[Measurement]
) -> tuple[SubjectEvidence, ...]:
    """Return all subjects: those on targets, lost ones among them, then those that are told of beside them."""
    deployed = [part.evidence for part in parts]
    deployed += [SubjectEvidence(subject=subject, lost=why) for subject, why in lost.items()]
    measured = {each.subject for each in deployed}
    others = [row.subject for row in rows if row.subject not in measured]
    return (*deployed, *(SubjectEvidence(subject=each) for each in dict.fromkeys(others)))


@dataclass(frozen=True)
class _Part:
    """What one target adds to the report."""

    found: EvaluationRows
    rows: tuple[Measurement, ...]
    omissions: tuple[Omission, ...]
    evidence: SubjectEvidence


def _part(recipe: Recipe, made: Measured, made_now: Manifests, nets: Collection[str]) -> _Part:
    board, export, subject = made.board, made.export.record, made.subject
    found = read_rows(board.folder / "rows.json")
    budget = _budget(made.net.record, export)
    costs = (
        *_cost_rows(budget, subject),
        *_units_rows(made.net.record.channels, subject),
        *nonzero_rows(export.zeros, budget, subject),
    )
    removes = made.net.record.removes_channels
    # The budget is what the run's own net was pruned to; a dense net beside it was asked for nothing.
    wanted = Budget() if subject.net == DENSE else recipe.budget
    # Costs are added here, since they are known of the net and are the same on every target.
    rows = (*found.measurements, *(_with_limit(row, wanted, budget, removes) for row in costs))
    used = board.manifest.parameters
    changed = overrides(recipe.evaluate, used.get("evaluate", {}))
    omissions = tuple(
        omission.model_copy(update={"subject": str(subject)})
        for omission in omissions_of(recipe, made.net.record, used, rows, changed, board.record.reading, nets)
    )
    place = board_place(subject, label_in(board.folder.name.partition("@")[2]))
    hashes = evidence_sha256(place, made_now, _manifest_hashes(made_now, place, board.folder))
    evidence = SubjectEvidence(
        subject=str(subject),
        evaluation=place,
        sha256={name: sha256 for name, sha256 in hashes.items() if sha256 is not None},
        board=_mapping(board.folder / "facts.json"),
    )
    return _Part(found, (*rows, skipped_row(omissions, subject)), omissions, evidence)


def _manifest_hashes(made: Manifests, place: str, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the manifests that an evaluation rests on, by path in the run."""
    root = folder.parents[2]
    return {f"{each}/{FILE_NAME}": sha256_of_file(root / each / FILE_NAME) for each in behind(place, made)}


_Told = TypeVar("_Told", Measurement, Diagnostic)


def _merged(rows: Iterable[_Told]) -> Iterator[_Told]:
    """Leave out what several targets' evaluations found alike of the host's nets."""
    told: set[str] = set()
    for row in rows:
        content = canonical_json(row.model_dump(mode="json"))
        # To the letter: rows that differ in any condition are different rows, and both stay.
        if content not in told:
            told.add(content)
            yield row


def _balls(evaluation: Manifest, recipe: Recipe) -> dict[str, Any]:
    """Return the ball that an evaluation attacked in, and that which nets are trained for where it is another."""
    told = evaluation.parameters.get("threat")
    threat = Threat(**told) if told else recipe.attacked_within
    return {"threat": threat, "trained_within": None if recipe.threat == threat else recipe.threat}


def _budget(net: NetRecord, export: OnnxRecord) -> BudgetLine:
    names = [name for name in BudgetLine.model_fields if name != "counts"]
    return BudgetLine(**{name: getattr(net, name) for name in names}, counts=export.counts)


def _cost_rows(budget: BudgetLine, subject: Subject) -> Iterator[Measurement]:
    """Return what the compact net costs, as numbers and as fractions of the dense net's, so that rules can bound it."""
    yield from _cost_pair(subject, "ops", "MACs", COUNTED, budget.macs, budget.dense_macs)
    yield from _cost_pair(subject, "params", "params", "all parameters of the net", budget.params, budget.dense_params)
    if budget.memory_bytes is not None and budget.dense_memory_bytes is not None:
        counts = "feature maps that exist at once, in float32 for one image, as the net's layers run in order"
        yield from _cost_pair(
            subject, "activation_memory", "bytes", counts, budget.memory_bytes, budget.dense_memory_bytes
        )


def _units_rows(channels: Sequence[ChannelCount], subject: Subject) -> Iterator[Measurement]:
    """Return which share of the units is left; nothing where none was counted, or none can go."""
    # The last layer gives the scores, and keeps one for each class.
    inner = channels[:-1]
    if dense := sum(each.dense for each in inner):
        kept = sum(each.kept for each in inner)
        counts = "channels of convolutions and units of linear layers, without the last layer's"
        conditions = {"exact": True, "counts": counts, "units": kept, "dense_units": dense}
        name, unit = "units_fraction", "fraction"
        yield Measurement(metric=name, subject=str(subject), value=kept / dense, unit=unit, n=1, conditions=conditions)


def _cost_pair(
    subject: Subject, metric: str, unit: str, counts: str, compact: int, dense: int
) -> Iterator[Measurement]:
    if not dense:  # of a file of others, whose operations could not be counted, or that has no weights
        return
    for name, value, its in ((metric, compact, unit), (f"{metric}_fraction", compact / dense, "fraction")):
        conditions = {"exact": True, "counts": counts, unit.lower(): compact, f"dense_{unit.lower()}": dense}
        yield Measurement(metric=name, subject=str(subject), value=value, unit=its, n=1, conditions=conditions)


def _with_limit(row: Measurement, wanted: Budget, found: BudgetLine, removes_channels: bool) -> Measurement:
    """Note on a cost what the budget allows of it. Where no channel is removed, the budget is for what is not zero."""
    metric = METRICS[row.metric]
    # A net that no budget asks to prune is held against its own dense cost.
    amount = wanted.amounts.get(str(metric.limited_by)) if wanted.amounts else 1.0
    counts_zeros = not row.metric.startswith("nonzero_")
    # Where weights are masked and no channel goes, the dense costs stay, and the budget is on what is not zero.
    if metric.limited_by is None or amount is None or counts_zeros != removes_channels:
        return row
    dense = {"ops": found.dense_macs, "params": found.dense_params, "memory": found.dense_memory_bytes or 0}
    whole = dense[str(metric.limited_by)]
    # A fraction stays the number that was given: over and back again it might end a digit lower.
    share = amount if amount <= 1 else amount / whole
    limit = share if metric.unit == "fraction" else absolute(amount, whole)
    return row.model_copy(update={"conditions": {**row.conditions, "budget": limit}})


def _common(recipe: Recipe, own: Finished[NetRecord]) -> dict[str, str]:
    return {
        "recipe": sha256_of_text(canonical_json(plain(recipe))),
        "net": own.artifact("model.safetensors").sha256,
        "training manifest": sha256_of_file(own.manifest_path),
    }


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; {remedy(path)}") from problem


def _mapping(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} holds no facts by name, so it was edited; {remedy(path)}")
    return found
