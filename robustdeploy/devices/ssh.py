"""A board reached by SSH: the system's own OpenSSH client, known hosts only, one connection, no open port.

The agent is copied once (named by its SHA-256) and then run on the connection's own pipe. What the board says on
standard error is untrusted text and is shown stripped of control characters.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, cast

from robustdeploy.core.files import expanded
from robustdeploy.devices.link import Pipe, check_place
from robustdeploy.errors import ArtifactError, BoardError, ToolchainError, UsageError

# Letters that no shell, no ProxyCommand and no option parser reads as anything else (cf. CVE-2023-51385).
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
# JetPack 6 comes with 3.10, and a board's own interpreter cannot be replaced easily.
_OLDEST_PYTHON = (3, 10)
# Login scripts may print a banner before any command runs; this is far above any real one.
_NOISE_BYTES = 1 << 16
_TAIL_BYTES = 1 << 14
_BOARD, _READY = "robustdeploy-board ", "robustdeploy-ready"
# BatchMode fails where ssh would ask, since nobody may be there to answer. Nothing of the host is lent to the board: no
# agent, no display, no forwarded port.
_STRICT = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes")
# The user's configuration may hold these for interactive use. A shared master (ControlPath) could be cut by another
# session, and a terminal (RequestTTY) would alter binary data.
_PLAIN = ("PermitLocalCommand=no", "RequestTTY=no", "ControlPath=none", "UpdateHostKeys=no", "LogLevel=ERROR")
# A board that loses power sends no FIN: without these the client would wait for hours.
_ALIVE = ("ServerAliveInterval=15", "ServerAliveCountMax=3")


@dataclass(frozen=True)
class Ssh:
    """SSH with the user's own ``~/.ssh/config``. Host keys must be known already; nothing is ever accepted for you."""

    host: str
    """Host name or alias, with or without ``user@``; port, key and jump host belong in the SSH configuration."""
    python: str = "python3"
    """The board's interpreter: Python 3.10 or newer with numpy."""
    folder: str = ".cache/robustdeploy"
    """Folder on the board for the agent and its engines, relative to the home folder or absolute."""
    timeout_s: int = 86400
    """Longest life of one agent on the board."""
    grace_s: int = 5
    """How long an agent may take to end once its pipe is closed; then it is killed."""
    connect_s: int = 10
    free_mib: int = 64
    """Space that must be free in ``folder``."""
    command: str = "ssh"
    """The OpenSSH client."""
    config: str = ""
    """An SSH configuration file to use in place of the user's."""

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise UsageError(f"the host {self.host!r} cannot be given to SSH; use an alias from ~/.ssh/config")
        for name in ("python", "folder", "command"):
            value = str(getattr(self, name))
            if not value or value.startswith("-") or not value.isprintable():
                raise UsageError(f"the link's {name} is {value!r}; it must be a name or path and not begin with -")
        check_place("command", self.command, on_path=True)
        check_place("config", self.config, on_path=False)
        if min(self.timeout_s, self.connect_s) < 1 or min(self.grace_s, self.free_mib) < 0:
            raise UsageError("the link's timeout_s and connect_s must be 1 or more, grace_s and free_mib 0 or more")

    @contextmanager
    def open(self, agent: Path) -> Iterator[Pipe]:
        """Start ``agent`` on the board; on leaving, it and everything it started is gone."""
        try:
            payload = agent.read_bytes()
        except OSError as error:
            raise ArtifactError(f"the agent {agent} cannot be read: {error.strerror or error}") from error
        with _connected(self, self.arguments(payload)) as line:
            # The agent travels on the same connection: a separate scp would need a second login and could meet another
            # host.
            _land(self, line, payload)
            yield Pipe(line.reader, line.writer, self.host, line.failure)

    @cached_property
    def _token(self) -> str:
        """What the board knows this link by: a lost connection of it may still hold the board, and then makes way."""
        return secrets.token_hex(8)

    def arguments(self, payload: bytes) -> list[str]:
        """Return the client's argument list; the board's shell sees one quoted command."""
        options = [*_STRICT, *_PLAIN, *_ALIVE, f"ConnectTimeout={self.connect_s}"]
        folder = self.folder.removeprefix("~/") or "."
        # The program goes along as text of the command, since before it runs the board has nothing of ours.
        bootstrap = resources.files("robustdeploy.onboard").joinpath("bootstrap.py").read_text("ascii")
        numbers = [str(len(payload)), str(self.timeout_s), str(self.grace_s), self._token]
        program = [
            self.python.removeprefix("~/"),
            "-c",
            bootstrap,
            folder,
            hashlib.sha256(payload).hexdigest(),
            *numbers,
        ]
        pairs = [part for option in options for part in ("-o", option)]
        config = ["-F", str(expanded(Path(self.config)))] if self.config else []
        # sshd joins its arguments and gives them to the login shell, so they are quoted once here. `exec` leaves no
        # shell in between that would keep the pipe open after the agent has ended.
        return [self.command, *config, "-T", *pairs, "--", self.host, "exec " + shlex.join(program)]


class _Line:
    """A running SSH client: its pipe, and the tail of what was written to standard error."""

    def __init__(self, link: Ssh, process: subprocess.Popen[bytes]) -> None:
        self.link, self.process = link, process
        self.reader = cast(BinaryIO, process.stdout)
        self.writer = cast(BinaryIO, process.stdin)
        self._tail = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        stderr = cast(BinaryIO, self.process.stderr)
        # Somebody has to read: a full pipe would stop the client, and the tail explains a failure later.
        while part := stderr.read(4096):
            self._tail = (self._tail + part)[-_TAIL_BYTES:]

    def answer(self, mark: str, deadline: float) -> str:
        """Wait for the line that begins with ``mark``, past whatever the board's login scripts print."""
        seen, line = 0, bytearray()
        while seen < _NOISE_BYTES:
            # The deadline is for the whole answer: a board that sends a byte now and then must not prolong it.
            if not select.select([self.reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BoardError(f"{self.link.host} did not answer in time; see that the board is not overloaded")
            # One byte at a time: what follows the line belongs to the agent's first message.
            byte = os.read(self.reader.fileno(), 1)
            if not byte:
                raise BoardError(self.failure())
            seen += 1
            line += byte
            if byte == b"\n":
                text = line.decode("utf-8", "replace")
                if text.startswith(mark):
                    return text[len(mark) :]
                line.clear()
        raise BoardError(f"{self.link.host} prints without end before a command runs; see its login scripts")

    def send(self, data: bytes) -> None:
        """Write all of ``data``; a link that went down ends the client, and with it this call."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.writer.fileno(), rest) :]
        # The reason stands on the client's standard error, and it is worth more than "broken pipe".
        except BrokenPipeError:
            raise BoardError(self.failure()) from None

    def failure(self) -> str:
        """Explain how the connection ended, with the board's last words."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        if self.process.returncode is not None:
            self._listener.join(1)
        return explain(self.link, self.process.returncode, self._tail.decode("utf-8", "replace"))

    def close(self) -> None:
        """Close the pipe, let the board end the agent, and end the client where that takes too long."""
        # The end of its input is how the agent learns that the host is done, over ssh as well.
        self.writer.close()
        self.reader.close()  # before waiting: a client that cannot pass on what it holds would wait for us in turn
        try:
            # The board itself ends the agent after its grace; the rest is for the way back.
            self.process.wait(self.link.grace_s + 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join(1)
        if not self._listener.is_alive():
            cast(BinaryIO, self.process.stderr).close()


@contextmanager
def _connected(link: Ssh, arguments: list[str]) -> Iterator[_Line]:
    pipe = subprocess.PIPE
    try:
        # The C locale keeps the client's messages in words we know; a session of its own keeps Ctrl-C on the host from
        # it, and takes away the terminal on which a jump host's client, which BatchMode does not reach, would ask.
        process = subprocess.Popen(
            arguments,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            env={**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"},
            start_new_session=True,
        )
    except OSError as error:
        raise ToolchainError(
            f"the SSH client {link.command!r} cannot be run ({error.strerror}); install OpenSSH's client or set the "
            "link's command"
        ) from error
    line = _Line(link, process)
    try:
        yield line
    finally:
        line.close()


def _land(link: Ssh, line: _Line, payload: bytes) -> None:
    """Check what the board has, send the agent where it is not there yet, and wait until it is about to start."""
    deadline = time.monotonic() + link.connect_s + 60
    # What the board can do is checked before anything is sent: over a slow link the agent takes its time.
    have = _checked(link, line.answer(_BOARD, deadline), len(payload))
    line.send(b"start\n" if have else b"bytes\n" + payload)
    # The board hashes what it received before it says this, so a damaged agent never starts.
    line.answer(_READY, time.monotonic() + link.connect_s + 60)


def _checked(link: Ssh, answer: str, size: int) -> bool:
    """Raise BoardError unless the board can run an agent; return whether it has this one already."""
    try:
        facts: dict[str, Any] = json.loads(answer)
        if problem := facts.get("problem"):
            raise BoardError(f"{link.host} cannot take the agent into {link.folder}: {_plain(str(problem))}")
        # Each value is converted inside the try: a board may answer anything of the right names.
        python, numpy = tuple(int(part) for part in facts["python"]), bool(facts["numpy"])
        free, have = int(facts["free"]), bool(facts["have"])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        raise BoardError(f"{link.host} answered with something else than its facts: {_plain(answer)}") from None
    if python < _OLDEST_PYTHON:
        raise BoardError(
            f"{link.python} on {link.host} is Python {'.'.join(map(str, python))}; 3.10 or newer is needed: install it "
            "there and name it in the link's python"
        )
    if not numpy:
        raise BoardError(
            f"{link.python} on {link.host} has no numpy; install it there (`apt install python3-numpy`) or name an "
            "interpreter that has it in the link's python"
        )
    needed = (link.free_mib << 20) + (0 if have else size)
    if free < needed:
        raise BoardError(
            f"{link.host} has {free >> 20} MiB free in {link.folder} and {-(-needed >> 20)} MiB are needed; make room "
            "there or set the link's folder"
        )
    return have


_FIX_KEY = "compare the fingerprint with the one on the board's own console (`ssh-keygen -lf` on its host key)"
_REASONS: tuple[tuple[str, str], ...] = (
    (
        r"IDENTIFICATION HAS CHANGED|Offending \S+ key|host key .* revoked",
        "{host} shows another host key than the one that is known: either the board was set up anew or someone is in "
        f"between; {_FIX_KEY}, and only if it fits remove the old one with `ssh-keygen -R`",
    ),
    (
        r"host key is known|Host key verification failed",
        f"the host key of {{host}} is not known; {_FIX_KEY} while you connect once by hand with `ssh {{host}}`",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "{host} refused the login; put your public key there (`ssh-copy-id {host}`), or name user and key in the SSH "
        "configuration: no password is ever asked for here",
    ),
    (r"Could not resolve", "the name {host} cannot be resolved; correct it or add it to the SSH configuration"),
    (r"Connection refused", "{host} refused the connection; see that sshd runs there and that the port is right"),
    (r"No route to host|unreachable", "there is no route to {host}; see that the board is on and on this network"),
    (r"timed out|not responding", "{host} did not answer in time; see that the board is on and on this network"),
    (r"onfiguration option|open user config|config file", "the SSH configuration cannot be read; correct it"),
    (r"no matching|Unable to negotiate", "{host} and this SSH client share no method; update the older of the two"),
    (
        r"Connection (reset|closed)|closed by remote|Broken pipe",
        "{host} cut the connection; see whether it was restarted or ran out of memory, then repeat the command",
    ),
)


def explain(link: Ssh, status: int | None, stderr: str) -> str:
    """Say in one sentence how a connection with this exit status and standard error failed, and what to do."""
    words = _plain(stderr)
    said = f" ({words})" if words else ""
    if status is None:
        return f"the connection to {link.host} is open but the agent is silent{said}"
    # The client's words are in the C locale, so patterns find them. Its exit status tells no kinds of failure apart.
    if status == 255:  # ssh's own failures; every other status is the board's
        for pattern, sentence in _REASONS:
            if re.search(pattern, stderr):
                return sentence.format(host=link.host) + said
        return f"the connection to {link.host} failed; try `ssh {link.host}` by hand{said}"
    # POSIX shells answer so for a command that is found but not executable, and for one that is not found.
    if status in (126, 127):
        return f"{link.python} cannot be run on {link.host}; install it there or set the link's python{said}"
    if status < 0:
        return f"the SSH client to {link.host} was killed by signal {-status}; repeat the command{said}"
    # As shells and our own guard tell a signal.
    if status > 128:
        killed = f"the agent on {link.host} was killed by signal {status - 128}"
        return f"{killed}; see whether the board ran out of memory, then repeat the command{said}"
    return f"the agent on {link.host} ended with exit status {status}{said}"


def _plain(text: str, limit: int = 800) -> str:
    """Fold text from a board into one line without control characters, and keep its end."""
    # A board's text may hold escape sequences that rewrite what the terminal shows.
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else "…" + line[-limit:]


plugin = Ssh
