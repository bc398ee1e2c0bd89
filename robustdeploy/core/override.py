"""Lay an override such as ``budget.ops=0.3`` over the values of a recipe."""

from __future__ import annotations

import re
from typing import Any

from robustdeploy.core.complaint import Place, keys_at, shown
from robustdeploy.core.plain import plain, value_at
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.yaml_source import MAX_DEPTH, Mark, Problem, Source, value_from_text
from robustdeploy.errors import RecipeError

_MOST_SHOWN = 200
"""Characters of an override that a message repeats."""
_INDEX = re.compile(r"\[(\d+)\]")
"""``attacks[1]``, as messages write it, for ``attacks.1``."""


def apply_override(source: Source, override: str) -> None:
    """Lay ``a.b=c`` over the values; what is wrong with it is noted under ``--set a.b=c``."""
    mark = Mark(f"--set {override if len(override) <= _MOST_SHOWN else override[:_MOST_SHOWN] + '…'}")
    path, equals, text = override.partition("=")
    steps = _INDEX.sub(r".\1", path.strip()).split(".")
    if not equals or not all(steps):
        source.problems.append(Problem(mark, (), "must look like budget.ops=0.3"))
        return
    if len(steps) > MAX_DEPTH:
        source.problems.append(Problem(mark, (), f"leads deeper than {MAX_DEPTH} levels"))
        return
    # Otherwise the whole recipe would be refused for an unknown key, without the place that was meant.
    if steps[0] not in Recipe.model_fields and (home := _home(steps[0])):
        source.problems.append(Problem(mark, (steps[0],), f"unknown key; did you mean {home}={text[:_MOST_SHOWN]}?"))
        return
    try:
        value = value_from_text(text, mark.label)
    except RecipeError as error:
        source.problems.append(Problem(mark, (), str(error).removeprefix(mark.label).lstrip(":0123456789 ")))
        return
    holder: Any = source.data
    place: Place = ()
    for step in steps[:-1]:
        place = _step(source, holder, place, step, mark)
        if not place:
            return
        holder = _opened(source, holder, place, mark)
    if place := _step(source, holder, place, steps[-1], mark):
        holder[place[-1]] = value.data
        _remark(source, place, value, mark)


def _home(key: str) -> str:
    """Where a key stands that was given without the way to it, as ``epochs`` for ``train.epochs``."""
    homes = [name for name in Recipe.model_fields if key in keys_at(Recipe, (name,))]
    return f"{homes[0]}.{key}" if len(homes) == 1 else ""


def _step(source: Source, holder: Any, place: Place, step: str, mark: Mark) -> Place:
    """One step further down, or nothing, with a note, where there is no such way."""
    if isinstance(holder, dict):
        return (*place, step)
    if not isinstance(holder, list):
        source.problems.append(Problem(mark, place, f"is {shown(holder)}, which has no keys"))
    # `int` of a text with thousands of digits takes long, and no list is that long.
    elif not (step.isdecimal() and len(step) < 9 and int(step) < len(holder)):
        there = f"it has {len(holder)}, counted from 0"
        source.problems.append(Problem(mark, place, f"there is no item {step[:20]}; {there}"))
    else:
        return (*place, int(step))
    return ()


def _opened(source: Source, holder: Any, place: Place, mark: Mark) -> Any:
    """What stands at ``place``, made to hold keys: a default is written out, a plug-in's name gets room for options."""
    source.marks.setdefault(place, mark)
    default = _default(place)
    value = value_at(holder, place[-1:])
    if value is None:
        value = plain(default) if isinstance(default, Choice | tuple) else {}
    # `task: fastat` has no place for an option; `--set train.task.alpha=…` needs one.
    if isinstance(value, str) and isinstance(default, Choice):
        value = {"name": value}
    holder[place[-1]] = value
    return value


def _default(place: Place) -> Any:
    """A recipe's default at ``place``; any item of a list stands for all of them."""
    return value_at(Recipe(name="x"), tuple(0 if isinstance(step, int) else step for step in place))


def _remark(source: Source, place: Place, value: Source, mark: Mark) -> None:
    """Everything at and below ``place`` now comes from the override."""

    def below(other: Place) -> bool:
        return other[: len(place)] == place

    source.marks = {other: at for other, at in source.marks.items() if not below(other)} | {place: mark}
    # What was wrong there has been replaced, so it must not be complained about any more.
    gone = {other for other in source.unreadable if below(other)}
    source.problems = [p for p in source.problems if p.place not in gone]
    source.unreadable -= gone
    source.problems += [Problem(mark, (*place, *p.place), p.text) for p in value.problems]
    source.unreadable |= {(*place, *other) for other in value.unreadable}
