"""Factories by name, ``package.module:factory``: what may be one, and which file it is in. Nothing is imported here."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from robustdeploy.errors import RecipeError

TORCHVISION = "torchvision.models:"
"""Before the name of a classifier of torchvision, which is safe to call by name: those are listed."""
ONNX_FILE = "onnx-file"
"""The name of a net that is an ONNX file; it comes with ``import`` and is never built."""
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
# fmt: off
_NEVER = frozenset({
    "torch", "torchvision", "numpy", "scipy", "sklearn", "pandas", "PIL", "yaml", "onnx", "onnxruntime", "onnxscript",
    "safetensors", "pydantic", "jinja2", "typer", "click", "rich", "joblib", "dill", "cloudpickle", "pip",
    "setuptools", "pkg_resources", "wheel", "pytest", "_pytest", "IPython", "torch_pruning", "huggingface_hub",
    "tensorflow", "jax", "robustdeploy",
})
# fmt: on
"""Packages that define no classifier of anybody's, while some of their functions run files or commands."""
_BUILDING = ("torch.nn", "torchvision.models")
"""Inside those, what a module of the user's may import and offer under its own name."""


def is_factory(name: str) -> bool:
    """Say whether a net's name is that of a factory, code to import and call; a classifier of torchvision is none."""
    return ":" in name and not name.startswith(TORCHVISION)


def check_factory_name(name: str) -> None:
    """Refuse, before anything is imported, what is no name of a factory or lies where no factory is."""
    if not _NAME.fullmatch(name):
        raise RecipeError(f"net {name!r} is no factory; write package.module:factory")
    module = name.partition(":")[0]
    if refused := never(module):
        raise RecipeError(
            f"net '{name}': {refused}, so nothing of it is called as a net's factory; name a class or function of a "
            "module of your own"
        )


def never(module: str) -> str:
    """Return why nothing of ``module`` may be called as a factory, or nothing where it may."""
    top = module.partition(".")[0]
    # `os:system` is callable by name, and so is much else of Python's library.
    if top in sys.stdlib_module_names or top == "__main__":
        return f"{top} is a module of Python itself"
    return f"{module} belongs to {top}, which defines no net of yours" if top in _NEVER else ""


def never_defined_in(module: str) -> str:
    """Return why no factory may come from ``module``, where its code stands; parts of nets may be imported."""
    building = any(module == name or module.startswith(f"{name}.") for name in _BUILDING)
    return "" if building else never(module)


def origin(name: str) -> Path | None:
    """Return the file that defines the factory ``name``, found without importing any of it; None where there is none.

    The current folder is looked at too, after all that is installed.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # a net beside the recipe is found, and shadows nothing that is installed
    found = source_of(name.partition(":")[0])
    if found is not None and found.is_dir():
        found = found / "__init__.py"
    return found if found is not None and found.is_file() else None


def source_of(module: str) -> Path | None:
    """Path of a module's file or package's folder, found without importing any of its parents."""
    top, *rest = module.split(".")
    try:
        # Only of the top: for a dotted name find_spec imports the parents.
        spec = importlib.util.find_spec(top)
    except (ValueError, ImportError):
        return None
    if spec is None:
        return None
    if not rest:
        if spec.origin:
            return Path(spec.origin)
        return next((Path(base) for base in spec.submodule_search_locations or ()), None)
    for base in spec.submodule_search_locations or ():
        folder = Path(base, *rest)
        for path in (folder.with_name(f"{folder.name}.py"), folder):
            if path.exists():
                return path
    return None


def check_factory_source(name: str, file: Path) -> None:
    """Refuse, by reading ``file`` and before it is imported, a factory that is not in it or is no class or function."""
    module, _, attribute = name.partition(":")
    try:
        # Read and not imported: to import a module runs it, whether or not the factory is in it.
        tree = ast.parse(file.read_bytes()) if file.suffix == ".py" else None
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"net '{name}' cannot be imported: {file} is no sound Python: {error}") from error
    # A compiled module cannot be read here; it is held to the rules when it is imported.
    if tree is None:
        return
    # A star import or a module's `__getattr__` may define any name.
    bound = [(found, node) for found, node in _bound(tree.body) if found in (attribute, "*", "__getattr__")]
    if not bound:
        raise RecipeError(
            f"net '{name}' cannot be imported: {file} defines no {attribute}; write package.module:factory and see "
            "that it is the right module"
        )
    # The last binding is the one that stands when the module has run.
    node = bound[-1][1]
    # A module of the user's may import a dangerous function, whose name would then look like the user's own.
    if isinstance(node, ast.ImportFrom) and not node.level and (refused := never_defined_in(node.module or "")):
        raise RecipeError(f"net '{name}': {module} only imports {attribute}, and {refused}; define a factory there")
    if isinstance(node, ast.Import) or (
        isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
    ):
        raise RecipeError(f"net '{name}' is no class and no function in {file}; a factory must be callable")


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that the statements of a module bind, also inside ``if`` and ``try``, each with its statement."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], node
        else:
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    yield part.id, node
            for field in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound(handler.body)
