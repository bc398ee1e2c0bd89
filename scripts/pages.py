"""Pages: what the site has beside docs/, made from the code when mkdocs builds, and where its links lead.

A hook of mkdocs (see mkdocs.yml). The reference is read from the models, the registries and the command line, so it
cannot be behind them. Pages at the root of the repository become pages of the site.
"""

from __future__ import annotations

import ast
import inspect
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from robustdeploy import _HOMES, errors
from robustdeploy.cli.group import COMMANDS, imported
from robustdeploy.core.gate import Gate
from robustdeploy.core.kinds import KINDS
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.model import Noun
from robustdeploy.core.plug_in_fields import plug_in_fields
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import REGISTRIES
from robustdeploy.core.target import Target

ROOT = Path(__file__).parents[1]
AT_ROOT = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
}
"""Pages of the site that lie elsewhere in the repository."""
SHIPPED = ("recipes", "targets", "threats", "comparisons")
FENCES = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`[^`]*`)|[^`]+")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
Schema = Mapping[str, Any]


def reference() -> dict[str, str]:
    """Return the generated pages by their place in the site."""
    return {
        "reference/cli.md": "# Command line\n\n" + "\n".join(_command(name) for name in COMMANDS),
        "reference/recipe.md": "# Fields of a recipe\n\n" + "\n".join(_nouns(Recipe)),
        "reference/target.md": "# Fields of a target\n\n" + "\n".join(_nouns(Target)),
        "reference/gate.md": "# Fields of a gate file\n\n" + "\n".join(_nouns(Gate)),
        "reference/plug-ins.md": "# Plug-ins and their options\n\n" + "\n".join(map(_kind, KINDS)),
        "reference/metrics.md": "# Metrics\n\n" + _metrics(),
        "reference/exit-codes.md": "# Exit codes and errors\n\n" + _errors(),
        "reference/python.md": "# Python\n\n" + _python(),
        **{f"reference/shipped-{kind}.md": _shipped(kind) for kind in SHIPPED},
    }


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table; what stands in a cell may hold any character."""
    cells = [[re.sub(r"\s+", " ", _shown(cell)).replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells]) + "\n"


def _shown(text: str) -> str:
    """Keep a word between angle brackets from being taken for HTML."""
    return CODE.sub(lambda match: match[1] or match[0].replace("<", "&lt;"), text)


def _plain(text: str) -> str:
    """Docstrings mark code with two backticks, pages with one."""
    return text.replace("``", "`")


def _command(name: str) -> str:
    command = imported(name)
    with command.make_context(f"robustdeploy {name}", [], resilient_parsing=True) as context:
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        records = [each.get_help_record(context) for each in command.get_params(context)]
    rows = [(f"`{words}`", says) for words, says in filter(None, records)]
    told = _plain(inspect.cleandoc(command.help or ""))
    return f"## {name}\n\n{told}\n\n    {usage}\n\n" + table(("option", "says"), rows)


def _nouns(kind: type[Noun]) -> Iterator[str]:
    """Yield the section of a noun, then those of the nouns inside it."""
    schema = kind.model_json_schema()
    chosen = {(field.owner.__name__, field.name): field.kinds for field in plug_in_fields(kind)}
    for name, each in [(kind.__name__, schema), *schema["$defs"].items()]:
        if "properties" not in each or name == "Choice":
            continue
        rows = []
        for field, told in each["properties"].items():
            says = _plain(told.get("description", ""))
            if kinds := chosen.get((name, field)):
                says = f"{_listed(kinds)} {says}"
            default = "required" if field in each.get("required", ()) else _default(told)
            rows.append((f"`{field}`", _type(told), default, says))
        yield f"## {name}\n\n{_plain(each.get('description', ''))}\n\n" + table(
            ("field", "type", "default", "says"), rows
        )


def _listed(kinds: tuple[str, ...]) -> str:
    return "One of " + ", ".join(f"[{kind}](plug-ins.md#{kind})" for kind in kinds) + "."


def _default(told: Schema) -> str:
    value = told.get("default")
    if value is None:
        return "unset"
    if isinstance(value, dict):  # a plug-in is told by its name; the fields of a noun stand in its own section
        return f"`{value['name']}`" if value.keys() == {"name", "options"} else "its own"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(told: Schema) -> str:
    if "$ref" in told:
        name = told["$ref"].rpartition("/")[2]
        return "plug-in" if name == "Choice" else f"[{name}](#{name.lower()})"
    if "anyOf" in told or "oneOf" in told:
        return " or ".join(dict.fromkeys(_type(each) for each in told.get("anyOf") or told["oneOf"]))
    if "enum" in told:
        return " or ".join(f"`{each}`" for each in told["enum"])
    if "const" in told:
        return f"`{told['const']}`"
    if told.get("type") == "array":
        return f"list of {_type(told['items'])}" if "items" in told else "list"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {told[word]:g}" for word, sign in limits.items() if word in told]
    return " ".join([told.get("format") or told.get("type", "anything"), *bounds]).replace("null", "unset")


def _kind(kind: str) -> str:
    registry = REGISTRIES[kind]
    parts = [f"## {kind}\n", f"Of each {KINDS[kind].noun}: its name, and its options with their defaults.\n"]
    for name in registry.names():
        schema = registry.json_schema(name)
        required = schema.get("required", ())
        parts.append(f"### {kind}: {name}\n\n{_plain(registry.summary(name))}\n")
        rows = []
        for option, told in schema.get("properties", {}).items():
            default = "required" if option in required else _default(told)
            # What an option refers to is its own class, which stands nowhere else.
            kept = re.sub(r"\[(\w+)\]\(#\w+\)", r"\1", _type(told))
            rows.append((f"`{option}`", kept, default, _plain(told.get("description", ""))))
        parts += [table(("option", "type", "default", "says"), rows)] if rows else []
    return "\n".join(parts)


def _metrics() -> str:
    rows = []
    for each in METRICS.values():
        better = {None: "", True: "higher", False: "lower"}[each.higher_is_better]
        places = " and ".join({"torch": "torch", "target": "targets"}[place] for place in each.places)
        rows.append((f"`{each.name}`", each.unit, better, places, each.meaning))
    told = "What a row can measure, and what a rule may ask for. More: [the run folder](../run-folder.md#rows).\n\n"
    return told + table(("metric", "unit", "better", "of nets in", "is"), rows)


def _errors() -> str:
    rows = []
    for name, each in vars(errors).items():
        if inspect.isclass(each) and issubclass(each, errors.RobustdeployError):
            above = each.__mro__[1].__name__
            code = "130 or 143" if each is errors.Interrupted else str(each.exit_code)
            means = _plain((each.__doc__ or "").partition("\n")[0])
            rows.append((f"`{name}`", f"`{above}`", code, means))
    told = "How commands end: [exit codes](../commands.md#exit-codes). Each is a class of `robustdeploy.errors`.\n\n"
    return told + table(("error", "is a", "exit code", "means"), rows)


def _python() -> str:
    tree = ast.parse((ROOT / "robustdeploy/api.py").read_text(encoding="utf-8"))
    (listed,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    names = [f"robustdeploy.api.{name}" for name in ast.literal_eval(listed)]
    names += [f"robustdeploy.{home}.{name}" for name, home in _HOMES.items()]
    told = "How they go together: [from Python](../python.md). The last four are names of `robustdeploy` itself.\n\n"
    return told + "\n".join(f"::: {name}\n" for name in names)


def _shipped(kind: str) -> str:
    files = sorted((ROOT / kind).glob("*.yaml"))
    parts = [f"# Shipped {kind}\n"]
    return "\n".join(parts + [f"## {each.stem}\n\n```yaml\n{each.read_text(encoding='utf-8')}```\n" for each in files])


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and those at the root of the repository."""
    from mkdocs.structure.files import File

    for place, text in reference().items():
        files.append(File.generated(config, place, content=text))
    for place, home in AT_ROOT.items():
        files.append(File.generated(config, place, content=(ROOT / home).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to where their pages are in the site, and give fences the titles that they name."""
    place = page.file.src_uri
    home = PurePosixPath(AT_ROOT.get(place, f"docs/{place}")).parent
    published = {each.src_uri for each in files}

    def led(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        path, _, anchor = link.partition("#")
        goal = _in_the_site(posixpath.normpath(home / path), published)
        if goal is None:  # a folder, or a file that the site does not hold
            return text
        relative = posixpath.relpath(goal, PurePosixPath(place).parent)
        return f"{mark}[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    parts = FENCES.split(markdown)
    prose = [LINK.sub(led, part) if index % 2 == 0 else part for index, part in enumerate(parts)]
    titled = re.sub(r"^```(\w+) (\S+)$", r'```\1 title="\2"', "".join(prose), flags=re.MULTILINE)
    return re.sub(r"^\|.*\|$", _bars, titled, flags=re.MULTILINE)


def _bars(row: re.Match[str]) -> str:
    """GitHub wants a backslash before a bar in a table's code, and Python-Markdown would show it."""
    return CODE.sub(lambda match: match[0].replace(r"\|", "|") if match[1] else match[0], row[0])


def _in_the_site(path: str, published: set[str]) -> str | None:
    """Return where a path of the repository is in the site; None where it is not."""
    if path in SHIPPED:
        return f"reference/shipped-{path}.md"
    elsewhere = {home: place for place, home in AT_ROOT.items()}
    goal = elsewhere.get(path, path.removeprefix("docs/"))
    return goal if goal in published else None
