"""The CUDA runtime, called through ctypes: the few calls that score images on a GPU without another package.

Contract-tested: the error paths run against a real libcudart, the copies have not run on hardware.
Calls and their meaning: NVIDIA, "CUDA Runtime API", sections Device, Stream and Memory Management.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ToolchainError

_SONAMES = ("libcudart.so", "libcudart.so.12", "libcudart.so.13", "libcudart.so.11.0")
_TO_DEVICE, _TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_PROPERTIES_BYTES = 1 << 16
"""Room for cudaDeviceProp, which has about a thousand bytes and grows; its name of 256 bytes always comes first."""
_FIX = "install the CUDA runtime (on a Jetson it comes with JetPack) or set CUDA_PATH to the toolkit's folder"


def candidates() -> tuple[str, ...]:
    """Names and paths under which libcudart may be found here, the likeliest first."""
    # CUDA_PATH is the user's own word, so it comes first.
    found = ctypes.util.find_library("cudart")
    roots = [os.environ.get(name, "") for name in ("CUDA_PATH", "CUDA_HOME")]
    toolkit = [Path(root) / folder for root in roots if root for folder in ("lib64", "lib")]
    wheels = [path for entry in sys.path if entry for path in sorted(Path(entry).glob("nvidia/*/lib"))]
    return tuple(dict.fromkeys([*_within(toolkit), *([found] if found else []), *_SONAMES, *_within(wheels)]))


def _within(folders: Iterable[Path]) -> list[str]:
    return [str(path) for folder in folders for path in sorted(folder.glob("libcudart.so*"))]


def load(names: Iterable[str] | None = None) -> Cuda:
    """Load the first CUDA runtime among ``names`` (by default every usual place); ToolchainError where none loads."""
    tried = tuple(candidates() if names is None else names)
    for name in tried:
        try:
            return Cuda(ctypes.CDLL(name))
        except (OSError, AttributeError):  # absent, of another architecture, or not a CUDA runtime at all
            continue
    raise ToolchainError(f"no CUDA runtime could be loaded (tried {', '.join(tried) or 'nothing'}); {_FIX}")


class Cuda:
    """A loaded CUDA runtime. Every failed call raises ToolchainError with CUDA's own words."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._text = library.cudaGetErrorString
        # ctypes takes every result for a 32-bit int by default, which would cut a pointer of 64 bits.
        self._text.restype, self._text.argtypes = ctypes.c_char_p, [ctypes.c_int]
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = ctypes.c_int, arguments

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``name`` and raise ToolchainError unless it returns cudaSuccess."""
        code = getattr(self._library, name)(*arguments)
        if code:
            words = (self._text(code) or b"unknown error").decode("utf-8", "replace")
            raise ToolchainError(f"CUDA refused {name}: {words} (error {code}); check that driver and GPU fit it")

    def _int(self, name: str, *arguments: int) -> int:
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def version(self) -> str:
        """Version of this runtime, e.g. ``12.6``."""
        number = self._int("cudaRuntimeGetVersion")
        return f"{number // 1000}.{number % 1000 // 10}"

    def driver(self) -> str:
        """Latest CUDA version that the driver supports, e.g. ``12.6``; it rises with the driver alone."""
        number = self._int("cudaDriverGetVersion")
        return f"{number // 1000}.{number % 1000 // 10}"

    def name(self) -> str:
        """Name of the first GPU, e.g. ``Orin``."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self.call("cudaGetDeviceProperties", properties, 0)
        return properties.raw[:256].partition(b"\0")[0].decode("utf-8", "replace").strip()

    def devices(self) -> int:
        """Number of GPUs; ToolchainError where there is no driver or no GPU."""
        return self._int("cudaGetDeviceCount")

    def capability(self) -> str:
        """Compute capability of the first GPU, e.g. ``8.7``."""
        major = self._int("cudaDeviceGetAttribute", _CAPABILITY_MAJOR, 0)
        return f"{major}.{self._int('cudaDeviceGetAttribute', _CAPABILITY_MINOR, 0)}"

    @contextmanager
    def stream(self) -> Iterator[int]:
        """Open a stream; the value is its handle."""
        handle = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(handle))
        try:
            yield handle.value or 0
        finally:  # unchecked, here and below: after a fault every call fails, and the first error is the one to tell
            self._library.cudaStreamDestroy(handle)

    @contextmanager
    def event(self) -> Iterator[int]:
        """Hold a moment of a stream's work; the value is its handle."""
        handle = ctypes.c_void_p()
        self.call("cudaEventCreate", ctypes.byref(handle))
        try:
            yield handle.value or 0
        finally:
            self._library.cudaEventDestroy(handle)

    def mark(self, event: int, stream: int) -> None:
        """Let ``event`` be the moment at which everything queued on ``stream`` so far is done."""
        self.call("cudaEventRecord", event, stream)

    def between_ns(self, start: int, end: int) -> int:
        """Return the time between two events that have come about; CUDA tells it to half a microsecond."""
        value = ctypes.c_float()
        self.call("cudaEventElapsedTime", ctypes.byref(value), start, end)
        return round(value.value * 1e6)

    @contextmanager
    def device_memory(self, size: int) -> Iterator[int]:
        """Hold ``size`` bytes on the GPU; the value is their address."""
        address = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(address), size)
        try:
            yield address.value or 0
        finally:
            self._library.cudaFree(address)

    @contextmanager
    def pinned(self, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.float32]]:
        """Hold a page-locked float32 array, which copies run from and to without a detour."""
        count = int(np.prod(shape))
        address = ctypes.c_void_p()
        # cudaMemcpyAsync is only asynchronous for page-locked memory; from other memory it copies through a buffer
        # first.
        self.call("cudaHostAlloc", ctypes.byref(address), max(count, 1) * 4, 0)
        try:
            yield np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,)).reshape(shape)
        finally:
            self._library.cudaFreeHost(address)

    def to_device(self, address: int, source: npt.NDArray[np.float32], stream: int) -> None:
        """Queue a copy of ``source`` (contiguous) to the GPU."""
        self.call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, _TO_DEVICE, stream)

    def to_host(self, target: npt.NDArray[np.float32], address: int, stream: int) -> None:
        """Queue a copy from the GPU into ``target`` (contiguous)."""
        self.call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, _TO_HOST, stream)

    def wait(self, stream: int) -> None:
        """Wait until everything queued on ``stream`` is done."""
        self.call("cudaStreamSynchronize", stream)


_INT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
_SIGNATURES: dict[str, list[Any]] = {
    "cudaRuntimeGetVersion": [ctypes.POINTER(_INT)],
    "cudaDriverGetVersion": [ctypes.POINTER(_INT)],
    "cudaGetDeviceProperties": [_POINTER, _INT],
    "cudaGetDeviceCount": [ctypes.POINTER(_INT)],
    "cudaDeviceGetAttribute": [ctypes.POINTER(_INT), _INT, _INT],
    "cudaStreamCreate": [ctypes.POINTER(_POINTER)],
    "cudaStreamDestroy": [_POINTER],
    "cudaStreamSynchronize": [_POINTER],
    "cudaEventCreate": [ctypes.POINTER(_POINTER)],
    "cudaEventDestroy": [_POINTER],
    "cudaEventRecord": [_POINTER, _POINTER],
    "cudaEventElapsedTime": [ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER],
    "cudaMalloc": [ctypes.POINTER(_POINTER), _SIZE],
    "cudaFree": [_POINTER],
    "cudaHostAlloc": [ctypes.POINTER(_POINTER), _SIZE, ctypes.c_uint],
    "cudaFreeHost": [_POINTER],
    "cudaMemcpyAsync": [_POINTER, _POINTER, _SIZE, _INT, _POINTER],
}
