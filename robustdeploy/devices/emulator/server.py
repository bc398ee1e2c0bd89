"""The SSH server of an emulated board: on loopback, for one user and one key, and gone without a trace when stopped."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from robustdeploy.core.files import atomic_write_json, atomic_write_text, storage_errors
from robustdeploy.devices.emulator.folder import HOST, Folder
from robustdeploy.devices.emulator.processes import MARK, kill, processes_of, started_at
from robustdeploy.devices.emulator.programs import ran, tool
from robustdeploy.errors import BoardError, ToolchainError

_LISTENS_S, _LOGIN_S, _ENDS_S = 10.0, 120.0, 5.0
_TRIES = 5
"""How many free ports are tried: another program may take one before the server does."""
_TARGET = """\
# The emulated Arm board in this folder. Written by `robustdeploy board start`.
#   robustdeploy run --target {target}
name: aarch64-emulated
extends: aarch64-emulated
link: {{name: emulated, folder: {folder}}}
"""


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    pid: int
    began: int
    """Tells its process from a later one with the same number, as after a restart of the machine."""
    port: int


def running(folder: Folder) -> Running | None:
    """Return the server that runs for ``folder``; None where there is none."""
    try:
        found = Running(**json.loads((folder.ssh / "server.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if started_at(found.pid) == found.began else None


def start(folder: Folder, port: int | None = None) -> Running:
    """Start the server, log in once, and write the target file. On ``port``, or on one that is free.

    Raises ToolchainError where a program is missing, BoardError where the port is taken or the login fails.
    """
    for name in ("qemu-aarch64-static", "sshd", "ssh", "ssh-keygen"):
        tool(name)
    if port is not None and not _is_free(port):
        raise BoardError(f"port {port} of this machine is taken; leave --port out, and a free one is found")
    with storage_errors(folder.ssh):
        folder.ssh.mkdir(mode=0o700, exist_ok=True)
        _write_keys(folder)
    for _ in range(_TRIES):
        server = _served(folder, port or _free_port())
        if server is not None:
            break
        if port is not None:
            raise BoardError(f"the SSH server does not start: {_last_words(folder)}")
    else:
        raise BoardError(f"the SSH server does not start on any of {_TRIES} ports: {_last_words(folder)}")
    try:
        _log_in(folder)
    except BaseException:
        stop(folder)
        raise
    atomic_write_text(folder.target, _TARGET.format(target=folder.target, folder=json.dumps(str(folder.path))))
    return server


def stop(folder: Folder) -> int:
    """End the server and all that it started; return how many processes there were besides it.

    Raises BoardError where one cannot be ended.
    """
    server = running(folder)
    if server is not None:
        # First the server, so that nothing new is started meanwhile.
        os.kill(server.pid, signal.SIGTERM)
        kept = kill([server.pid], _ENDS_S)
    else:
        kept = []
    ended: set[int] = set()
    # What forks while it is looked for is found by the next look.
    while not kept and (rest := processes_of(None if server is None else server.pid, str(folder.path))):
        kept = kill(rest, _ENDS_S)
        ended.update(rest)
    (folder.ssh / "server.json").unlink(missing_ok=True)
    if kept:
        raise BoardError(f"process {kept[0]} of the board in {folder.path} does not end; end it by hand, then repeat")
    return len(ended)


def sessions(folder: Folder, server: Running) -> int:
    """Return how many processes the server has started that are still there."""
    return len(processes_of(server.pid, str(folder.path)))


def _write_keys(folder: Folder) -> None:
    ssh = folder.ssh
    for name in ("host", "user"):
        if not (ssh / name).is_file():
            (ssh / f"{name}.pub").unlink(missing_ok=True)
            words = [tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", HOST, "-f", str(ssh / name)]
            done, said = ran(words, 60)
            if not done:
                raise ToolchainError(f"ssh-keygen makes no key in {ssh}: {said}")
    shutil.copyfile(ssh / "user.pub", ssh / "authorized_keys")


def _served(folder: Folder, port: int) -> Running | None:
    """Start a server on ``port``; None where it ends before it listens."""
    ssh = folder.ssh
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # a server of root insists on this folder
    lines = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": _quoted(ssh / "host"),
        "AuthorizedKeysFile": _quoted(ssh / "authorized_keys"),
        "AllowUsers": getpass.getuser(),
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitUserEnvironment": "no",
        "DisableForwarding": "yes",
        "PidFile": _quoted(ssh / "pid"),
        # It asks for a home folder that no other user can write to; the key lies elsewhere.
        "StrictModes": "no",
        "UsePAM": "no",
        # The second keeps bash from reading the login files of whoever started the board, which may do anything.
        "SetEnv": f'{MARK}="{folder.path}" SHLVL="1"',
    }
    atomic_write_text(ssh / "sshd_config", "".join(f"{name} {value}\n" for name, value in lines.items()))
    for left in ("log", "pid"):
        (ssh / left).unlink(missing_ok=True)
    # It leaves this process and its terminal by itself, so that Ctrl-C there does not end it.
    words = [tool("sshd"), "-f", str(ssh / "sshd_config"), "-E", str(ssh / "log")]
    done, said = ran(words, _LISTENS_S)
    if not done:
        raise BoardError(f"the SSH server does not start: {said}")
    until = time.monotonic() + _LISTENS_S
    while time.monotonic() < until and "Cannot bind any address" not in _last_words(folder):
        # The server writes its number once it listens.
        if (pid := _pid(ssh / "pid")) and (began := started_at(pid)) is not None:
            server = Running(pid, began, port)
            _write_client(folder, port)
            atomic_write_json(ssh / "server.json", asdict(server))
            return server
        time.sleep(0.02)
    return None


def _pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _write_client(folder: Folder, port: int) -> None:
    ssh = folder.ssh
    kind, key = (ssh / "host.pub").read_text().split()[:2]
    atomic_write_text(ssh / "known_hosts", f"[127.0.0.1]:{port} {kind} {key}\n")
    lines = {
        "HostName": "127.0.0.1",
        "Port": port,
        "User": getpass.getuser(),
        "IdentityFile": _quoted(ssh / "user"),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": _quoted(ssh / "known_hosts"),
        "GlobalKnownHostsFile": "none",
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
    }
    atomic_write_text(folder.config, f"Host {HOST}\n" + "".join(f"  {name} {value}\n" for name, value in lines.items()))


def _log_in(folder: Folder) -> None:
    """Log in once, and let the board say what it is: what is wrong is then told now, and not by a run."""
    words = [tool("ssh"), "-F", str(folder.config), "-o", "BatchMode=yes", "-T", HOST]
    done, said = ran([*words, f"exec '{folder.python}' -c 'import platform; print(platform.machine())'"], _LOGIN_S)
    if not done:
        raise BoardError(f"the board's server runs, but a login fails: {said}; its log: {_last_words(folder)}")
    wanted = (folder.facts or {}).get("machine")
    if said.split()[-1:] != [wanted]:
        raise BoardError(f"the board says that it is {said.strip()[-100:]!r}, not {wanted}; create it again")


def _last_words(folder: Folder) -> str:
    try:
        lines = (folder.ssh / "log").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return " | ".join(lines[-3:])[-500:] or "it said nothing"


def _quoted(path: Path) -> str:
    return f'"{path}"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
