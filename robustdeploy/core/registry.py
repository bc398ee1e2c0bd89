"""Find plug-ins by name: one file each, or another package's entry point; build them from checked options.

Discovery reads file names and one line of each file. A plug-in is imported when it is first asked for.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from robustdeploy.core.complaint import Place, booleans_lost, complaint, did_you_mean, is_dataclass_type
from robustdeploy.core.declared import declared_options, declared_value
from robustdeploy.core.factories import ONNX_FILE, TORCHVISION, check_factory_name, is_factory, source_of
from robustdeploy.core.kinds import KINDS, Kind
from robustdeploy.core.options import options_type
from robustdeploy.core.torchvision_package import classifiers
from robustdeploy.errors import RecipeError
from robustdeploy.onboard.types import Backend, QueryAttack

T = TypeVar("T")
_PLUGIN_LINE = re.compile(r"^plugin\b[^=\n]*=(?!=)", re.MULTILINE)


@dataclass(frozen=True)
class Registry(Generic[T]):
    """The plug-ins of one kind."""

    kind: str
    """What one of them is called in a sentence, e.g. ``attack``."""
    package: str
    """The package whose files are plug-ins, e.g. ``robustdeploy.attacks``."""
    group: str
    """The entry point group through which other packages add theirs."""
    fallback: Callable[[str], bool] | None = field(default=None, compare=False)
    """Accepts names that are resolved elsewhere; asked only for a name that is not found here."""
    elsewhere: str = field(default="", compare=False)
    """What those other names are, for the sentence about an unknown one."""
    others: Callable[[], Iterable[str]] = field(default=tuple, compare=False)
    """Those of them that can be listed, in which the nearest to an unknown one is looked for."""
    heavy: bool = False
    """Its plug-ins load torch when they are imported, which takes seconds."""

    @cached_property
    def _files(self) -> Mapping[str, Path]:
        folder = source_of(self.package)
        files = sorted(folder.glob("*.py")) if folder and folder.is_dir() else []
        return {
            path.stem.replace("_", "-"): path for path in files if _PLUGIN_LINE.search(path.read_text(encoding="utf-8"))
        }

    @cached_property
    def _entries(self) -> Mapping[str, EntryPoint]:
        return {entry.name.replace("_", "-"): entry for entry in entry_points(group=self.group)}

    def names(self) -> tuple[str, ...]:
        """Return the names of all plug-ins, sorted, without importing any."""
        return tuple(sorted({*self._files, *self._entries}))

    def __contains__(self, name: object) -> bool:
        return name in self._files or name in self._entries

    def accepts(self, name: str) -> bool:
        """Say whether a recipe may use ``name``: a plug-in, or a name that is resolved elsewhere."""
        return name in self or (self.fallback is not None and self.fallback(name))

    def unknown(self, name: str, others: Iterable[str] = ()) -> str:
        """Return the sentence for a name that is not known, with the nearest one and all there are."""
        known = sorted({*self.names(), *others})
        words = ", ".join([*known, *([f"or {self.elsewhere}"] if self.elsewhere else [])])
        listed = f" (known: {words})" if words else " (none is installed)"
        return f"unknown {self.kind} '{name}'{did_you_mean(name, [*known, *self.others()])}{listed}"

    def get(self, name: str) -> type[T]:
        """Import the plug-in ``name``; an unknown, ambiguous or malformed one is a RecipeError."""
        if name not in self:
            raise RecipeError(self.unknown(name))
        # One of the two would win by chance, and a report would name it like the other.
        if name in self._files and name in self._entries:
            other = self._entries[name].value
            raise RecipeError(f"the {self.kind} '{name}' exists twice: here and as {other}; uninstall that one")
        return self._imported(name)

    def _imported(self, name: str) -> type[T]:
        try:
            if name in self._files:
                module, attribute = f"{self.package}.{self._files[name].stem}", "plugin"
            else:
                entry = self._entries[name]
                module, attribute = entry.module, entry.attr or "plugin"
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RecipeError(f"the {self.kind} '{name}' cannot be imported: {error}") from error
        # Its fields are its options, with their types and limits, so nothing else has to be declared.
        if not is_dataclass_type(found):
            raise RecipeError(f"the {self.kind} '{name}' is {found!r}; a plug-in is a dataclass")
        return cast("type[T]", found)

    def build(self, name: str, options: Mapping[str, Any]) -> T:
        """Make the plug-in ``name`` with ``options``; all wrong options together are one RecipeError."""
        built, problems = self._attempt(name, options)
        if built is None:
            lines = [f"{self.kind} '{name}': {'.'.join(map(str, place))}: {text}" for place, text in problems]
            raise RecipeError(*(line.replace(": : ", ": ") for line in lines))
        return built

    def problems(
        self, name: str, options: Mapping[str, Any], others: Iterable[str] = (), *, quick: bool = False
    ) -> list[tuple[Place, str]]:
        """Return what is wrong with a choice: the place inside it and one sentence.

        An unknown name is at ``("name",)``; ``others`` are names of other kinds that would do in its place too. With
        ``quick`` a plug-in that is heavy is not imported, and its options are checked by what its file declares.
        """
        try:
            if name not in self:
                return [] if self.accepts(name) else [(("name",), self.unknown(name, others))]
            # What a file declares is enough for a misspelt option; the rest waits until torch is loaded anyway.
            if quick and self.heavy:
                declared = declared_options(self.origin(name), self._bound_to(name))
                return [] if declared is None else _checked(declared, options)[1]
            return self._attempt(name, options)[1]
        except RecipeError as error:
            return [(("name",), str(error))]

    def _attempt(self, name: str, options: Mapping[str, Any]) -> tuple[T | None, list[tuple[Place, str]]]:
        plugin = self.get(name)
        values, problems = _checked(options_type(plugin), options)
        if problems:
            return None, problems
        try:
            return plugin(**{f.name: getattr(values, f.name) for f in dataclasses.fields(values)}), []
        except (ValueError, TypeError) as error:  # the plug-in's own check, in __post_init__
            return None, [((), str(error))]

    def origin(self, name: str) -> Path:
        """Return the file that defines ``name``, without importing it."""
        path = self._files.get(name)
        if path is None and name in self._entries:
            path = source_of(self._entries[name].module)
        if path is None:
            raise RecipeError(self.unknown(name))
        return path / "__init__.py" if path.is_dir() else path

    def trait(self, name: str, attribute: str, default: Any = None) -> Any:
        """Return what the class of ``name`` gives ``attribute``, or ``default``; imported where its file tells not."""
        try:
            return declared_value(self.origin(name), self._bound_to(name), attribute, default)
        except LookupError:
            return getattr(self.get(name), attribute, default)

    def _bound_to(self, name: str) -> str:
        """Return what the file of ``name`` binds its class to."""
        return "plugin" if name in self._files else self._entries[name].attr or "plugin"

    def foreign(self) -> Mapping[str, Path]:
        """Return the files of the plug-ins that other packages add, by name, without importing any."""
        return {name: self.origin(name) for name in sorted(self._entries) if name not in self._files}

    def summary(self, name: str) -> str:
        """Return the first line of the docstring of the plug-in's module, without importing it."""
        tree = ast.parse(self.origin(name).read_text(encoding="utf-8"))
        return (ast.get_docstring(tree) or "").partition("\n")[0]

    def json_schema(self, name: str, ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
        """Return the JSON Schema of the options of ``name``; ``ref_template`` is pydantic's."""
        return TypeAdapter(options_type(self.get(name))).json_schema(ref_template=ref_template)


def _checked(kind: type[Any], options: Mapping[str, Any]) -> tuple[Any, list[tuple[Place, str]]]:
    """Make ``kind`` of ``options``, or say what is wrong with them."""
    try:
        values = TypeAdapter(kind).validate_python(dict(options))
    except ValidationError as error:
        return None, [(e["loc"], complaint(e, kind)) for e in error.errors()]
    return values, booleans_lost(options, values)


_OTHER_NETS = "a classifier of torchvision, or package.module:factory"


def _resolved_by_nets(name: str) -> bool:
    """Accept ``package.module:factory``, torchvision's classifiers and ONNX files, which `robustdeploy.nets` knows."""
    if is_factory(name):
        check_factory_name(name)
        return True
    return name == ONNX_FILE or name.removeprefix(TORCHVISION) in classifiers()


def _registry(name: str, kind: Kind) -> Registry[Any]:
    if name != "nets":
        return Registry(kind.noun, kind.package, kind.group, heavy=kind.heavy)
    # Nets alone may be named that are no plug-ins.
    return Registry(kind.noun, kind.package, kind.group, _resolved_by_nets, _OTHER_NETS, classifiers, kind.heavy)


REGISTRIES: Mapping[str, Registry[Any]] = {name: _registry(name, kind) for name, kind in KINDS.items()}
NETS: Registry[Any] = REGISTRIES["nets"]
PREPROCESS: Registry[Any] = REGISTRIES["preprocess"]
DATA: Registry[Any] = REGISTRIES["data"]
ATTACKS: Registry[Any] = REGISTRIES["attacks"]
QUERY_ATTACKS: Registry[QueryAttack] = REGISTRIES["query-attacks"]
SUBSTITUTES: Registry[Any] = REGISTRIES["substitutes"]
ENGINE_ATTACKS: Registry[Any] = REGISTRIES["engine-attacks"]
ENSEMBLES: Registry[Any] = REGISTRIES["ensembles"]
DISTANCES: Registry[Any] = REGISTRIES["distances"]
PATCHES: Registry[Any] = REGISTRIES["patches"]
CORRUPTIONS: Registry[Any] = REGISTRIES["corruptions"]
BACKENDS: Registry[Backend] = REGISTRIES["backends"]
PRUNERS: Registry[Any] = REGISTRIES["pruners"]
TASKS: Registry[Any] = REGISTRIES["tasks"]
SCHEDULES: Registry[Any] = REGISTRIES["schedules"]
LINKS: Registry[Any] = REGISTRIES["links"]
PRECISIONS: Registry[Any] = REGISTRIES["precisions"]
FORMATS: Registry[Any] = REGISTRIES["formats"]
TRACKERS: Registry[Any] = REGISTRIES["trackers"]
