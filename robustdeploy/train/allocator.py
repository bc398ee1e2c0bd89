"""Allocator: memory that a layer has freed stays with the process, for the next layer to use.

The C library of most Linux systems soon gives blocks of some megabytes back to the kernel. A training on the CPU frees
and takes hundreds of them in every step, and the kernel clears each page anew: a tenth of a step's time.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers that mallopt knows these settings by."""
_LARGEST_BLOCK = 32 * 2**20
"""Highest size, in bytes, below which glibc can be told to keep blocks for itself."""
_KEPT = 2**30


def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB of freed memory; False where the C library cannot or the user has settings."""
    # Somebody has tuned this process already; two sets of thresholds would make neither true.
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        # glibc alone has it; musl, macOS and Windows do not.
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another system's, or another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
