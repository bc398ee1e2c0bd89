"""Found: what a finished row is known by, read from its run alone: report, manifests and outcomes per image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from robustdeploy.comparing.folder import TableFolder
from robustdeploy.comparing.rows import RowRun
from robustdeploy.core.comparison import PRETRAIN
from robustdeploy.core.gate import Credibility, SubjectCredibility
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.records import NetRecord, OnnxRecord
from robustdeploy.core.report import Measurement, Report
from robustdeploy.core.subject import selects, subject_from
from robustdeploy.engine.places import net_place, onnx_place
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import held
from robustdeploy.errors import ArtifactError, RobustdeployError
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.evaluate.paired import CLEAN, WORST, array_in, parts_in, read_outcomes, right_in
from robustdeploy.report.credibility import credibility_of
from robustdeploy.series.series import report_in


@dataclass(frozen=True)
class Spent:
    """What a row's trainings cost together, those that it begins with among them."""

    passes: float | None
    """Images sent forward and back, half of the sum of both; None where a training did not record them."""
    seconds: float | None
    phases: str
    """Epochs, one training after the other; ``s`` marks scores alone, ``w`` weights alone."""
    search: float = 0.0
    """Passes beside those, of what a pruner searched before it trained scores."""


@dataclass(frozen=True)
class Found:
    """One finished run of a row."""

    run: RowRun
    report: Report
    record: NetRecord
    subject: str
    measured: Mapping[str, Measurement]
    """By attack; ``clean`` and ``worst`` beside them."""
    right: Mapping[str, Bits]
    """By the same names: one bit per test image, still labelled right."""
    test_images: str
    """Digest of which test images these are, and of their labels."""
    file_kib: float
    """Of the exported file."""
    nonzero_macs: int
    nonzero_params: int
    spent: Spent
    p50: Measurement | None
    """Median latency, where the net is smaller; zeros save a dense runtime nothing."""
    distances: Mapping[str, Measurement] = field(default_factory=dict)
    """Mean distances to a wrong image, in torch, by label; empty where none was asked for."""
    vulnerability: Mapping[str, Measurement] = field(default_factory=dict)
    """How far attacks move latent features, in torch, by attack; empty where that was not asked for."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Labels of the attacks, without the worst case over them."""
        return tuple(name for name in self.measured if name not in (CLEAN, WORST))

    @property
    def credibility(self) -> SubjectCredibility | None:
        """How far its robust accuracies can be believed; None where it has none."""
        return credibility_of(self.subject, self.report.measurements, self.report.diagnostics)

    @property
    def flags(self) -> tuple[str, ...]:
        """What the checks of the evaluation say against them; empty where that is nothing, or does not matter."""
        its = self.credibility
        if its is None or its.credibility is Credibility.CREDIBLE:
            return ()
        return tuple(dict.fromkeys(f"{each.level}: {each.check}" for each in its.doubts))


def found_of(folder: TableFolder, run: RowRun) -> Found | str:
    """Read a row's run; a text says why there is nothing to show."""
    report, why = report_in(folder.root / run.name, folder.root)
    if report is None:
        return why
    try:
        return _read(folder, run, report)
    except RobustdeployError as error:
        return error.args[0] if error.args else type(error).__name__


def _read(folder: TableFolder, run: RowRun, report: Report) -> Found:
    opened = Run.open(folder.root / run.name, folder.root)
    record = held(opened, opened.net_place, NetRecord).record
    evidence = next((each for each in report.deployed if selects(None, each.subject, report.net)), None)
    if evidence is None or evidence.lost:
        raise ArtifactError(evidence.lost if evidence else f"{opened.root} was measured on no target")
    path = opened.root / evidence.evaluation / "outcomes.npz"
    arrays = read_outcomes(path)
    ids = array_in(arrays, "ids", str(path))
    onnx = held(opened, onnx_place(report.net, "fp32", folder.target.opset), OnnxRecord)
    measured = dict(_measured(report, evidence.subject))
    zeros = onnx.record.zeros
    return Found(
        run=run,
        report=report,
        record=record,
        subject=evidence.subject,
        measured=measured,
        distances=_in_torch(report, "distances"),
        vulnerability=_in_torch(report, "features"),
        right=right_in(arrays, parts_in(report.measurements, evidence.subject), str(path)),
        test_images=hashlib.sha256(ids.tobytes() + arrays["labels"].tobytes()).hexdigest(),
        file_kib=(onnx.folder / "model.onnx").stat().st_size / 1024,
        nonzero_macs=record.macs if zeros is None else zeros.nonzero_macs,
        nonzero_params=record.params if zeros is None else zeros.nonzero_params,
        spent=_spent(folder, run, record),
        p50=_p50(report, evidence.subject) if record.removes_channels else None,
    )


def _measured(report: Report, subject: str) -> Iterator[tuple[str, Measurement]]:
    for row in report.measurements:
        if row.subject == subject and row.metric == "clean_accuracy":
            yield CLEAN, row
        if row.subject == subject and row.metric == "robust_accuracy":
            yield str(row.attack), row


def _in_torch(report: Report, support: str) -> dict[str, Measurement]:
    """Return the rows of the run's own net of which n counts what ``support`` says, by attack."""
    rows = (row for row in report.measurements if row.metric in METRICS and METRICS[row.metric].support == support)
    return {str(row.attack): row for row in rows if subject_from(row.subject).net == report.net}


def _spent(folder: TableFolder, run: RowRun, own: NetRecord) -> Spent:
    before = [folder.run(name) for name in run.needs]
    records = [*(_record_of(folder, each) for each in before), own]
    passes = [None if each.passes is None else (each.passes.forward + each.passes.backward) / 2 for each in records]
    searched = [each.search.passes for each in records if each.search is not None]
    seconds = [each.seconds for each in records]
    return Spent(
        passes=None if None in passes else sum(each for each in passes if each is not None),
        seconds=None if None in seconds else sum(each for each in seconds if each is not None),
        phases=" + ".join(_phases(each) for each in (*before, run)),
        search=sum((each.forward + each.backward) / 2 for each in searched),
    )


def _record_of(folder: TableFolder, run: RowRun) -> NetRecord:
    return held(Run.open(folder.root / run.name, folder.root), net_place(run.net), NetRecord).record


def _phases(run: RowRun) -> str:
    train = run.recipe.train
    marks = {"both": "", "scores": "s", "weights": "w"}
    told = [f"{train.epochs if each.epochs is None else each.epochs}{marks[each.train]}" for each in train.phases]
    return ("pretrain " if run.row == PRETRAIN else "") + (" + ".join(told) or str(train.epochs))


def _p50(report: Report, subject: str) -> Measurement | None:
    rows = (row for row in report.measurements if row.metric == "latency_ms.p50" and row.subject == subject)
    return next(rows, None)
