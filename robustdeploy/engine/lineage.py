"""Lineage: whether each stage of a run, and its report, was made from what the stages before it hold now.

A manifest names what its stage read of others by the files' paths in the run, so no list of who reads whom is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from robustdeploy.core.asked import DEFAULT_RUNS
from robustdeploy.core.given import RUN_FILES
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Override, Report, SubjectEvidence
from robustdeploy.core.settings import as_options, evaluations_of, is_own, overrides, target_of
from robustdeploy.core.subject import FP32, IMPORTED, Subject
from robustdeploy.engine.manifest import FILE_NAME, Manifest
from robustdeploy.engine.places import (
    ATTACKS,
    BOARDS,
    ENGINES,
    NETS,
    ONNX,
    evaluation_of,
    kind_of,
    net_place,
    place_of,
    precision_of,
    subject_of,
)

Manifests = Mapping[str, Manifest]
"""The manifests of the finished stages by their folders in the run, e.g. ``onnx/pruned/fp32``."""


def read_by(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """Yield what a stage read of others: the place, the file in it, and the SHA-256 that it had."""
    for name, sha256 in manifest.inputs.items():
        if place := place_of(name):
            yield place, name.removeprefix(f"{place}/"), sha256


def sources_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the places that a stage read from."""
    return tuple(dict.fromkeys(place for place, _, _ in read_by(manifest)))


def source(manifest: Manifest, kind: str) -> str:
    """Return the first place of a kind that a stage read from; nothing where there is none."""
    return next((place for place in sources_of(manifest) if kind_of(place) == kind), "")


def behind(place: str, made: Manifests) -> tuple[str, ...]:
    """Return all places that the one in ``place`` rests on, in the order they are made in, and itself."""
    found: dict[str, None] = {}

    def visit(each: str) -> None:
        if each in made and each not in found:
            for before in sources_of(made[each]):
                visit(before)
        found.setdefault(each)

    visit(place)
    return tuple(found)


def stale(root: Path, place: str, made: Manifests, recipe: Recipe) -> list[str]:
    """Compare what the stage in ``place`` read with what is there now; one sentence says what to do, or none."""
    found = []
    for before, output, sha256 in read_by(made[place]):
        if before not in made:
            found.append(f"{before}/{output}, whose stage is not finished any more")
        elif made[before].outputs.get(output) != sha256:
            found.append(f"another {before}/{output} than is there now")
    # A target may change without changing a byte of any file, e.g. in its latency plan. Hashes of files miss that.
    if kind_of(place) == BOARDS:
        newest = newest_on(subject_of(place).place, made)
        if made[place].parameters.get("target") != made[newest].parameters.get("target"):
            found.append(f"another definition of its target than {newest}")
    if kind_of(place) == BOARDS and is_own(evaluation_of(place)) and (changed := _overrides(made[place], recipe)):
        found.append(f"other settings than the recipe's ({'; '.join(map(str, changed))})")
    if not found:
        return []
    return [f"{root / place} is out of date: it was made from {'; '.join(found)}; {_again(root, place, made, recipe)}"]


def newest_on(target: str, made: Manifests) -> str:
    """Return the place of what was measured last on a target, in any precision; nothing where nothing was."""
    there = (place for place in made if kind_of(place) == BOARDS and subject_of(place).place == target)
    return max(there, key=lambda place: made[place].started, default="")


def command_for(root: Path, place: str) -> str:
    """Return the command that makes the stage in ``place`` of the run at ``root``, whichever run is the latest."""
    kind = kind_of(place)
    # Where an imported net came from is not in the run, so the user has to name its folder.
    if place == net_place(IMPORTED):
        return f"robustdeploy evaluate FOLDER --recipe {quote(str(root / RUN_FILES[0]))}"
    if kind == NETS:
        runs, own = root.parent, root.resolve().name
        where = "" if runs == DEFAULT_RUNS else f" --runs {quote(str(runs))}"
        return f"robustdeploy prune {quote(str(root / RUN_FILES[0]))} --name {own}{where}"
    target = target_of(evaluation_of(place)) if kind in (ENGINES, BOARDS) else ""
    return _command("export" if kind == ONNX else "evaluate", root, target, precision_of(place))


def remedy(path: Path) -> str:
    """Return how a damaged file is had again: of a run, by a command that can be pasted; of others nothing is known."""
    root = next((folder for folder in path.parents if (folder / RUN_FILES[0]).is_file()), None)
    if root is None:
        return "put it back, or write it again"
    inside = path.relative_to(root).as_posix()
    if place := place_of(inside):
        return f"`{command_for(root, place)} --force` makes it again"
    return f"`{report_command(root, path.name)}` writes it again" if "/" not in inside else "put it back"


def export_command(root: Path, subject: Subject) -> str:
    """Return the command that makes the file of a subject as its target takes it."""
    return _command("export", root, subject.place, subject.precision)


def _command(verb: str, root: Path, target: str, precision: str) -> str:
    options = (f" --target {target}" if target else "") + (f" --precision {precision}" if precision != FP32 else "")
    return f"robustdeploy {verb} {quote(str(root))}{options}"


def _again(root: Path, place: str, made: Manifests, recipe: Recipe) -> str:
    kind, command = kind_of(place), command_for(root, place)
    if kind == ATTACKS:
        return f"`{command}` finds it again"
    if kind == BOARDS:
        command += "" if is_own(evaluation_of(place)) else as_options(_overrides(made[place], recipe))
        exported = [each for each in sources_of(made[place]) if kind_of(each) == ONNX]
        if any(each not in made or stale(root, each, made, recipe) for each in exported):
            command = f"{export_command(root, subject_of(place))}` and `{command}"
    return f"`{command}` makes it again"


def _overrides(evaluation: Manifest, recipe: Recipe) -> tuple[Override, ...]:
    return overrides(recipe.evaluate, evaluation.parameters.get("evaluate", {}))


def report_problems(
    root: Path,
    report: Report,
    made: Manifests,
    net: str,
    recipes: Collection[str],
    files: Mapping[str, str],
    command: str,
) -> list[str]:
    """Compare what a report says that it is about with what is there now; ``command`` writes it again.

    ``net`` is the place of the run's own net, ``recipes`` holds the SHA-256 that the run's recipe may have in it, and
    ``files`` those of files by path.
    """
    again = f"`{command}` writes it again"
    if net not in made:
        return [f"the report is out of date: {root / net} is not finished any more; {again}"]
    common: dict[str, str | None] = {
        "net": made[net].outputs.get("model.safetensors"),
        "training manifest": files.get(f"{net}/{FILE_NAME}"),
    }
    if recipes and report.sha256.get("recipe") not in recipes:
        # No hash equals None, so this is told as another recipe.
        common["recipe"] = None
    told = [_out_of_date("", report.sha256, common)]
    told += [_evidence_problem(root, each, made, files) for each in report.deployed if each.evaluation]
    return [f"{problem}; {again}" for problem in dict.fromkeys(told) if problem]


def report_command(root: Path, name: str) -> str:
    """Return the command that writes the report in the file ``name`` of a run."""
    return f"robustdeploy report {quote(str(root))}{''.join(f' --target {each}' for each in evaluations_of(name))}"


def label_target(report: Report) -> str:
    """Return what names the report among those of a run: nothing for the recipe's own evaluation."""
    evaluations = [evaluation_of(each.evaluation) for each in report.deployed if each.evaluation]
    return evaluations[0] if report.label and evaluations else ""


def evidence_sha256(evaluation: str, made: Manifests, files: Mapping[str, str]) -> dict[str, str | None]:
    """Return the SHA-256 of everything that the numbers of an evaluation are about, by what it is."""
    manifest = made[evaluation]
    kinds = {"export": ONNX, "engine": ENGINES}
    places = {name: source(manifest, kind) for name, kind in kinds.items()}
    return {
        "onnx": _output(made, places["export"], "model.onnx"),
        "engine": manifest.facts.get("engine"),
        "agent": manifest.inputs.get("agent"),  # built anew for each evaluation, of what is installed then
        "outcomes": manifest.outputs.get("outcomes.npz"),
        **{f"{name} manifest": files.get(f"{place}/{FILE_NAME}") for name, place in places.items()},
        "evaluation manifest": files.get(f"{evaluation}/{FILE_NAME}"),
    }


def _output(made: Manifests, place: str, name: str) -> str | None:
    return made[place].outputs.get(name) if place in made else None


def _evidence_problem(root: Path, evidence: SubjectEvidence, made: Manifests, files: Mapping[str, str]) -> str:
    """Compare what a report says that a subject's numbers rest on with what is there now."""
    place = evidence.evaluation
    missing = [each for each in behind(place, made) if each not in made]
    if missing:
        return f"the report on {evaluation_of(place)} is out of date: {root / missing[0]} is not finished any more"
    return _out_of_date(f" on {evaluation_of(place)}", evidence.sha256, evidence_sha256(place, made, files))


def _out_of_date(on: str, held: Mapping[str, str], found: Mapping[str, str | None]) -> str:
    other = [name for name, now in found.items() if name in held and held[name] != now]
    return f"the report{on} is out of date: it is about another {', '.join(other)} than is there now" if other else ""


def chain_problems(root: Path, places: Sequence[str], made: Manifests, recipe: Recipe) -> Iterator[str]:
    """Say of every one of ``places`` that is finished whether it is out of date, and how to mend it."""
    for place in places:
        if place in made:
            yield from stale(root, place, made, recipe)
    # Of different images, the two nets' difference would tell about the data and not about pruning.
    trained = {place: made[place].inputs.get("images") for place in made if kind_of(place) == NETS}
    for place, images in list(trained.items())[1:]:
        first = next(iter(trained))
        if images != trained[first]:
            yield f"{root / place} is out of date: {first} has other images; run `{command_for(root, place)}`"
