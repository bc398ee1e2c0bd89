"""GPU: code for one of NVIDIA's boards, by TVM's name for it. Experimental: kernels are compiled here, and ran nowhere.

The library holds the kernels as CUDA source, which TVM compiles when a board loads it. So the board needs all of TVM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArtifactError, ToolchainError, UsageError
from ..types import Model, Pixels
from .installed import compiler, nvcc, package_folder
from .running import LIBRARY, About, words_of

_FIX = "python3 -m pip install 'cuda-bindings>=13,<14' nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl"


def gpu_target(tvm: Any, tag: str) -> Any:
    """Return TVM's description of a board with a GPU; ToolchainError where it knows no such board."""
    try:
        target = tvm.target.Target(tag)
    except Exception:  # TVM's own, which show its parser
        target = None
    if target is None or str(target.kind.name) != "cuda" or target.host is None:
        raise ToolchainError(f"TVM knows no board {tag} with a CUDA GPU and a host; see tvm.target.list_tags()")
    return target


def kernels_of(module: Any) -> str:
    """Return the CUDA source that a compiled module holds."""
    found = [part.inspect_source() for part in module.imports if part.kind == "cuda"]
    return "\n".join([*found, *(kernels_of(part) for part in module.imports)])


def cubin_of(source: str, target: Any) -> bytes:
    """Compile kernels with NVRTC, which needs no GPU; ToolchainError with the fix where that cannot be had."""
    # The wheels put headers into two folders beside each other. Without a hint TVM looks into one of the system's.
    include = package_folder("nvidia") / "cu13" / "include"
    if include.is_dir():
        os.environ.setdefault("CUDA_PATH", str(include.parent))
    try:
        with target:
            arch, more = str(target.attrs["arch"]), [f"-I{include / 'cccl'}"]
            return bytes(nvcc().compile_cuda(source, "cubin", arch=arch, options=more, compiler="nvrtc"))
    except Exception as error:  # NVRTC's words, after a line that says that they follow
        words = " ".join(str(error).replace("\x00", "").split())[:200]
        raise ToolchainError(f"the kernels cannot be compiled here: {words}; {_FIX}") from None


def note_on(executable: Any, target: Any) -> str:
    """Say whether the kernels compile for the board, as far as that can be found out here."""
    arch = str(target.attrs["arch"])
    try:
        size = len(cubin_of(kernels_of(executable.mod), target))
    except ToolchainError as error:
        return f"experimental: kernels for {arch} are source that was not compiled here ({error})"
    return f"experimental: kernels compile for {arch}, to {size:,} bytes; they were not run"


@contextmanager
def opened_on_gpu(engine: Path, about: About) -> Iterator[Model]:
    """Load an engine onto the first GPU, with all of TVM."""
    tvm = compiler()
    device = tvm.cuda(0)
    if not device.exist:
        raise ToolchainError(
            f"the engine is for {about.gpu} and TVM finds no CUDA GPU here; see that nvidia-smi lists one"
        )
    try:
        machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(engine / LIBRARY)), device)
    except Exception as error:
        raise ArtifactError(f"TVM {about.version} cannot load the engine: {words_of(error)}; {_FIX}") from None

    def scored(images: Pixels) -> Any:
        if images.ndim != 4 or images.shape[1:] != about.image:
            raise UsageError(f"the engine reads N×{'×'.join(map(str, about.image))} images, not {images.shape}")
        scores = np.empty((len(images), about.classes), np.float32)
        for row, image in zip(scores, images, strict=True):
            row[:] = machine["main"](tvm.runtime.tensor(np.ascontiguousarray(image[None]), device)).numpy()[0]
        return scores

    yield scored
