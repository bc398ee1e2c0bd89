"""Machine: what a measurement ran on, in words that name no path, host or user."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def description(device: torch.device) -> dict[str, Any]:
    """Return what decides the speed of torch on ``device``, as plain JSON values."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def load_average() -> float | None:
    """Return how many processes wanted to run, averaged over the last minute; None where the system keeps no count."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def in_words(found: dict[str, Any]) -> str:
    """Return a description as one line."""
    gpu = f"{found['gpu']} (CUDA {found['cuda']}), " if "gpu" in found else ""
    cores, threads = (
        f"{found[what]} {what.removesuffix('s') if found[what] == 1 else what}" for what in ("cores", "threads")
    )
    return (
        f"{gpu}{cores} of {found['cpu']} ({found['cpu_capability']}), {threads}, "
        f"{found['system']}, Python {found['python']}, torch {found['torch']}"
    )


def _cpu_model() -> str:
    """Return the processor's own name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
