"""``robustdeploy init``: a recipe, a target, a gate and a CI job for the user's own images and net."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from robustdeploy.cli.completion import complete_folder, complete_net, complete_target
from robustdeploy.cli.options import HOST, ForceOption, JsonOption
from robustdeploy.cli.result import show
from robustdeploy.cli.validate import check_file
from robustdeploy.core.files import atomic_write_text, make_folder, temporary_folder
from robustdeploy.core.load import load_target
from robustdeploy.core.recipe import Data
from robustdeploy.core.shipped import ci_folder
from robustdeploy.core.yaml_source import text_from_value
from robustdeploy.data.find import find_source, looking_once
from robustdeploy.data.images import Source
from robustdeploy.errors import RecipeError, UsageError

RECIPE, TARGET, GATES = Path("recipe.yaml"), Path("target.yaml"), Path("gates.yaml")
_TAIL = 0.025
_ATTACKS = [
    "fgsm",
    {"name": "pgd", "steps": 10},
    {"name": "pgd", "steps": 50, "restarts": 10},
    {"name": "pgd", "steps": 50, "restarts": 2, "loss": "margin"},
    {"name": "square", "queries": 1000},
]
"""As the recipes that ship: what a machine without a GPU can do for every change."""


class System(StrEnum):
    """The CI system that a job is written for."""

    github = "github"
    gitlab = "gitlab"
    jenkins = "jenkins"
    none = "none"


_JOBS = {
    System.github: ("github.yml", Path(".github/workflows/robustness.yml")),
    System.gitlab: ("gitlab-ci.yml", Path(".gitlab-ci.yml")),
    System.jenkins: ("Jenkinsfile", Path("Jenkinsfile")),
}
"""For each system its example, and where it reads the job."""
DataOption = Annotated[
    Optional[Path],  # noqa: UP045 - Typer reads it at run time
    typer.Option(
        "--data", help="Folder with train/<class>/… and test/<class>/… (or val).", autocompletion=complete_folder
    ),
]
NetOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--net", help="Net by name, or package.module:factory of yours.", autocompletion=complete_net),
]
BaseOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--target", "-t", help="Shipped target that yours extends.", autocompletion=complete_target),
]
NameOption = Annotated[Optional[str], typer.Option("--name", help="Name of the recipe.")]  # noqa: UP045
SizeOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--size", min=4, max=1024, help="Side in pixels that all images are resized to (data.size)."),
]
OpsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--ops-target", metavar="AMOUNT", help="Operations to keep: a fraction, or such as 12.2M."),
]
EpsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--eps", help="Radius of the threat in pixels of [0, 1], such as 8/255."),
]
CiOption = Annotated[Optional[System], typer.Option("--ci", help="CI system to write a job for.")]  # noqa: UP045


def init(
    data: DataOption = None,
    net: NetOption = None,
    target: BaseOption = None,
    name: NameOption = None,
    size: SizeOption = None,
    ops_target: OpsOption = None,
    eps: EpsOption = None,
    ci: CiOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the files that your own images and net need.

    A recipe, a target, a gate and a CI job, into this folder.

    What is not given is asked for on a terminal, and elsewhere has its default; only --data must be given there. All
    files are checked before the first is written. A file that is there already is kept, unless --force replaces it.
    """
    asked = sys.stdin.isatty() and not as_json
    folder = data or _folder(asked)
    with looking_once():
        source = find_source(Data(name="folder", path=folder, size=size))
        chosen = {
            "name": _answer(name, "Name of the recipe", _name_of(folder), asked),
            "net": _answer(net, "Net (a name, or package.module:factory)", "resnet20", asked),
            "target": _answer(target, "Target that yours extends", HOST, asked),
            "ops": _answer(ops_target, "Operations to keep (fraction of the dense net's)", "0.5", asked),
            "eps": _answer(eps, "Radius of the threat, in pixels of [0, 1]", "8/255", asked),
        }
        system = System(_answer(ci, f"CI system ({', '.join(System)})", System.github.value, asked, _system))
        texts = _texts(chosen, folder, size, source, system)
        _refuse_overwriting(texts, force)
        _check(texts)
    for path, text in texts.items():
        make_folder(path.parent)
        atomic_write_text(path, text)
    commands = [
        f"robustdeploy validate {RECIPE} {TARGET} {GATES}",
        f"robustdeploy plan {RECIPE} --target {TARGET}",
        f"robustdeploy run {RECIPE} --target {TARGET}",
    ]
    shape = "×".join(map(str, source.image_shape))
    found = f"{folder}: {len(source.classes)} classes, {source.test_images:,} test images, {shape} (C×H×W)"
    lines = [found, *(f"{path} is written" for path in texts), "next:", *(f"  {each}" for each in commands)]
    lines.append("the gate's limits are a beginning: put in what your product needs, then judge with robustdeploy gate")
    show(lines, {"files": [str(path) for path in texts], "next": commands}, as_json)


def _folder(asked: bool) -> Path:
    if not asked:
        raise UsageError("init needs --data, a folder with train/<class>/… and test/<class>/… (or val/<class>/…)")
    return Path(typer.prompt("Folder of your images (train/<class>/…, test/<class>/…)", err=True))


def _answer(given: Any, question: str, default: str, asked: bool, checked: Callable[[str], str] | None = None) -> str:
    """Return what was given, or what is answered to a question, or the default where nobody can be asked."""
    if given is not None:
        return str(given)
    return str(typer.prompt(question, default=default, err=True, value_proc=checked)) if asked else default


def _system(text: str) -> str:
    if text not in list(System):
        raise typer.BadParameter(f"it is one of {', '.join(System)}")
    return text


def _name_of(folder: Path) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in folder.absolute().name)
    return kept.strip("._-").lower() or "mine"


def _texts(chosen: dict[str, str], folder: Path, size: int | None, source: Source, system: System) -> dict[Path, str]:
    """Return the whole text of each file, by the path that it is written to."""
    base = load_target(chosen["target"])
    target = f"{chosen['name']}-target"
    texts = {
        RECIPE: _recipe(chosen, folder, size, source.test_images),
        TARGET: text_from_value({"extends": chosen["target"], "name": target, "description": base.description}),
        GATES: (ci_folder() / "gates.yaml").read_text(encoding="utf-8"),
    }
    if system in _JOBS:
        example, path = _JOBS[system]
        texts[path] = (ci_folder() / example).read_text(encoding="utf-8")
    return texts


def _recipe(chosen: dict[str, str], folder: Path, size: int | None, test_images: int) -> str:
    # The exact interval of n right images has this lower bound; a limit above it could never be met.
    best = _TAIL ** (1 / max(1, test_images))

    def at_least(wanted: float) -> float:
        return min(wanted, int(100 * best) / 100)

    held = {"name": "folder", "path": str(folder), **({} if size is None else {"size": size})}
    rules = [
        {"id": "RD-OPS-01", "metric": "ops_fraction", "at_most": "budget"},
        {"id": "RD-ACC-01", "metric": "clean_accuracy", "at_least": at_least(0.8)},
        {"id": "RD-ROB-01", "metric": "robust_accuracy", "attack": "worst", "at_least": at_least(0.4)},
        {"id": "RD-AGR-01", "metric": "top1_agreement", "at_least": at_least(0.98)},
    ]
    parts = [
        f"# robustdeploy run {RECIPE} --target {TARGET}\n",
        text_from_value({"name": chosen["name"], "data": held, "net": chosen["net"]}),
        "# Pixels in [0, 1]: 8/255 is eight of 255 grey levels.\n",
        text_from_value({"threat": {"norm": "linf", "eps": chosen["eps"]}}),
        "# What is trained, for how long, and what of the dense net is kept.\n",
        text_from_value({"train": {"task": "fastat", "epochs": 30, "batch_size": 128}}),
        text_from_value({"budget": {"ops": _number(chosen["ops"])}}),
        "# What every build is attacked by; autoattack in place of square is stricter, and takes far longer.\n",
        text_from_value({"evaluate": {"attacks": _ATTACKS}}),
        "# Put in the limits that your product needs. Each is judged by the bound of its interval.\n",
        text_from_value({"gate": rules}),
    ]
    return "".join(parts)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # such as 30% or 12.2M, which the recipe reads itself


def _refuse_overwriting(texts: dict[Path, str], force: bool) -> None:
    there = [str(path) for path in texts if path.exists() or path.is_symlink()]
    if there and not force:
        raise UsageError(f"already here: {', '.join(there)}; --force replaces them, another folder keeps them")


def _check(texts: dict[Path, str]) -> None:
    """Hold the files against what `validate` asks before any of them is written."""
    with temporary_folder() as folder:
        for path in (TARGET, GATES, RECIPE):
            (folder / path).write_text(texts[path], encoding="utf-8")
            try:
                check_file(folder / path)
            except UsageError as error:
                told = (line.replace(f"{folder}/", "") for line in error.args)
                raise RecipeError(*(f"nothing is written, for {line}" for line in told)) from error
