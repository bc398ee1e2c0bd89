"""Land an agent on a board and stay with it until it ends, its time is over or its host is gone.

A host passes this file's text to the board's Python (``python3 -c``) before anything else of ours is there. So it
stands alone, is plain ASCII, and keeps to what Python 3.7 reads: an older board must get as far as telling its version.

Before the agent starts, standard output carries one line ``robustdeploy-board {json}``; the host answers ``start`` or
``bytes`` and the agent's bytes; then comes the line ``robustdeploy-ready`` and the pipe is the agent's alone.

Killing an SSH client leaves its remote command running, and an agent deep in a build does not look at its pipe. So
this process stays beside the agent and ends it. It sleeps meanwhile, so that it does not disturb what is being timed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LOCK_S = 15.0


def say(line: str) -> None:
    """Write one line to the host, past every buffer."""
    os.write(1, (line + "\n").encode())


def facts(folder: Path, digest: str) -> dict[str, object]:
    """Say what this board has: Python, numpy, free bytes, and whether the agent is there already."""
    return {
        "python": list(sys.version_info[:3]),
        "numpy": importlib.util.find_spec("numpy") is not None,
        "free": shutil.disk_usage(str(folder)).free,
        "have": digest_of(agent_path(folder, digest)) == digest,
    }


def agent_path(folder: Path, digest: str) -> Path:
    """Name the agent by its content, so that it is sent once and never mixed up with another."""
    return folder / ("agent-" + digest[:16] + ".pyz")


def digest_of(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def lock(folder: Path, patience_s: float, token: str) -> int:
    """Take the board, since two runs at once spoil each other's timing; BlockingIOError where it is taken already.

    A holder with our own ``token`` is what a lost connection of the same run left behind, and is ended.
    """
    handle = os.open(str(folder / "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hold(handle, token)
            return handle
        except BlockingIOError:
            holder = read_holder(handle)
            if token and holder.get("token") == token:
                end_holder(holder)
            if time.monotonic() > deadline:
                os.close(handle)
                raise BlockingIOError(told_of(holder)) from None
            time.sleep(0.2)


def hold(handle: int, token: str, agent: int = 0) -> None:
    """Write who holds the board, for whoever finds it taken."""
    host = os.environ.get("SSH_CLIENT", "").split(" ")[0]
    holder = {"pid": os.getpid(), "agent": agent, "token": token, "host": host, "since": time.strftime("%H:%M:%S")}
    with contextlib.suppress(OSError):  # a full disk; who is locked out then hears less
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode("ascii"), 0)


def read_holder(handle: int) -> dict[str, object]:
    """Return what `hold` wrote; nothing where that cannot be read."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0).decode("ascii"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def end_holder(holder: dict[str, object]) -> None:
    """Kill the holder and its agent. Both hold the lock, so while it is held their numbers are theirs."""
    for name in ("pid", "agent"):
        number = holder.get(name)
        if type(number) is int and number > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)


def told_of(holder: dict[str, object]) -> str:
    """Say who holds the board, and how it is ended."""
    if not holder:
        return "wait for it or end it"
    place = " from " + str(holder["host"]) if holder.get("host") else ""
    when = "since %s%s" % (holder.get("since"), place)
    return "%s; wait for it, or end it there with `kill %s`" % (when, holder.get("pid"))


def take(count: int) -> bytes:
    """Read exactly ``count`` bytes, never one more: what follows is the agent's. EOFError where the host hangs up."""
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 16))
        if not part:
            raise EOFError("the host hung up")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def store(folder: Path, digest: str, size: int) -> None:
    """Receive the agent and put it in place as a whole or not at all; ValueError where it is not what was announced."""
    data = take(size)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError("the agent arrived damaged")
    handle, name = tempfile.mkstemp(dir=str(folder))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(agent_path(folder, digest))
    except OSError:
        Path(name).unlink()
        raise


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill the agent and everything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def end_after_hangup(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait for the host's end of the pipe to close, give the agent ``grace_s`` to notice, then end it."""
    waiter = select.poll()
    waiter.register(0, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
    waiter.poll()
    time.sleep(grace_s)
    end(child)


def end_overdue(child: subprocess.Popen[bytes], lifetime_s: float) -> None:
    """End the agent after ``lifetime_s``."""
    time.sleep(lifetime_s)
    sys.stderr.write("the agent was ended after its time of %g s\n" % lifetime_s)
    sys.stderr.flush()
    end(child)


def stay(path: Path, lifetime_s: float, grace_s: float, handle: int = -1, token: str = "") -> int:
    """Run the agent on our own pipe and return its exit status, 128 and more for one that a signal ended.

    The agent inherits the lock ``handle``: should this process be killed, the board stays taken while the agent lives.
    """
    command = [sys.executable, str(path), "--work", str(path.parent / "work")]
    early: list[int] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: early.append(number))
    # The kernel ends the agent after its time even where this process is gone; exec keeps the alarm.
    late = int(lifetime_s + grace_s) + 1
    held = () if handle < 0 else (handle,)
    child = subprocess.Popen(
        command, start_new_session=True, pass_fds=held, preexec_fn=lambda: signal.alarm(late) and None
    )
    if handle >= 0:
        hold(handle, token, child.pid)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: end(child))
    if early:  # it came while there was no child to end yet
        end(child)
    for watch, seconds in ((end_after_hangup, grace_s), (end_overdue, lifetime_s)):
        threading.Thread(target=watch, args=(child, seconds), daemon=True).start()
    code = child.wait()
    end(child)  # what it started and left behind
    return code if code >= 0 else 128 - code


def greet(folder: Path, digest: str, token: str) -> int:
    """Take the board and tell the host what it has, or why it cannot be had. Returns the lock, negative without one."""
    problem, handle = "", -1
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = lock(folder, LOCK_S, token)
        told = facts(folder, digest)
    except BlockingIOError as error:
        problem = "another run holds this board (%s) %s" % (folder / "lock", error)
    except OSError as error:
        problem = str(error)
    say("robustdeploy-board " + json.dumps({"problem": problem} if problem else told))
    return -1 if problem else handle


def main(arguments: list[str]) -> int:
    """Run with folder, SHA-256, size, lifetime, grace and token; return the exit status."""
    name, digest, size, lifetime_s, grace_s, *tokens = arguments
    folder, token = Path(name), "".join(tokens)
    # Nothing here may outlive its time, not even where a disk or an import hangs.
    signal.alarm(int(float(lifetime_s) + float(grace_s)) + 60)
    handle = greet(folder, digest, token)
    if handle < 0:
        return 1
    try:
        if take(6) == b"bytes\n":
            store(folder, digest, int(size))
    except (EOFError, OSError, ValueError) as error:
        fix = "; make room in %s or set the link's folder" % folder if isinstance(error, OSError) else ""
        sys.stderr.write("the agent could not be stored: %s%s\n" % (error, fix))
        return 1
    say("robustdeploy-ready")
    return stay(agent_path(folder, digest), float(lifetime_s), float(grace_s), handle, token)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
