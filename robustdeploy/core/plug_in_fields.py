"""Fields that choose a plug-in, found by their annotations in a recipe or a target and in the nouns inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from robustdeploy.core.complaint import Place
from robustdeploy.core.kinds import Of
from robustdeploy.core.model import Noun
from robustdeploy.core.plain import value_at
from robustdeploy.core.recipe import Choice

EACH = "*"
"""In a place: any index."""
Shape = Literal["one", "optional", "several", "one or several"]


@dataclass(frozen=True)
class PlugInField:
    """One field of one noun."""

    owner: type[Noun]
    name: str
    kinds: tuple[str, ...]
    shape: Shape
    holder: type[Noun] | None
    """The noun that holds the name and the options beside fields of its own, as a toolchain has versions."""
    place: Place
    """Where it stands in the outermost noun; ``EACH`` stands for any index."""


def plug_in_fields(kind: type[Noun], place: Place = ()) -> Iterator[PlugInField]:
    """Yield the fields of ``kind``, and of what it holds, that choose a plug-in."""
    for name, field in kind.model_fields.items():
        of, parts = _of(field.annotation, field.metadata)
        here = (*place, name)
        if of is not None:
            # pydantic moves the annotation of an outer type into `metadata` and leaves that of an inner one where it
            # is.
            several = get_origin(field.annotation) is tuple
            shape: Shape = "several" if several else "optional" if type(None) in get_args(field.annotation) else "one"
            if any(get_origin(part) is tuple for part in parts):
                shape = "one or several"
            holder = field.annotation if isinstance(field.annotation, type) and field.annotation is not Choice else None
            yield PlugInField(kind, name, of.kinds, shape, holder, (*here, EACH) if several else here)
            continue
        for part in parts:
            if isinstance(part, type) and issubclass(part, Noun):
                repeated = get_origin(field.annotation) is tuple
                yield from plug_in_fields(part, (*here, EACH) if repeated else here)


def plug_in_places(kind: type[Noun], data: Any, defaults: Any) -> Iterator[tuple[Place, PlugInField]]:
    """Yield where ``data``, which may be wrong in any way, chooses plug-ins.

    ``defaults`` stand where it says nothing.
    """
    for field in plug_in_fields(kind):
        for place in _filled_in(field.place, data, defaults):
            held = value_at(data, place, value_at(defaults, place))
            listed = field.shape == "one or several" and isinstance(held, list | tuple)
            for each in _filled_in((*place, EACH), data, defaults) if listed else (place,):
                yield each, field


def _filled_in(place: Place, data: Any, defaults: Any) -> Iterator[Place]:
    """Replace each ``EACH`` by the indices that are there."""
    if EACH not in place:
        yield place
        return
    at = place.index(EACH)
    held = value_at(data, place[:at], value_at(defaults, place[:at]))
    for index in range(len(held) if isinstance(held, list | tuple) else 0):
        yield from _filled_in((*place[:at], index, *place[at + 1 :]), data, defaults)


def _of(annotation: Any, metadata: list[Any]) -> tuple[Of | None, tuple[Any, ...]]:
    """Return what an annotation chooses, if it does, and the types that it is made of."""
    found = next((each for each in metadata if isinstance(each, Of)), None)
    parts = get_args(annotation) or (annotation,)
    for part in parts:
        if get_origin(part) is Annotated:
            found = found or next((each for each in get_args(part)[1:] if isinstance(each, Of)), None)
    return found, tuple(get_args(part)[0] if get_origin(part) is Annotated else part for part in parts)
