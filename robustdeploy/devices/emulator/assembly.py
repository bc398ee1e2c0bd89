"""Assembling an emulated board: arm64 Debian packages and aarch64 wheels, unpacked and never installed.

Nothing of this needs root, and nothing is emulated but one last look whether it works. Packages come from the sources
that the machine's apt is set up with, wheels from the index of its uv or pip.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustdeploy.core.files import storage_errors
from robustdeploy.devices.architecture import EMULATED
from robustdeploy.devices.emulator.folder import Folder
from robustdeploy.devices.emulator.programs import check_host, installers, ran, tool
from robustdeploy.errors import StorageError, ToolchainError

Say = Callable[[str], object]

_DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
"""An interpreter and what wheels are linked with; apt adds what these need."""
_FREE_MIB = 1500
"""Packages, wheels and what is left of them: most goes again, above all TVM's compiler."""
_PACKAGES_S, _WHEELS_S, _LOOK_S = 600.0, 900.0, 300.0
_CPU = "cortex-a76"
"""The processor that is emulated, of the Raspberry Pi 5: it has half precision and dot products."""
_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 125.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

Hardware\t: emulated Arm Cortex-A76 (QEMU)
"""
_FFI = "0.1.14.post1"
"""Later ones crash when TVM tunes."""
_LOOK = """\
import json, platform, sys
import numpy, onnxruntime
found = {"machine": platform.machine(), "python": platform.python_version()}
found.update(numpy=numpy.__version__, onnxruntime=onnxruntime.__version__)
try:
    import ctypes, importlib.util, pathlib, tvm_ffi
    lib = pathlib.Path(importlib.util.find_spec("tvm").submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
    ctypes.CDLL(str(lib))
    found["tvm_ffi"] = tvm_ffi.__version__
except (ImportError, OSError, AttributeError):
    pass
print(json.dumps(found))
"""


def assemble(folder: Folder, say: Say) -> dict[str, Any]:
    """Make a whole board in ``folder``, which this process has taken, in place of what is there; return its facts.

    Raises ToolchainError naming the command that mends it, or StorageError where the disk takes no more.
    """
    # All of them first: whoever lacks two would otherwise learn of the second after a minute.
    check_host()
    qemu = tool("qemu-aarch64-static")
    tool("apt-get"), tool("dpkg-deb"), installers()
    _check_room(folder.path)
    with storage_errors(folder.path):
        folder.unseal()
        for left in (folder.root, folder.store, folder.python.parent, folder.path / "pycache", folder.path / "new"):
            shutil.rmtree(left, ignore_errors=True)
        new = folder.path / "new"
        new.mkdir()
        say("fetching arm64 packages")
        packages = _packages(folder.path / "packages")
        for package in packages:
            _need(ran([tool("dpkg-deb"), "-x", str(package), str(new)], 60), f"{package.name} cannot be unpacked", "")
        interpreter, glibc = _interpreter(new), _version_of("libc6", packages)
        _dress(new, interpreter)
        say("fetching aarch64 wheels")
        site = new / "usr/local/lib" / interpreter / "dist-packages"
        tvm = _wheels(site, interpreter, glibc, folder.path / "wheels", say)
        new.rename(folder.root)
        _write_command(folder, qemu, interpreter)
        folder.store.mkdir()
        shutil.rmtree(folder.path / "packages", ignore_errors=True)
    say("trying it")
    facts = _looked_at(folder) | {"cpu": _CPU, "qemu": qemu, "tvm_runtime": tvm, "libc": glibc}
    with storage_errors(folder.path):
        folder.seal(facts)
    return facts


def _check_room(path: Path) -> None:
    if (free := shutil.disk_usage(path).free >> 20) < _FREE_MIB:
        raise StorageError(f"{path} has {free:,} MiB free and a board needs {_FREE_MIB:,}; make room, or give another")


def _need(result: tuple[bool, str], what: str, fix: str) -> str:
    done, words = result
    if not done:
        raise ToolchainError(f"{what} ({words}){f'; {fix}' if fix else ''}")
    return words


def _packages(work: Path) -> list[Path]:
    """Fetch the packages and all that they need, by apt with lists of its own; the machine's stay as they are."""
    for part in ("state", "lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True, exist_ok=True)
    (work / "status").write_text("")  # nothing is installed there yet, so nothing is left out
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "Dir::State": work / "state",
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    if os.geteuid() == 0:
        # apt gives root's rights up for a user who cannot write here.
        options["APT::Sandbox::User"] = "root"
    # Hooks of the machine, which clean its own caches after an update, have nothing to do here.
    hooks = "".join(f"#clear APT::Update::{name};\n" for name in ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"))
    (work / "apt.conf").write_text(hooks)
    apt = [tool("apt-get"), "-q", "-y", "-c", str(work / "apt.conf")]
    apt += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # One source of many may fail here and nothing be missing, so only the second command has to succeed.
    _, words = ran([*apt, "update"], _PACKAGES_S)
    fix = "see that `apt-get update` works, and that apt's sources have arm64: Ubuntu keeps it in another archive"
    done, said = ran([*apt, "--download-only", "install", *_DEBIAN], _PACKAGES_S)
    _need((done, f"{said} {words}"[-700:]), "apt-get cannot fetch arm64 packages", fix)
    return sorted((work / "cache/archives").glob("*.deb"))


def _version_of(package: str, packages: list[Path]) -> str:
    """Return the upstream version of a package, of the names of fetched files."""
    found = (re.match(rf"{re.escape(package)}_(?:\d+%3a)?(\d+(?:\.\d+)*)", path.name) for path in packages)
    return next((match[1] for match in found if match), "")


def _interpreter(root: Path) -> str:
    """Return the name of the interpreter that ``python3`` is, such as ``python3.11``."""
    link = root / "usr/bin/python3"
    name = link.readlink().name if link.is_symlink() else ""
    if not re.fullmatch(r"python3\.\d+", name):
        raise ToolchainError("the arm64 packages hold no Python 3; see that apt's sources are those of one release")
    if int(name.partition(".")[2]) < 10:
        raise ToolchainError(f"the arm64 packages are of {name}, and a board needs Python 3.10; use a newer release")
    return name


def _dress(root: Path, interpreter: str) -> None:
    """Add what a running Arm system shows. What QEMU does not find here, it looks for on the host."""
    texts = {
        # ONNX Runtime reads both; an Arm program that sees the host's processor crashes.
        "proc/cpuinfo": _CPUINFO,
        "proc/device-tree/model": f"{EMULATED}\0",
        "sys/devices/system/cpu/possible": "0\n",
        "sys/devices/system/cpu/present": "0\n",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # The host's clocks, temperatures and packages are none of the board's.
    empty = ("sys/class/thermal", "sys/class/devfreq", "sys/class/hwmon", "sys/bus/platform/drivers")
    for name in (*empty, f"usr/lib/{interpreter}/site-packages", "usr/lib/python3/dist-packages"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _wheels(site: Path, interpreter: str, glibc: str, work: Path, say: Say) -> str:
    """Install the toolchains into ``site`` and return the version of TVM's runtime; empty where there is none."""
    # Engines fit one version of their toolchain, so the board has that of the host.
    runtime, ffi = _as_here("onnxruntime", ">=1.23,<2"), _as_here("apache-tvm-ffi", f"=={_FFI}")
    fix = "see that uv or pip reaches an index that has these wheels for aarch64"
    wanted = ["numpy", f"onnxruntime{runtime}"]
    _need(_install(wanted, site, interpreter, glibc), f"wheels of {' and '.join(wanted)} cannot be fetched", fix)
    shutil.rmtree(work, ignore_errors=True)
    wanted = [f"apache-tvm-ffi{ffi}"]
    there, words = _install(wanted, site, interpreter, glibc)
    if there:
        # Without what it needs: on the board the compiler stays away, and the runtime alone needs none of it.
        wanted = ["--no-deps", f"apache-tvm{_as_here('apache-tvm', '>=0.27,<0.28')}"]
        there, words = _install(wanted, work, interpreter, glibc)
    if not there:
        say(f"note: the board has no TVM ({words})")
        return ""
    (site / "tvm/lib").mkdir(parents=True)
    shutil.copyfile(work / "tvm/lib/libtvm_runtime.so", site / "tvm/lib/libtvm_runtime.so")
    # The library does not tell its version; only what lies beside it in its wheel does.
    told = next(work.glob("apache_tvm-*.dist-info"))
    name = told.name
    (site / name).mkdir()
    shutil.copyfile(told / "METADATA", site / name / "METADATA")
    shutil.rmtree(work)
    return name.removeprefix("apache_tvm-").removesuffix(".dist-info")


def _as_here(package: str, otherwise: str) -> str:
    try:
        return f"=={version(package)}"
    except PackageNotFoundError:
        return otherwise


def _install(wanted: list[str], into: Path, interpreter: str, glibc: str) -> tuple[bool, str]:
    python = interpreter.removeprefix("python")
    newest = int(glibc.partition(".")[2] or 28)
    result = False, ""
    for command in installers():
        if Path(command[0]).name == "uv":
            # Without one that it would look for: nothing is run, so any that is there will do.
            platform = ["--python-platform", f"aarch64-manylinux_2_{min(newest, 40)}", "--only-binary", ":all:"]
        else:
            platform = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(newest, 16, -1)]
            platform += ["--platform=manylinux2014_aarch64", "--only-binary=:all:", "--implementation=cp"]
        words = ["--target", str(into), "--python-version", python, *platform, *wanted]
        result = ran([*command, *words], _WHEELS_S)
        if result[0]:
            break
        shutil.rmtree(into / "bin", ignore_errors=True)
    return result


def _write_command(folder: Folder, qemu: str, interpreter: str) -> None:
    """Write the command that runs the interpreter under QEMU. It is what Python starts to start itself, too."""
    # Where the board lacks a file, QEMU opens the host's, and would write compiled modules there.
    cache = shlex.quote(str(folder.path / "pycache"))
    run = [qemu, "-cpu", _CPU, "-L", str(folder.root)]
    program = str(folder.root / "usr/bin" / interpreter)
    folder.python.parent.mkdir()
    folder.python.write_text(
        "#!/bin/sh\n"
        "unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE LD_PRELOAD LD_LIBRARY_PATH VIRTUAL_ENV\n"
        f"export PYTHONNOUSERSITE=1 PYTHONPYCACHEPREFIX={cache}\n"
        f'exec {shlex.join(run)} -0 "$0" {shlex.quote(program)} "$@"\n'
    )
    folder.python.chmod(0o755)


def _looked_at(folder: Folder) -> dict[str, Any]:
    """Run the board's interpreter once with its toolchains; what it tells is what the board has."""
    result = ran([str(folder.python), "-c", _LOOK], _LOOK_S, {"ORT_DISABLE_TELEMETRY": "1"})
    said = _need(result, "the board was assembled and does not work", "install a newer QEMU, then repeat")
    found: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return found
