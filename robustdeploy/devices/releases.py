"""Which release of a toolchain reads which ONNX opset, and what each JetPack brings: known before anything is built.

Where each row comes from stands in docs/targets.md. A release that is not listed is taken for the nearest older one.
"""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from robustdeploy.errors import ToolchainError

OPSETS = {
    "onnxruntime": (("1.19", 21), ("1.21", 22), ("1.23", 23), ("1.24", 25), ("1.25", 26)),
    "tensorrt": (("10.0", 20), ("10.6", 22), ("11.0", 25)),
}
"""By backend: from which version on, the newest opset that it reads."""


@dataclass(frozen=True)
class JetPack:
    """One release of NVIDIA's software for Jetson boards."""

    name: str
    l4t: str
    """The first version of Jetson Linux that it stands on."""
    tensorrt: str
    cuda: str
    python: str


JETPACKS = (
    JetPack("JetPack 5", "35", "8.4", "11.4", "3.8"),
    JetPack("JetPack 6.0", "36.2", "8.6", "12.2", "3.10"),
    JetPack("JetPack 6.1 or 6.2", "36.4", "10.3", "12.6", "3.10"),
    JetPack("JetPack 7", "38", "10.13", "13.0", "3.12"),
)
"""In the order of their Jetson Linux."""


def newest_opset(backend: str, version: str) -> int | None:
    """Return the newest ONNX opset that a toolchain reads; None where nothing is known of it."""
    try:
        fitting = [opset for first, opset in OPSETS.get(backend, ()) if Version(first) <= Version(version)]
    except InvalidVersion:
        return None
    return max(fitting, default=None)


def check_opset(backend: str, version: str, opset: int, where: str) -> None:
    """Raise ToolchainError where a file of ``opset`` is newer than what the toolchain in ``where`` reads."""
    newest = newest_opset(backend, version)
    if newest is not None and opset > newest:
        raise ToolchainError(
            f"{where}: {backend} {version} reads ONNX up to opset {newest}, and the net is exported with opset {opset}"
            f"; set the target's opset to {newest}, or install a newer {backend} there"
        )


def jetpack_of(l4t: str) -> JetPack | None:
    """Return the JetPack that stands on this version of Jetson Linux; None where it is no Jetson, or an older one."""
    try:
        fitting = [each for each in JETPACKS if Version(each.l4t) <= Version(l4t)]
    except InvalidVersion:
        return None
    return fitting[-1] if fitting else None


def jetpack_with(tensorrt: str) -> JetPack:
    """Return the oldest JetPack that brings TensorRT ``tensorrt`` or a newer one; the newest where none does."""
    return next((each for each in JETPACKS if Version(each.tensorrt) >= Version(tensorrt)), JETPACKS[-1])


def jetpack_advice(backend: str, bounds: str, l4t: str) -> str:
    """Say which JetPack mends a missing or too old TensorRT on a Jetson; empty where that is none of its matter."""
    there = jetpack_of(l4t)
    if backend != "tensorrt" or there is None:
        return ""
    least = next((part.strip()[2:] for part in bounds.split(",") if part.strip().startswith(">=")), "10.3")
    wanted = jetpack_with(least)
    if Version(there.tensorrt) >= Version(wanted.tensorrt):
        return f"Jetson Linux {l4t} there ({there.name}) brings it: `sudo apt-get install nvidia-jetpack`"
    return (
        f"the board has Jetson Linux {l4t} ({there.name}) with TensorRT {there.tensorrt} and CUDA {there.cuda}; "
        f"install {wanted.name}, which brings TensorRT {wanted.tensorrt}, CUDA {wanted.cuda} and Python {wanted.python}"
    )
