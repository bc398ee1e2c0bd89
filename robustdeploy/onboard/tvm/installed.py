"""What is installed of TVM: the runtime library that every engine needs, and the compiler where it is there too."""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import ToolchainError
from ..installing import to_install

FFI = "0.1.14.post1"
"""The version of apache-tvm-ffi that TVM 0.27 is right with: later ones crash in every tuning."""
_PACKAGES = f"'apache-tvm==0.27.*' 'apache-tvm-ffi=={FFI}'"
FIX = to_install(_PACKAGES, "tvm")
WHOLE_FIX = to_install(f"{_PACKAGES} onnx", "tvm")
_LIBRARY = "libtvm_runtime.so"
_COMPILER = "libtvm_compiler.so"


@dataclass(frozen=True)
class Runtime:
    """What runs engines here."""

    version: str
    ffi_version: str
    ffi: Any
    """The module `tvm_ffi`."""


def runtime(library: str = "") -> Runtime:
    """Load TVM's runtime library; ToolchainError with the fix where something of it is missing.

    It is ``library`` itself, or in the folder ``library``, where that is given. Else it is in ``tvm/lib`` of a folder
    that Python imports from, or where the system's loader finds it.
    """
    ffi = _imported("tvm_ffi")
    path = _library(library)
    try:
        # An engine finds the runtime's functions only where they are visible to the whole process.
        ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ToolchainError(f"TVM's runtime library {path} cannot be loaded ({error}); {FIX}") from None
    return Runtime(_version(), str(ffi.__version__), ffi)


def compiler() -> Any:
    """Import TVM with its compiler; ToolchainError with the fix where that is not here."""
    if not compiles():
        raise ToolchainError(f"TVM's compiler is not installed here, so no engine can be built; {WHOLE_FIX}")
    tvm = _imported("tvm")
    for part in ("relax.frontend.onnx", "s_tir", "te"):
        _imported(f"tvm.{part}")
    return tvm


def onnx_package() -> Any:
    """Import the onnx package, which TVM reads graphs with."""
    onnx = _imported("onnx")
    for part in ("reference", "shape_inference"):
        _imported(f"onnx.{part}")
    return onnx


def nvcc() -> Any:
    """Import what compiles CUDA source for TVM."""
    return _imported("tvm.support.nvcc")


def package_folder(name: str) -> Path:
    """Return the folder of a package, or where it would be beside the others."""
    places = [Path(entry or ".") / name for entry in sys.path]
    return next((place for place in places if place.is_dir()), Path(name))


def compiles() -> bool:
    """Say whether the compiler is installed here; it is not loaded for that."""
    return any((folder / _COMPILER).is_file() for folder in _folders()) and bool(importlib.util.find_spec("onnx"))


@lru_cache(maxsize=None)
def _imported(name: str) -> Any:
    # It would have a C compiler build an extension for torch when it is imported.
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    try:
        with _without_torch():
            # By name, since the agent must start on boards that have another toolchain alone.
            return importlib.import_module(name)
    except (ImportError, OSError, AttributeError) as error:
        package = name.partition(".")[0]
        fix = "python3 -m pip install onnx" if package == "onnx" else FIX
        raise ToolchainError(f"{package} cannot be imported ({type(error).__name__}: {error}); {fix}") from None


@contextmanager
def _without_torch() -> Iterator[None]:
    """Let `tvm_ffi` find no torch, where that is not loaded yet: it takes seconds and is not needed here."""
    if "torch" in sys.modules:
        yield
        return
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    try:
        yield
    finally:
        del modules["torch"]


def _library(given: str) -> str:
    if given:
        path = Path(given).expanduser()
        path = path / _LIBRARY if path.is_dir() else path
        if not path.is_file():
            raise ToolchainError(f"the option runtime of tvm names {given}, and there is no {_LIBRARY}; correct it")
        return str(path)
    found = (folder / _LIBRARY for folder in _folders())
    # By its bare name the system's own loader looks for it, along LD_LIBRARY_PATH too.
    return next((str(path) for path in found if path.is_file()), _LIBRARY)


def _folders() -> list[Path]:
    """Folders `tvm/lib` that Python can see, whether the whole package is there or the runtime library alone."""
    # Not `find_spec("tvm")`: without an `__init__.py` it would find nothing, or import what it finds.
    return [Path(entry or ".") / "tvm" / "lib" for entry in sys.path]


def _version() -> str:
    try:
        return importlib.metadata.version("apache-tvm")
    except importlib.metadata.PackageNotFoundError:
        pass
    raise ToolchainError(
        "TVM's runtime library does not tell its version, and the folder apache_tvm-VERSION.dist-info of its wheel is "
        f"not beside it; copy that folder too, or {FIX}"
    )
