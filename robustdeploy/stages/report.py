"""Report: everything that a run's evaluations found, judged and rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.files import atomic_write_json, sha256_of_file
from robustdeploy.core.records import BoardRecord, NetRecord, OnnxRecord
from robustdeploy.core.report import Report
from robustdeploy.core.settings import is_own, report_suffix
from robustdeploy.core.subject import subject_from
from robustdeploy.devices.profiles import profiles_beside
from robustdeploy.engine.evaluations import evaluations_in, evaluations_named, own_evaluations, unfinished
from robustdeploy.engine.lineage import behind, chain_problems, source
from robustdeploy.engine.manifest import FILE_NAME
from robustdeploy.engine.places import BOARDS, ENGINES, NETS, ONNX, evaluation_of, subject_of
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import check_finished, held, made_again, working
from robustdeploy.errors import ArtifactError
from robustdeploy.preflight import check_formats
from robustdeploy.report.against import judged_against
from robustdeploy.report.assemble import Measured, assemble
from robustdeploy.report.history import history_of
from robustdeploy.report.layer_times import layer_times
from robustdeploy.report.render import render
from robustdeploy.report.sides import Side

FORMATS = ("html", "md", "junit")


@dataclass(frozen=True)
class Written:
    """A judged report and the files that show it."""

    report: Report
    """With its rows, its rules and its verdict."""
    files: tuple[Path, ...]
    """``report.json``, then what shows it to people and to CI."""


def report(
    run: Run,
    targets: str | Sequence[str] = (),
    *,
    formats: Sequence[str] = FORMATS,
    lost: Mapping[str, str] = {},
    callback: Callback = SILENT,
) -> Written:
    """Assemble, judge and render one report of the run's evaluations.

    ``targets`` names them: targets, or one ``TARGET@LABEL`` for an evaluation under other settings. Left out, all of
    the recipe's own are told. A report of less than these has files of its own, and the report of all stays. ``lost``
    says of subjects that should be among them why they are not; rules on these are INCONCLUSIVE.
    """
    check_formats(formats)
    names = evaluations_named(run, [targets] if isinstance(targets, str) else targets)
    waiting = unfinished(run)
    # A target that was to be measured and was not must not vanish from a report of all.
    lost = lost or ({} if targets else waiting)
    with working(run):
        callback.begin(run.root, run.recipe)
        # The chain is checked before anything is written: a report on changed evidence would lend it a new date.
        check_finished(run.root, run.net_place)
        own = held(run, run.net_place, NetRecord)
        made = run.manifests()
        places = [place for name in names for place in _measured_as(run, name)]
        chain = tuple(dict.fromkeys(before for place in places for before in behind(place, made)))
        found = [_measured(run, place) for place in places]
        for place in chain:
            if place in run.places():  # the gate would not believe a report on anything less
                with made_again(run, place):
                    run.sealed(place)
        if problems := list(chain_problems(run.root, chain, made, run.recipe)):
            raise ArtifactError(*problems)
        told = assemble(run.name, run.recipe, own, found, made, lost, _untold(run, names, [*lost], [*waiting]))
        told = _held_against_baseline(told, run)
        told = told.model_copy(update={"history": history_of(run, told)})
        suffix = report_suffix(names, _all_targets(run, [each for each in waiting if each not in lost]))
        path = run.root / f"report{suffix}.json"
        # The JSON first: the renderings are made of it and may fail, while it alone is what is judged.
        atomic_write_json(path, told.model_dump(mode="json"))
        files = (path, *render(told, formats, run.root, suffix))
        # No manifest seals files at the top of a run; without this an edited report could not be told from a true one.
        run.enter_written({file: sha256_of_file(file) for file in files})
    callback.report(told, files)
    callback.say(f"report: {told.verdict.headline}, on {', '.join([*names, *lost])}")
    return Written(told, files)


def _held_against_baseline(told: Report, run: Run) -> Report:
    """Return a report as it is judged against the recipe's baseline, where it names one that a rule asks for."""
    path = run.recipe.gate_baseline
    if path is None or not any(rule.no_worse_than_baseline for rule in run.recipe.gate):
        return told
    return judged_against(Side(told, run.recipe, run.root), told.rules, path, run.root.parent)


def _all_targets(run: Run, unmeasured: Sequence[str]) -> list[str]:
    """Return the targets that the recipe's own settings were to be measured on, whether they were or not."""
    measured = [name for name in evaluations_in(run) if is_own(name)]
    return [*measured, *(subject_from(each).place for each in unmeasured)]


def _untold(run: Run, names: Sequence[str], lost: Sequence[str], waiting: Sequence[str]) -> list[str]:
    """Return the run's other targets, those that are still to be measured among them."""
    if not is_own(names[0]):
        return []
    left = [subject_from(each).place for each in waiting if each not in lost]
    return [each for each in (*own_evaluations(run), *left) if each not in names]


def _measured_as(run: Run, name: str) -> list[str]:
    """Return where the nets that were measured on a target lie, the run's own first."""
    paths = sorted((run.root / BOARDS).glob(f"*/*@{name}/{FILE_NAME}"))
    found = (path.parent.relative_to(run.root).as_posix() for path in paths)
    # The pattern also matches a label that is spelt as this target.
    places = [place for place in found if evaluation_of(place) == name]
    return sorted(places, key=lambda place: subject_of(place).net != run.net)


def _measured(run: Run, place: str) -> Measured:
    board = held(run, place, BoardRecord)
    net, export = source(board.manifest, NETS), source(board.manifest, ONNX)
    for each in (net, export):
        check_finished(run.root, each)
    subject, trained = subject_of(place), held(run, net, NetRecord)
    engine = source(board.manifest, ENGINES)
    with made_again(run, engine):
        built = run.sealed(engine).facts
    times = layer_times(
        profiles_beside(run.root.parent), subject, trained.folder, built["backend"], built["version"], built["identity"]
    )
    return Measured(subject, trained, held(run, export, OnnxRecord), board, times)
