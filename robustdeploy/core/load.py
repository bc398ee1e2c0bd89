"""Load what users write, by name or path; what is wrong with it is told at once, with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from robustdeploy.core.builds import build_in, build_of
from robustdeploy.core.comparison import Comparison
from robustdeploy.core.complaint import Place, booleans_lost, complaint, did_you_mean
from robustdeploy.core.corruptions import listed_corruptions
from robustdeploy.core.ensembles import listed
from robustdeploy.core.gate import Rule
from robustdeploy.core.norms import norm_problems
from robustdeploy.core.override import apply_override
from robustdeploy.core.patches import listed_patches
from robustdeploy.core.plain import plain, value_at
from robustdeploy.core.plug_in_fields import PlugInField, plug_in_places
from robustdeploy.core.published import Published
from robustdeploy.core.recipe import ONE, SEVERAL, Choice, PlugIn, Recipe
from robustdeploy.core.registry import REGISTRIES, Registry
from robustdeploy.core.rules import Prospect, contradictions, meaning_problems, unmet_problems
from robustdeploy.core.shipped import PUBLISHED, ShippedKind, shipped_folder, shipped_names
from robustdeploy.core.target import Target
from robustdeploy.core.threat_preset import ThreatPreset, laid_over
from robustdeploy.core.traits import traits_of
from robustdeploy.core.yaml_source import Problem, Source, source_from_file, text_from_value
from robustdeploy.errors import RecipeError

N = TypeVar("N", Recipe, Target, Comparison, Published, ThreatPreset)
Registries = Mapping[str, Registry[Any]]
Kind = Literal["recipe", "target", "comparison", "threat preset", "published figures", "gate file", "report"]
_PLACES = {
    "recipe": "a recipe is the first word of run and prune: robustdeploy run {}",
    "target": "a target is given with --target {}",
    "comparison": "a comparison is the first word of table: robustdeploy table {}",
    "threat preset": "a recipe takes it by name: --set threat=wong2020; check it with: robustdeploy validate {}",
    "published figures": "a comparison names its rows, and table prints them; check it with: robustdeploy validate {}",
    "gate file": "its rules are judged by: robustdeploy gate --rules {}",
    "report": "a report is read by: robustdeploy gate {}",
}
"""Where a file of each kind belongs on the command line."""
_NOUNS: Mapping[ShippedKind, Literal["recipe", "target", "comparison", "threat preset"]] = {
    "recipes": "recipe",
    "targets": "target",
    "comparisons": "comparison",
    "threats": "threat preset",
}
_CHOICE: TypeAdapter[Choice] = TypeAdapter(PlugIn)
_ASKING = ("query-attacks", "substitutes", "engine-attacks")
"""Kinds of attacks that ask what is deployed."""


def _source(kind: ShippedKind, wanted: str | Path) -> Source:
    path = Path(wanted)
    if _is_path(wanted):
        if not path.is_file():
            raise RecipeError(_no_file(kind, path))
        source = source_from_file(path, str(path))
        return of_kind(_NOUNS[kind], source)
    if wanted not in shipped_names(kind):
        raise RecipeError(_no_name(kind, str(wanted)))
    return source_from_file(shipped_folder(kind) / f"{wanted}.yaml", f"{kind}/{wanted}.yaml")


def _is_path(wanted: str | Path) -> bool:
    """Say whether ``wanted`` is a path and not the name of something shipped."""
    path = Path(wanted)
    return isinstance(wanted, Path) or path.suffix in (".yaml", ".yml") or len(path.parts) != 1 or path.is_file()


def _file(kind: ShippedKind, wanted: str | Path) -> Path:
    """Return the file of a path or of a shipped name, the same for all ways to say it."""
    return (Path(wanted) if _is_path(wanted) else shipped_folder(kind) / f"{wanted}.yaml").resolve()


def _no_file(kind: ShippedKind, path: Path) -> str:
    """Say what is where a YAML file should be, or which was meant."""
    if path.is_dir():
        inside = [str(each) for each in yaml_files(path)[:5]]
        return f"{path} is a folder" + (f"; give one file: {', '.join(inside)}" if inside else " without a YAML file")
    if path.stem in shipped_names(kind):
        return f"{path}: no such file; the shipped {_NOUNS[kind]} is '{path.stem}', without a suffix"
    near = did_you_mean(path.name, (each.name for each in path.parent.glob("*.y*ml")))
    return f"{path}: no such file{near}"


def _no_name(kind: ShippedKind, wanted: str) -> str:
    """Say that nothing of this name is shipped, and what of it is there of another kind."""
    noun = _NOUNS[kind]
    if others := [each for each in _NOUNS if wanted in shipped_names(each)]:
        other = _NOUNS[others[0]]
        return f"'{wanted}' is a {other}, not a {noun}; {_PLACES[other].format(wanted)}"
    if Path(wanted).is_dir():
        return _no_file(kind, Path(wanted))
    names = shipped_names(kind)
    near = did_you_mean(wanted, names) or did_you_mean(wanted, (path.name for path in yaml_files(Path())))
    listed = f"(known: {', '.join(names) or 'none'}; or give the path of a .yaml file)"
    return f"unknown {noun} '{wanted}'{near} {listed}"


def yaml_files(folder: Path) -> list[Path]:
    """Return the YAML files in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def of_kind(kind: Kind, source: Source) -> Source:
    """Return ``source``, or refuse it where its keys are those of another kind of file."""
    found = _kind_of(source.data)
    if found not in (kind, ""):
        raise RecipeError(f"{source.label} is a {found}, not a {kind}; {_PLACES[found].format(source.label)}")
    return source


def _kind_of(data: dict[str, Any]) -> Kind | Literal[""]:
    """Say what the keys of a file make it; nothing where they are those of several kinds, or of none."""
    keys = set(data)
    if {"measurements", "verdict"} <= keys:
        return "report"
    if "rules" in keys:
        return "gate file"
    if {"papers", "tables"} <= keys:
        return "published figures"
    if {"on", "refused"} & keys:
        return "threat preset"
    if {"rows"} & keys and {"recipe", "seeds", "against"} & keys:
        return "comparison"
    ours, theirs = set(Recipe.model_fields), {*Target.model_fields, "extends"}
    recipe, target = keys & (ours - theirs), keys & (theirs - ours)
    if bool(recipe) == bool(target):
        return ""
    return "recipe" if recipe else "target"


def load_recipe(
    name_or_path: str | Path,
    overrides: Sequence[str] = (),
    registries: Registries | None = REGISTRIES,
    *,
    foresee: bool = False,
    before: Callable[[Recipe], object] | None = None,
    quick: bool = False,
) -> Recipe:
    """Load a recipe and apply overrides such as ``budget.ops=0.3``; without ``registries`` plug-ins go unchecked.

    With ``foresee``, a rule that no evaluation of the recipe can meet is a problem too. ``before`` gets the recipe when
    all is checked that needs no torch, and may refuse it by an error of its own; a ``quick`` one is checked no further.
    """
    source = _source("recipes", name_or_path)
    for override in overrides:
        apply_override(source, override)
    _lay_threat_over(source)
    # In two passes: a typing error is told at once, and not after the seconds that torch takes to load.
    recipe = _validated(Recipe, source, registries, quick=True)
    if before is not None:
        before(recipe)
    return recipe if quick or registries is None else _validated(Recipe, source, registries, foresee=foresee)


def load_target(name_or_path: str | Path, registries: Registries | None = REGISTRIES) -> Target:
    """Load a target; ``extends: other`` gives it the fields of another target as defaults, which may extend one too."""
    if isinstance(name_or_path, str):
        base, number = build_in(name_or_path)
        if number > 1:
            return build_of(load_target(base, registries), number)
    source = _source("targets", name_or_path)
    # The passes of precisions load ONNX Runtime, which a mistake in the next word need not wait for.
    return _validated(Target, _extended(source, (_file("targets", name_or_path),)), registries, quick=True)


def load_comparison(
    name_or_path: str | Path, registries: Registries | None = REGISTRIES, *, quick: bool = False
) -> Comparison:
    """Load a comparison; a recipe or a target that it names as a path lies beside it.

    A ``quick`` one is checked as far as that goes without torch.
    """
    source = _source("comparisons", name_or_path)
    for key in ("recipe", "target"):
        named = source.data.get(key)
        if isinstance(named, str) and Path(named).suffix in (".yaml", ".yml"):
            source.data[key] = str(_file("comparisons", name_or_path).parent / named)
    return _validated(Comparison, source, registries, quick=quick)


def load_published(path: Path | None = None) -> Published:
    """Load published figures: the shipped ones, or those in another file."""
    shipped = shipped_folder("comparisons") / f"{PUBLISHED}.yaml"
    label = f"comparisons/{PUBLISHED}.yaml" if path is None else str(path)
    return _validated(Published, source_from_file(path or shipped, label), None)


def load_threat_preset(name_or_path: str | Path, registries: Registries | None = None) -> ThreatPreset:
    """Load a threat preset."""
    return _validated(ThreatPreset, _source("threats", name_or_path), registries)


def _lay_threat_over(source: Source) -> None:
    """Put in what a threat preset says, where a recipe names one; what is wrong with it is noted."""
    place: Place = ("threat",)
    wanted = source.data.get("threat")
    if isinstance(wanted, dict) and "preset" in wanted:
        place, rest = ("threat", "preset"), set(wanted) - {"preset"}
        wanted = wanted["preset"]
        if not isinstance(wanted, str):
            text = f"must be the name of a preset: {', '.join(shipped_names('threats'))}"
            _refuse_threat(source, place, text)
            return
        if rest:
            text = f"brings a threat of its own; leave out {' and '.join(sorted(rest))}, or the preset"
            _refuse_threat(source, place, text)
            return
    if not isinstance(wanted, str) or ("threat",) in source.unreadable:
        return
    mark = source.mark(place)
    # Attacks that the command line names are meant to stand instead of the preset's.
    keep_attacks = source.mark(("evaluate", "attacks")).label.startswith("--")
    try:
        for filled in laid_over(source.data, load_threat_preset(wanted), keep_attacks):
            source.marks = {other: at for other, at in source.marks.items() if other[: len(filled)] != filled}
            source.marks[filled] = mark
    except (RecipeError, ValueError) as error:
        _refuse_threat(source, place, "; ".join(map(str, error.args)))


def _refuse_threat(source: Source, place: Place, text: str) -> None:
    source.problems.append(Problem(source.mark(place), place, text))
    source.unreadable |= {("threat",), place}
    # Some sound threat must stand there, or its lack would be told as well.
    source.data["threat"] = {}


def _extended(source: Source, line: tuple[Path, ...]) -> Source:
    """Lay ``source`` over the targets that it extends; ``line`` are the files that led here, its own the last."""
    if "extends" not in source.data:
        return source
    parent = source.data.pop("extends")
    if not isinstance(parent, str):
        raise RecipeError(str(Problem(source.mark(("extends",)), ("extends",), "must be a target's name")))
    beside = Path(source.label).parent / parent
    wanted = beside if beside.suffix in (".yaml", ".yml") else parent
    try:
        base = _source("targets", wanted)
    except RecipeError as error:
        text = "; ".join(error.args)
        raise RecipeError(str(Problem(source.mark(("extends",)), ("extends",), text))) from error
    if (file := _file("targets", wanted)) in line:
        text = f"{base.label} extends itself, by way of {source.label}; one of them must stand alone"
        raise RecipeError(str(Problem(source.mark(("extends",)), ("extends",), text)))
    base = _extended(base, (*line, file))
    # Two targets of one name would share their folders in a run.
    for own in ("name", "description"):
        base.data.pop(own, None)
    # The child's marks win, so that a complaint points to the line that was really read.
    merged = Source(source.label, marks=base.marks | source.marks, problems=base.problems + source.problems)
    merged.unreadable |= base.unreadable | source.unreadable
    merged.data = _merged(base.data, source.data)
    return merged


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, inside too; a plug-in of another name replaces the base's with its options."""
    merged = base | over
    for key, old in base.items():
        new = merged[key]
        # Options of one plug-in mean nothing to another.
        if isinstance(old, dict) and isinstance(new, dict) and new.get("name", old.get("name")) == old.get("name"):
            merged[key] = _merged(old, new)
    return merged


def resolved_yaml(noun: Recipe | Target) -> str:
    """Return YAML with every field written out; loading it gives an equal one."""
    return text_from_value(plain(noun))


def says_the_same(path: Path, noun: Recipe | Target) -> bool:
    """Whether a file that ``resolved_yaml`` once wrote still means ``noun``; a field it lacks has its default."""
    try:
        return resolved_yaml(type(noun).model_validate(source_from_file(path, str(path)).data)) == resolved_yaml(noun)
    except (RecipeError, ValidationError):
        return False


def _validated(
    kind: type[N], source: Source, registries: Registries | None, *, quick: bool = False, foresee: bool = False
) -> N:
    """Return what ``source`` holds, or raise all that is wrong with it; ``quick`` leaves out what needs torch."""
    problems, noun = list(source.problems), None
    found: list[tuple[Place, str]] = []
    try:
        noun = kind.model_validate(source.data)
        # pydantic turns true into 1 where a number is asked for, and says nothing.
        found += booleans_lost(source.data, noun)
    except ValidationError as error:
        for each in error.errors():
            each["loc"] = tuple(step for step in each["loc"] if step not in (ONE, SEVERAL))
            found.append((each["loc"], complaint(each, kind)))
    if registries is not None:
        found += _plugin_problems(kind, source.data, registries, quick)
        if kind is Recipe:
            found += rule_problems(source.data, ("gate",))
        # Only of a sound target: an unknown backend has no traits to ask.
        if isinstance(noun, Target) and not found:
            found += _build_problems(noun, registries)
        if isinstance(noun, Recipe):
            found += norm_problems(noun, registries)
            found += ((("gate", index), text) for index, text in contradictions(noun.gate))
            found += gate_problems(prospect_of(noun, registries)) if foresee and not found else []
    problems += [Problem(source.mark(place), place, text) for place, text in found if place not in source.unreadable]
    if noun is None or problems:
        # Overrides come after the file: their label starts with dashes.
        ordered = sorted(problems, key=lambda p: (p.mark.label.startswith("--"), p.mark))
        # All at once: whoever writes a recipe would otherwise meet one mistake after the other.
        raise RecipeError(*dict.fromkeys(map(str, ordered)))
    return noun


def rule_problems(data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Say what is wrong with the rules that stand at ``place``, each in itself; what is no rule is told elsewhere."""
    raw = value_at(data, place, ())
    for index, each in enumerate(raw if isinstance(raw, list | tuple) else ()):
        try:
            rule = Rule.model_validate(each)
        except ValidationError:
            continue
        yield from (((*place, index, *inner), text) for inner, text in meaning_problems(rule))


def gate_problems(
    prospect: Prospect, search: Callable[[Rule, Prospect], Iterator[tuple[Place, str]]] = unmet_problems
) -> Iterator[tuple[Place, str]]:
    """Say which rules of a recipe no evaluation of it can meet."""
    for index, rule in enumerate(prospect.recipe.gate):
        for inner, text in search(rule, prospect):
            yield ("gate", index, *inner), f"{rule.id} can never hold: {text}"


def prospect_of(recipe: Recipe, registries: Registries = REGISTRIES) -> Prospect:
    """Return what a recipe alone says of its evaluation."""
    attacks: dict[str, bool] = {}
    kinds: dict[str, str] = {}
    for choice, whole in listed(recipe.evaluate.attacks, registries):
        asking = next((kind for kind in _ASKING if choice.name in registries[kind]), None)
        built = registries[asking or "attacks"].build(choice.name, choice.options)
        label, asks = str(getattr(built, "label", choice.name)), asking is not None
        kinds[whole.part(label) if whole else label] = getattr(built, "KIND", "")
        attacks |= {label: asks} if whole is None else {whole.part(label): asks, whole.label: False}
    distances = {}
    for choice in recipe.evaluate.distances:
        distance = registries["distances"].build(choice.name, choice.options)
        distances[distance.label] = distance.metric, distance.limit
    # Built, since what is removed may hang on its options.
    pruner = registries["pruners"].build(recipe.prune.name, recipe.prune.options)
    return Prospect(
        recipe,
        attacks,
        kinds,
        distances,
        tuple(label for label, _ in listed_patches(recipe.evaluate.patches, registries)),
        {each.name: each.severities for each in listed_corruptions(recipe.evaluate.corruptions, registries)},
        removes_channels=getattr(pruner, "removes_channels", True),
        pruned=recipe.budget.is_set or not getattr(pruner, "needs_budget", True),
    )


def _plugin_problems(kind: type[N], data: Any, registries: Registries, quick: bool) -> Iterator[tuple[Place, str]]:
    defaults = kind.model_construct(name="x")
    for place, field in plug_in_places(kind, data, defaults):
        raw = value_at(data, place, value_at(defaults, place))
        among = [registries[name] for name in field.kinds]
        try:
            choice = _CHOICE.validate_python(_choice_in(raw, field, value_at(defaults, place)))
        except ValidationError:
            continue  # told by the recipe's own check
        registry = next((r for r in among if choice.name in r), among[0])
        others = [name for r in among if r is not registry for name in r.names()]
        for inner, text in registry.problems(choice.name, choice.options, others, quick=quick):
            yield _place_in_choice(raw, place, inner), text


def _build_problems(target: Target, registries: Registries) -> Iterator[tuple[Place, str]]:
    traits = traits_of(registries["backends"].get(target.backend.name))
    if target.build_on == "host" and not traits.builds_on_host:
        yield ("build_on",), f"must be 'board': {target.backend.name} builds its engines where they run"


def _choice_in(raw: Any, field: PlugInField, default: Any) -> Any:
    """Return the name and the options alone, where a noun holds them beside fields of its own."""
    if field.holder is None or not isinstance(raw, dict | field.holder):
        return raw
    return {part: value_at(raw, (part,), value_at(default, (part,))) for part in ("name", "options")}


def _place_in_choice(raw: Any, place: Place, inner: Place) -> Place:
    nested = isinstance(raw, dict) and "options" in raw and inner != ("name",)
    if not isinstance(raw, dict):
        return place
    return (*place, "options", *inner) if nested else (*place, *inner)


def kind_of_file(path: Path) -> Kind:
    """Say what a YAML file is meant to be, by the keys that only one kind has; a recipe where none tells."""
    return _kind_of(source_from_file(path, str(path)).data) or "recipe"
