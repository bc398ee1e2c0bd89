"""Lineage: whether each stage of a run, and its report, was made from what the stages before it hold now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from robustdeploy.core.asked import DEFAULT_RUNS
from robustdeploy.core.given import RUN_FILES
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Report, SubjectEvidence
from robustdeploy.core.settings import DEVICE, as_options, overrides, target_of
from robustdeploy.engine.manifest import FILE_NAME, Manifest

ATTACKS, FOUND = "attacks", "attacks.npz"
Manifests = Mapping[str, Manifest]
"""The manifests of the finished stages by their folders in the run, e.g. ``export/host-cpu``."""


def sources_of(place: str) -> dict[str, tuple[str, str]]:
    """Return what a stage reads of other stages: by the input's name, the folder and the output in it."""
    kind, _, name = place.partition("/")
    if kind == "export":
        return {output: ("train", output) for output in ("model.safetensors", "net.json", "held_out.npz")}
    if kind == DEVICE:
        export = f"export/{target_of(name)}"
        return {
            "net": ("train", "model.safetensors"),
            "prints": ("train", "prints.npz"),
            "onnx": (export, "model.onnx"),
        }
    if kind == ATTACKS:
        return {"net": ("train", "model.safetensors"), "dense": ("dense", "model.safetensors")}
    return {}


def attacks_behind(evaluation: Manifest) -> tuple[str, ...]:
    """Return the folders with what was found in torch and replayed in an evaluation."""
    return tuple(name for name in evaluation.inputs if name.startswith(f"{ATTACKS}/"))


def places_behind(evaluation: str, made: Manifests) -> tuple[str, ...]:
    """Return all folders that an evaluation rests on, those of the attacks that it replays among them."""
    *before, device = behind(evaluation)
    return (*before, *(attacks_behind(made[device]) if device in made else ()), device)


def behind(evaluation: str) -> tuple[str, ...]:
    """Return the folders that an evaluation, by its name, and its report rest on, in the order they are made in."""
    return ("dense", "train", f"export/{target_of(evaluation)}", f"{DEVICE}/{evaluation}")


def stale(root: Path, place: str, made: Manifests, recipe: Recipe) -> list[str]:
    """Compare what the stage in ``place`` read with what is there now; one sentence says what to do, or none."""
    manifest, kind = made[place], place.partition("/")[0]
    found = []
    replayed = {name: (name, FOUND) for name in attacks_behind(manifest)}
    for name, (source, output) in {**sources_of(place), **replayed}.items():
        if name not in manifest.inputs:
            continue
        if source not in made:
            found.append(f"{source}/{output}, whose stage is not finished any more")
        elif made[source].outputs.get(output) != manifest.inputs[name]:
            found.append(f"another {source}/{output} than is there now")
    if kind == DEVICE and (export := f"export/{target_of(place.partition('/')[2])}") in made:
        ours, theirs = (each.parameters.get("target") for each in (manifest, made[export]))
        if ours is not None and theirs is not None and ours != theirs:
            found.append(f"another definition of its target than {export}")
    if not found:
        return []
    return [f"{root / place} is out of date: it was made from {'; '.join(found)}; {_again(root, place, made, recipe)}"]


def command_for(root: Path, place: str) -> str:
    """Return the command that makes the stage in ``place`` of the run at ``root``, whichever run is the latest."""
    kind, _, name = place.partition("/")
    if kind in ("train", "dense"):
        runs, own = root.parent, root.resolve().name
        where = "" if runs == DEFAULT_RUNS else f" --runs {quote(str(runs))}"
        return f"robustdeploy prune {quote(str(root / RUN_FILES[0]))} --name {own}{where}"
    target = f" --target {target_of(name)}" if kind in ("export", DEVICE) else ""
    return f"robustdeploy {'export' if kind == 'export' else 'evaluate'} {quote(str(root))}{target}"


def _again(root: Path, place: str, made: Manifests, recipe: Recipe) -> str:
    kind, _, name = place.partition("/")
    command = command_for(root, place)
    if kind == ATTACKS:
        return f"`{command}` finds it again"
    export = f"export/{target_of(name)}"
    if kind == DEVICE:
        command += as_options(overrides(recipe.evaluate, made[place].parameters.get("evaluate", {})))
        if export not in made or (export in made and stale(root, export, made, recipe)):
            command = f"{command_for(root, export)}` and `{command}"
    return f"`{command}` makes it again"


def report_problems(
    root: Path, report: Report, made: Manifests, recipes: Collection[str], files: Mapping[str, str]
) -> list[str]:
    """Compare what a report says that it is about with what is there now.

    ``recipes`` holds the SHA-256 that the run's recipe may have in it, ``files`` those of files by path.
    """
    asked = f" --target {named}" if (named := label_target(report)) else ""
    again = f"`robustdeploy report {root}{asked}` writes it again"
    if "train" not in made:
        return [f"the report is out of date: {root / 'train'} is not finished any more; {again}"]
    common: dict[str, str | None] = {
        "net": made["train"].outputs.get("model.safetensors"),
        "training manifest": files.get(f"train/{FILE_NAME}"),
    }
    if recipes and report.sha256.get("recipe") not in recipes:
        common["recipe"] = None
    told = [_out_of_date("", report.sha256, common)]
    told += [_evidence_problem(root, each, made, files) for each in report.deployed if each.evaluation]
    return [f"{problem}; {again}" for problem in dict.fromkeys(told) if problem]


def label_target(report: Report) -> str:
    """Return what names the report among those of a run: nothing for the recipe's own evaluation."""
    evaluations = [each.evaluation.partition("/")[2] for each in report.deployed if each.evaluation]
    return evaluations[0] if report.label and evaluations else ""


def _evidence_problem(root: Path, evidence: SubjectEvidence, made: Manifests, files: Mapping[str, str]) -> str:
    """Compare what a report says that a subject's numbers rest on with what is there now."""
    evaluation = evidence.evaluation.partition("/")[2]
    _, _, export, device = behind(evaluation)
    missing = [place for place in (export, device) if place not in made]
    if missing:
        return f"the report on {evaluation} is out of date: {root / missing[0]} is not finished any more"
    found = {
        "onnx": made[export].outputs.get("model.onnx"),
        "bundle": made[export].outputs.get("bundle.zip"),
        "agent": made[device].inputs.get("agent"),  # built anew for each evaluation, of what is installed then
        "engine": made[device].facts.get("engine"),
        "outcomes": made[device].outputs.get("outcomes.npz"),
        "export manifest": files.get(f"{export}/{FILE_NAME}"),
        "evaluation manifest": files.get(f"{device}/{FILE_NAME}"),
    }
    return _out_of_date(f" on {evaluation}", evidence.sha256, found)


def _out_of_date(on: str, held: Mapping[str, str], found: Mapping[str, str | None]) -> str:
    other = [name for name, now in found.items() if name in held and held[name] != now]
    return f"the report{on} is out of date: it is about another {', '.join(other)} than is there now" if other else ""


def chain_problems(root: Path, places: Sequence[str], made: Manifests, recipe: Recipe) -> Iterator[str]:
    """Say of every one of ``places`` that is finished whether it is out of date, and how to mend it."""
    for place in places:
        if place in made:
            yield from stale(root, place, made, recipe)
    if {"dense", "train"} <= made.keys():
        ours, theirs = (made[place].inputs.get("images") for place in ("train", "dense"))
        if ours != theirs:
            yield f"{root / 'dense'} is out of date: train has other images; run `{command_for(root, 'dense')}`"
