"""Read YAML into plain values and remember where each of them stands.

Scalars follow YAML 1.2, where ``on`` and ``no`` are words and ``1e-3`` is a number; ``8/255`` is a number too.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robustdeploy.core.complaint import Place
from robustdeploy.core.model import LONGEST_NUMBER, number_from_text
from robustdeploy.errors import RecipeError
from robustdeploy.foreign import sentence

MAX_BYTES = 2**20
# A few levels of aliases to aliases ("billion laughs") write out to more than any memory holds.
MAX_ALIASES = 16
MAX_DEPTH = 32
MAX_VALUES = 20_000
"""Keys and values of one text, those behind aliases counted each time."""
_MOST_SHOWN = 80
"""Characters of a key that a message repeats."""

_FRACTION = "!fraction"
_MERGE = "<<"
_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("tag:yaml.org,2002:float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("tag:yaml.org,2002:float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    (_FRACTION, r"[0-9]+(\.[0-9]+)?\s*/\s*[0-9]+(\.[0-9]+)?", list("0123456789")),
)


# PyYAML follows YAML 1.1, where `on`, `no` and `1_000` are no text and `1e-3` is no number.
class _Loader(yaml.SafeLoader):
    """Only its scanner, parser and composer are used; values are made below, from seven plain tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the text that ``_Loader`` would take for something else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out twice: anchors help no reader of a resolved recipe."""
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes the rarer line breaks as they are between single quotes, where they read back as a space.
    style = '"' if text == _MERGE or set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


@dataclass(frozen=True, order=True)
class Mark:
    """A place in a text: ``recipes/x.yaml:12:5``, or only a label where there are no lines."""

    label: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.label}:{self.line}:{self.column}" if self.line else self.label


@dataclass(frozen=True)
class Problem:
    """One sentence about one place."""

    mark: Mark
    place: Place
    text: str

    def __str__(self) -> str:
        parts = (str(self.mark), dotted(tuple(_short(step) for step in self.place)), self.text)
        return ": ".join(sentence(part) for part in parts if part)


@dataclass
class Source:
    """The values of a YAML text, where each stands, and what is wrong with the text itself."""

    label: str
    data: Any = None
    marks: dict[Place, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: set[Place] = field(default_factory=set)
    """Places whose value could not be made; a complaint about what stands there now would mislead."""

    def mark(self, place: Place) -> Mark:
        """Return the mark of the nearest enclosing value that has one."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.marks:
                return self.marks[place[:end]]
        return Mark(self.label)


def _short(step: str | int) -> str | int:
    return step if isinstance(step, int) or len(step) <= _MOST_SHOWN else f"{step[:_MOST_SHOWN]}…"


def dotted(place: Place) -> str:
    """Return a place as users write it: ``evaluate.attacks[1].steps``."""
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return steps.removeprefix(".")


def _guarded_events(text: str, label: str) -> None:
    """Refuse deep nesting, many aliases and many values before anything recursive sees the text."""
    depth = aliases = values = 0
    # Events come from a loop; PyYAML's composer calls itself for each level and would meet Python's limit.
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        values += isinstance(event, yaml.NodeEvent)
        limits = (
            (depth, MAX_DEPTH, f"nested deeper than {MAX_DEPTH} levels"),
            (aliases, MAX_ALIASES, f"more than {MAX_ALIASES} aliases"),
            (values, MAX_VALUES, f"more than {MAX_VALUES:,} values"),
        )
        if broken := [told for found, most, told in limits if found > most]:
            start = event.start_mark
            mark = Mark(label, start.line + 1, start.column + 1) if start else Mark(label)
            raise RecipeError(f"{mark}: {broken[0]}; write out plainly what is needed")


def _syntax_error(error: yaml.YAMLError, label: str) -> RecipeError:
    if isinstance(error, yaml.reader.ReaderError):
        return RecipeError(f"{label}: holds the character {error.character!r}, which YAML forbids; remove it")
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return RecipeError(f"{label}: not valid YAML: {error}")
    mark = Mark(label, error.problem_mark.line + 1, error.problem_mark.column + 1)
    problem = error.problem or "unexpected text"
    if r"'\t'" in problem:
        return RecipeError(f"{mark}: a tab; YAML is indented with spaces")
    if "document" in f"{error.context} {problem}":
        return RecipeError(f"{mark}: a second document starts here; one file holds one")
    return RecipeError(f"{mark}: not valid YAML: {problem}")


@dataclass
class _Reading:
    source: Source
    open_nodes: set[int] = field(default_factory=set)
    made: int = 0

    def problem(self, node: yaml.Node, place: Place, text: str) -> None:
        self.source.problems.append(Problem(self.at(node), place, text))

    def at(self, node: yaml.Node) -> Mark:
        return Mark(self.source.label, node.start_mark.line + 1, node.start_mark.column + 1)

    def value(self, node: yaml.Node, place: Place) -> Any:
        """Make the plain value of a node; what is wrong with it is noted and leaves None."""
        self.made += 1
        if self.made > MAX_VALUES:  # an alias of an alias doubles what is behind it
            raise RecipeError(f"{self.at(node)}: more than {MAX_VALUES:,} values, with aliases written out")
        self.source.marks.setdefault(place, self.at(node))
        # An alias inside its own anchor would never end.
        if id(node) in self.open_nodes:
            return self.refuse(node, place, "refers to itself; write the value out plainly")
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self.scalar(node, place)
            if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
                return [self.value(child, (*place, i)) for i, child in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
                return dict(self.entries(node, place))
            return self.refuse(node, place, f"the tag {node.tag} is not allowed; plain values only")
        finally:
            self.open_nodes.discard(id(node))

    def refuse(self, node: yaml.Node, place: Place, text: str) -> None:
        self.problem(node, place, text)
        self.source.unreadable.add(place)

    def entries(self, node: yaml.MappingNode, place: Place) -> Iterator[tuple[str, Any]]:
        seen: dict[str, yaml.Node] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, place, "a key must be a single word")
                continue
            # PyYAML keeps the last of two equal keys without a word.
            if (earlier := seen.setdefault(key.value, key)) is not key:
                line = earlier.start_mark.line + 1
                self.problem(key, (*place, key.value), f"stands here a second time (first in line {line}); keep one")
                continue
            if key.value == _MERGE and key.style is None:
                self.problem(key, (*place, key.value), "keys are not merged here; write them out, or use 'extends'")
                continue
            self.source.marks[(*place, key.value)] = self.at(key)
            yield key.value, self.value(child, (*place, key.value))

    def scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text = node.value
        if len(text) > LONGEST_NUMBER and node.tag.rpartition(":")[2] in ("int", "float", "!fraction"):
            return self.refuse(node, place, f"a number of {len(text):,} characters; at most {LONGEST_NUMBER} are read")
        try:
            match node.tag.rpartition(":")[2]:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text, 0 if text[:2] in ("0o", "0x") else 10)
                case "float":
                    return float(re.sub(r"\.(?=[inIN])", "", text))
                case "!fraction":
                    return number_from_text(text)
        except ValueError as error:
            return self.refuse(node, place, str(error))
        return self.refuse(node, place, f"the tag {node.tag} is not allowed; plain values only")


def value_from_text(text: str, label: str) -> Source:
    """Read any one YAML value; a syntax error is a RecipeError with its line."""
    source = Source(label)
    try:
        _guarded_events(text, label)
        node = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise _syntax_error(error, label) from error
    if node is not None:
        source.data = _Reading(source).value(node, ())
    return source


def source_from_file(path: Path, label: str) -> Source:
    """Read a YAML file whose root is a mapping; anything else is a RecipeError that says what was found."""
    if not path.is_file():
        raise RecipeError(f"{label}: " + ("is a folder; give a file" if path.is_dir() else "no such file"))
    if (size := path.stat().st_size) > MAX_BYTES:
        raise RecipeError(f"{label}: {size / 2**20:.1f} MiB is too large; such a file has at most 1 MiB")
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise RecipeError(f"{label}: is UTF-16 text ('Unicode' in Windows editors); save it as UTF-8")
        # Editors of Windows put a mark in front of UTF-8, which would become a part of the first key.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{label}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{label}: cannot be read: {error.strerror}") from error
    source = value_from_text(text, label)
    if not isinstance(source.data, dict):
        found = {list: "a list", type(None): "nothing"}.get(type(source.data), "a single value")
        raise RecipeError(f"{label}: holds {found}; its top level must be keys and values")
    return source


def text_from_value(value: Any) -> str:
    """Return YAML that reads back as ``value``, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text
