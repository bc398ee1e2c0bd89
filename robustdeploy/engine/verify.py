"""Verify: hold what a run's folder has now against its ledger, its manifests and the stages before each stage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from robustdeploy.core.files import canonical_json, hash_or_reason, sha256_of_text
from robustdeploy.core.load import load_recipe
from robustdeploy.core.plain import plain
from robustdeploy.core.reading import read_json
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Report
from robustdeploy.core.yaml_source import source_from_file
from robustdeploy.engine.ledger import LEDGER, Ledger, Record, own_net
from robustdeploy.engine.lineage import behind, chain_problems, report_command, report_problems
from robustdeploy.engine.manifest import FILE_NAME, Manifest, read_manifest
from robustdeploy.engine.places import KINDS, kind_of, net_place
from robustdeploy.engine.seal import PARTS, place_problems, sealed_manifests
from robustdeploy.errors import ArtifactError, RecipeError

RECIPE = "recipe.yaml"
_REPORT = re.compile(r"(report|junit).*\.(json|html|md|xml)")
# What an interrupted stage goes on from, and what a kill leaves of a file that was being written.
_RESUMED = {"checkpoints", PARTS}
_HALF_WRITTEN = re.compile(r"\..*\.[0-9a-f]{8}(\.\w+)?")


@dataclass(frozen=True)
class Held:
    """What a run's folder holds now."""

    root: Path
    records: Sequence[Record]
    recipe: Recipe | None
    """The run's own recipe; None where it cannot be read."""
    recipes: frozenset[str]
    """SHA-256 of the recipe as a report may have it: as it is written, and with fields that came later."""
    made: Mapping[str, Manifest]
    """The manifests of the finished stages, by folder."""

    @property
    def net(self) -> str:
        """Where the run's own net lies."""
        return net_place(own_net(self.records))

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the manifests as they are now, by path in the run."""
        paths = {f"{place}/{FILE_NAME}": self.root / place / FILE_NAME for place in self.made}
        return {name: hash_or_reason(path) for name, path in paths.items() if path.is_file()}

    @property
    def written(self) -> dict[str, str]:
        """SHA-256 of the reports and their renderings, by file name, as the ledger has them."""
        found: dict[str, str] = {}
        for record in self.records:
            # A chain that fits says nothing about its fields: who forges a ledger computes the hashes anew.
            files = record.data.get("files") if record.event == "written" else None
            found |= {str(name): str(mark) for name, mark in files.items()} if isinstance(files, dict) else {}
        return found


def held_by(root: Path) -> Held:
    """Read what a run holds. A ledger that is broken or empty is an ArtifactError; other damage is told later."""
    ledger = Ledger(root / LEDGER)
    records = ledger.records()
    if not records:
        raise ArtifactError(f"{ledger.path} is missing or empty, so nothing in this run can be believed; put it back")
    made = {}
    for place in sealed_manifests(records):
        if kind_of(place) not in KINDS:  # of an earlier version: nothing reads it any more
            continue
        try:
            made[place] = read_manifest(root / place)
        # Told below by its seal, with the reason, together with all that depends on it.
        except ArtifactError:
            continue
    recipe, marks = None, []
    try:
        # Without registries: whoever checks a run may not have the plug-ins it was made with, nor should import them.
        recipe = load_recipe(root / RECIPE, registries=None)
        raw = source_from_file(root / RECIPE, RECIPE).data
        marks = [sha256_of_text(canonical_json(each)) for each in (plain(recipe), raw)]
    except (RecipeError, OSError, ValueError):
        pass
    return Held(root, records, recipe, frozenset(marks), made)


def verify_run(root: Path) -> list[str]:
    """Check all that a run holds; return one sentence per problem.

    That is the ledger's chain, the recipe, every manifest and output, the reports, what was added, and whether each
    stage was made from what the stages before it hold now.
    """
    try:
        held = held_by(root)
    except ArtifactError as error:
        return [str(error)]
    problems = [*_recipe_problems(held), *written_problems(held)]
    sealed = sealed_manifests(held.records)
    # A folder may be missing on either side: removed from the run, or added without the ledger's knowledge.
    found = {path.parent.relative_to(root).as_posix() for path in root.rglob(FILE_NAME)}
    for place in sorted(found | set(sealed)):
        problems += place_problems(root, place, sealed.get(place))
    problems += _additions(held)
    if held.recipe is not None:
        problems += chain_problems(root, sorted(held.made), held.made, held.recipe)
    for path in sorted(root.glob("report*.json")):
        problems += _report_file_problems(held, path)
    return list(dict.fromkeys(problems))


def evidence_problems(held: Held, report: Report, name: str) -> list[str]:
    """Say why a report of this run, a file of this name, cannot be believed now: the recipe, all that it rests on."""
    evaluations = [each.evaluation for each in report.deployed if each.evaluation]
    places = tuple(dict.fromkeys([held.net, *(place for each in evaluations for place in behind(each, held.made))]))
    sealed = sealed_manifests(held.records)
    problems = list(_recipe_problems(held))
    for place in places:
        if place in sealed:
            problems += place_problems(held.root, place, sealed[place])
    if held.recipe is not None:
        problems += chain_problems(held.root, places, held.made, held.recipe)
    return list(dict.fromkeys([*problems, *_subject_problems(held, report, name)]))


def _recipe_problems(held: Held) -> Iterator[str]:
    path = held.root / RECIPE
    if not path.is_file():
        yield f"{path} is missing"
        return
    known = [record.data.get("sha256") for record in held.records if record.event == "recipe"]
    # The last entry counts: as long as its net is not trained, a run may get another recipe.
    if hash_or_reason(path) not in known[-1:]:
        yield f"{path} was changed after it was entered in the ledger"
    elif held.recipe is None:
        yield f"{path} cannot be read as a recipe by this version"


def written_problems(held: Held, only: str | None = None) -> list[str]:
    """Compare reports and renderings with the ledger; one that was removed is no problem, one it does not name is."""
    problems, written = [], held.written
    present = {path.name for path in held.root.iterdir() if _REPORT.fullmatch(path.name) or path.name in written}
    for name in sorted(present if only is None else present & {only}):
        path, expected = held.root / name, written.get(name)
        if not path.is_file():
            problems.append(f"{path} is no file")
        elif expected is None:
            how = f"it was added, its writing was interrupted, or {LEDGER} was cut or replaced"
            problems.append(f"{path} is not in the ledger: {how}")
        elif (actual := hash_or_reason(path)) != expected:
            problems.append(f"{path} was changed: SHA-256 is {actual[:12]}, the ledger has {expected[:12]}")
    return problems


def _report_file_problems(held: Held, path: Path) -> list[str]:
    if not path.is_file():
        return []  # told already
    try:
        return _subject_problems(held, Report.model_validate(read_json(path)), path.name)
    except (ArtifactError, ValidationError) as error:
        again = f"`{report_command(held.root, path.name)}` writes it again"
        return [f"{path} cannot be read as a report ({type(error).__name__}); {again}"]


def _subject_problems(held: Held, report: Report, name: str) -> list[str]:
    again = report_command(held.root, name)
    return report_problems(held.root, report, held.made, held.net, held.recipes, held.files, again)


def _additions(held: Held) -> Iterator[str]:
    """Files that no manifest names in the folders of finished stages, and links, whose content may change unseen."""
    for path in sorted(held.root.rglob("*")):
        if path.is_symlink():
            yield f"{path} is a link; a run holds its own files, so put the file itself there"
    for place, manifest in held.made.items():
        folder = held.root / place
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            # A file that nobody sealed would travel with the evidence and be taken for a part of it.
            known = name.as_posix() in manifest.outputs or name.as_posix() == FILE_NAME
            left = name.parts[0] in _RESUMED or _HALF_WRITTEN.fullmatch(name.name)
            if path.is_file() and not path.is_symlink() and not known and not left:
                yield f"{path} was added: the manifest of {place} does not name it"
