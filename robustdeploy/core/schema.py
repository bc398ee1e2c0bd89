"""JSON Schema of the files that users write and read, with every plug-in's options in it, for editors and checks."""

from __future__ import annotations

from typing import Any, Literal, get_args

from robustdeploy.core.comparison import Comparison
from robustdeploy.core.gate import Gate
from robustdeploy.core.load import Registries
from robustdeploy.core.metrics import METRICS
from robustdeploy.core.model import Noun
from robustdeploy.core.plug_in_fields import plug_in_fields
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import REGISTRIES, Registry
from robustdeploy.core.report import Report
from robustdeploy.core.shipped import shipped_names
from robustdeploy.core.target import Target

Kind = Literal["recipe", "target", "comparison", "report", "gate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# Where a bound stands outside a validator of ours, pydantic passes it on under its own name.
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_FRACTION = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*/\s*[0-9]+(\.[0-9]+)?$"}


def schema_of(kind: Kind, registries: Registries = REGISTRIES) -> Schema:
    """Return the schema of what users write, or of a report; it imports every plug-in."""
    if kind == "report":
        schema = Report.model_json_schema(mode="serialization")
    elif kind == "gate":
        schema = _fractions_too(_gate())
    elif kind == "comparison":
        schema = _fractions_too(_with_plug_ins(Comparison.model_json_schema(), Comparison, registries))
    elif kind == "target":
        schema = _fractions_too(_target(registries))
    else:
        schema = _fractions_too(_recipe(registries))
    return {"$schema": _DRAFT, **schema}


def _gate() -> Schema:
    schema = Gate.model_json_schema()
    _close_metrics(schema["$defs"])
    return schema


def _close_metrics(definitions: Schema) -> None:
    """A rule that a user writes names a metric of the list; one that an older report carries may not."""
    # An editor then completes the names, and marks a misspelt one while it is written.
    definitions["Rule"]["properties"]["metric"]["enum"] = list(METRICS)


def _recipe(registries: Registries) -> Schema:
    schema = Recipe.model_json_schema()
    _close_metrics(schema["$defs"])
    presets = {"enum": list(shipped_names("threats"))}
    named = {"type": "object", "properties": {"preset": presets}, "required": ["preset"], "additionalProperties": False}
    schema["properties"]["threat"] = {"anyOf": [{"$ref": "#/$defs/Threat"}, presets, named]}
    return _with_plug_ins(schema, Recipe, registries)


def _target(registries: Registries) -> Schema:
    schema = Target.model_json_schema()
    extends = {"type": "string", "description": "Another target whose fields are this one's defaults."}
    schema["properties"]["extends"] = extends
    return _with_plug_ins(schema, Target, registries)


def _with_plug_ins(schema: Schema, kind: type[Noun], registries: Registries) -> Schema:
    """Put in every plug-in, with its options, wherever a field chooses one."""
    definitions = schema["$defs"]
    for field in plug_in_fields(kind):
        owner = schema if field.owner is kind else definitions[field.owner.__name__]
        among = [registries[name] for name in field.kinds]
        held = owner["properties"][field.name]
        if field.holder is not None:
            _close_holder(definitions, definitions[field.holder.__name__], among[0])
        else:
            title = f"{'An' if among[0].kind[0] in 'aeiou' else 'A'} {among[0].kind}"
            choice = _choice(definitions, title, *among)
            if field.shape == "several":
                held["items"] = choice
            elif field.shape == "one or several":
                several = {"type": "array", "items": choice, "minItems": 1}
                owner["properties"][field.name] = {"title": title, "anyOf": [choice, several]}
            else:
                nullable = {"anyOf": [choice, {"type": "null"}], "default": None}
                owner["properties"][field.name] = nullable if field.shape == "optional" else choice
    del definitions["Choice"]
    return schema


def _close_holder(definitions: Schema, holder: Schema, registry: Registry[Any]) -> None:
    """Put the names, and with each its options, into a noun that holds them beside fields of its own."""
    holder["properties"]["name"]["enum"] = list(registry.names())
    holder["anyOf"] = [
        {"properties": {"name": {"const": name}, "options": _options(definitions, registry, name)}}
        for name in registry.names()
    ]


def _choice(definitions: Schema, title: str, *registries: Registry[Any]) -> Schema:
    """A plug-in as its name alone, as its name among its options, or as its name beside ``options``."""
    ways: list[Schema] = []
    names = [name for registry in registries for name in registry.names()]
    for registry in registries:
        for name in registry.names():
            options = _options(definitions, registry, name)
            flat = {
                "type": "object",
                "title": name,
                "description": registry.summary(name),
                "properties": {"name": {"const": name}, **options.get("properties", {})},
                "required": ["name", *options.get("required", ())],
                "additionalProperties": False,
            }
            nested = flat | {
                "properties": {"name": {"const": name}, "options": options},
                "required": ["name", "options"],
            }
            ways += [flat, nested] if options.get("required") else [{"const": name}, flat, nested]
    if any(registry.fallback for registry in registries):
        elsewhere = {"type": "string", "not": {"enum": names}}
        ways += [elsewhere, {"type": "object", "properties": {"name": elsewhere}, "required": ["name"]}]
    return {"title": title, "anyOf": ways}


def _options(definitions: Schema, registry: Registry[Any], name: str) -> Schema:
    """A plug-in's own schema; what it refers to moves to the shared definitions under a name of its own."""
    prefix = f"{registry.group}.{name}."
    schema = registry.json_schema(name, ref_template=f"#/$defs/{prefix}{{model}}")
    # Two plug-ins may each have a class of one name.
    for inner, definition in schema.pop("$defs", {}).items():
        definitions[prefix + inner] = definition
    return schema


def _fractions_too(schema: Any) -> Any:
    """Allow ``8/255`` wherever a number stands, as the loader does."""
    if isinstance(schema, list):
        return [_fractions_too(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "number":
        about = {key: schema[key] for key in ("title", "description", "default") if key in schema}
        number = {_BOUNDS.get(key, key): value for key, value in schema.items() if key not in about}
        return about | {"anyOf": [number, _FRACTION]}
    return {
        key: value if key in ("default", "const", "enum") else _fractions_too(value) for key, value in schema.items()
    }
