"""Find a plug-in that travelled with the agent by its name and build it from the options of a request."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError

# The source is searched because importing a plug-in may need a toolchain that this board does not have.
_PLUGIN_LINE = re.compile(r"^plugin\b[^=\n]*=(?!=)", re.MULTILINE)
_ROOT = __name__.rpartition(".")[0]


def plugin_names(kind: str) -> tuple[str, ...]:
    """Names of the plug-ins of ``kind`` (``backends``, ``attacks``) in this agent, found without importing them."""
    package = importlib.import_module(f"{_ROOT}.{kind}")
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return tuple(sorted(name.replace("_", "-") for name in modules if _PLUGIN_LINE.search(_source(kind, name))))


def build_plugin(kind: str, name: Any, options: Any) -> Any:
    """Build the plug-in ``name`` of ``kind``; UsageError for an unknown name or an option it does not have."""
    known = plugin_names(kind)
    if name not in known:
        found = f"no {kind[:-1]} {str(name)[:60]!r} (it has: {', '.join(known)})"
        raise UsageError(f"the agent has {found}; choose one of these or build the agent anew")
    if not isinstance(options, Mapping):
        raise UsageError(f"the options of {name} are not a table of names and values")
    plugin = importlib.import_module(f"{_ROOT}.{kind}.{name.replace('-', '_')}").plugin
    fields = {field.name for field in dataclasses.fields(plugin) if field.init}
    # A misspelt option must not be dropped quietly, or the report would tell settings that were never used.
    if unknown := sorted(str(option) for option in set(options) - fields):
        raise UsageError(f"{name} has no option {unknown[0][:60]!r} (it has: {', '.join(sorted(fields)) or 'none'})")
    try:
        return plugin(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the options of {name} are refused: {error}") from None


def _source(kind: str, name: str) -> str:
    spec = importlib.util.find_spec(f"{_ROOT}.{kind}.{name}")
    # The agent runs from a zip, where plug-ins have no file; its loader gives the source all the same.
    source = getattr(spec.loader, "get_source", None) if spec else None
    return (source(f"{_ROOT}.{kind}.{name}") or "") if source else ""
