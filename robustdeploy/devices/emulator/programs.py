"""The host's own programs that an emulated board needs: where they are, and how to get those that are missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from robustdeploy.core.target import ARCHITECTURES
from robustdeploy.errors import ToolchainError

_PACKAGES = {
    "qemu-aarch64-static": "qemu-user-static",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
_ALSO = {"qemu-aarch64-static": ("qemu-aarch64",)}
"""Other names of the same program: newer systems have QEMU's static binaries without the suffix."""
_PATH = ":".join((os.defpath, "/usr/sbin", "/usr/local/sbin", "/sbin"))


def tool(name: str) -> str:
    """Return the path of a program; ToolchainError with the command that installs it where it is missing."""
    for each in (name, *_ALSO.get(name, ())):
        # A server's folder is on the PATH of root alone.
        found: str | None = shutil.which(each) or shutil.which(each, path=_PATH)
        if found is not None:
            return found
    raise ToolchainError(f"{name} is not installed; `{install(name)}`")


def install(name: str) -> str:
    """Return the command that installs a program."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install {_PACKAGES[name]}"


def check_host() -> None:
    """Raise ToolchainError where this machine cannot emulate an Arm board, or is one."""
    if sys.platform != "linux":
        raise ToolchainError(f"an emulated board runs on Linux alone, and this is {sys.platform}; use a Linux machine")
    if ARCHITECTURES.get(platform.machine().lower()) == "aarch64":
        raise ToolchainError("this machine is aarch64 itself; `--target host-cpu` needs no emulation")


def installers() -> list[list[str]]:
    """Return what can install wheels of another architecture, the quickest first."""
    found = [[uv, "pip", "install", "--quiet"]] if (uv := shutil.which("uv")) else []
    # The project's own environment may have been made without pip.
    if find_spec("pip") is not None:
        found.append([sys.executable, "-m", "pip", "install", "--quiet"])
    elif pip := shutil.which("pip3") or shutil.which("pip"):
        found.append([pip, "install", "--quiet"])
    if not found:
        raise ToolchainError("neither uv nor pip is installed; `python3 -m ensurepip`, or install uv")
    return found


def ran(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Run a program to its end; return whether it succeeded, and its standard output or else its last words."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"it did not end within {seconds:g} s"
    except OSError as error:
        return False, str(error.strerror or error)
    if done.returncode == 0:
        return True, done.stdout.decode("utf-8", "replace")
    lines = [line.strip() for line in (done.stderr or done.stdout).decode("utf-8", "replace").splitlines()]
    return False, " ".join([line for line in lines if line][-3:])[-500:] or f"it ended with status {done.returncode}"
