"""Report: everything that a run's evaluations found, judged and rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.files import atomic_write_json, sha256_of_file
from robustdeploy.core.report import Report
from robustdeploy.core.settings import DEVICE, report_suffix, target_of
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.engine.evaluations import evaluations_named, unfinished
from robustdeploy.engine.lineage import places_behind
from robustdeploy.engine.run import Run
from robustdeploy.preflight import check_formats
from robustdeploy.report.assemble import Measured, assemble
from robustdeploy.report.render import render
from robustdeploy.stages.sealing import check_up_to_date, sealed_stage, working

FORMATS = ("html", "md", "junit")


@dataclass(frozen=True)
class Written:
    """A judged report and the files that show it."""

    report: Report
    files: tuple[Path, ...]


def report(
    run: Run,
    targets: str | Sequence[str] = (),
    *,
    formats: Sequence[str] = FORMATS,
    lost: Mapping[str, str] = {},
    talk: Talk = SILENCE,
) -> Written:
    """Assemble, judge and render one report of the run's evaluations.

    ``targets`` names them: targets, or one ``TARGET@LABEL`` for an evaluation under other settings, whose files stand
    beside those of the recipe's own. Left out, all of the recipe's own are told. ``lost`` says of targets that should
    be among them why they are not; rules on these are INCONCLUSIVE.
    """
    check_formats(formats)
    names = evaluations_named(run, [targets] if isinstance(targets, str) else targets)
    lost = lost or ({} if targets else unfinished(run))
    with working(run):
        talk.begin(run.root, run.recipe)
        train = sealed_stage(run, "train")
        made = [_measured(run, name) for name in names]
        check_up_to_date(run, *dict.fromkeys(place for name in names for place in places_behind(name, run.manifests())))
        told = assemble(run.name, run.recipe, train, made, lost)
        suffix = report_suffix(names[0])
        path = run.root / f"report{suffix}.json"
        atomic_write_json(path, told.model_dump(mode="json"))
        files = (path, *render(told, formats, run.root, suffix))
        run.enter_written({file: sha256_of_file(file) for file in files})
    talk.report(told, files)
    talk.say(f"report: {told.verdict.headline}, on {', '.join([*names, *lost])}")
    return Written(told, files)


def _measured(run: Run, name: str) -> Measured:
    goal = target_of(name)
    return Measured(goal, sealed_stage(run, f"export/{goal}"), sealed_stage(run, f"{DEVICE}/{name}"))
