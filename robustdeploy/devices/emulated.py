"""The link to an emulated Arm board on this machine: SSH to a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from robustdeploy.devices.emulator.folder import DEFAULT, HOST, folder_at
from robustdeploy.devices.emulator.server import running
from robustdeploy.devices.link import Pipe, check_place
from robustdeploy.devices.ssh import Ssh
from robustdeploy.errors import BoardError


@dataclass(frozen=True)
class Emulated:
    """The board that `robustdeploy board create` and `board start` made in ``folder``."""

    folder: str = DEFAULT
    timeout_s: int = 86400
    """Longest life of one agent on the board."""
    grace_s: int = 5
    """How long an agent may take to end once its pipe is closed; then it is killed."""

    def __post_init__(self) -> None:
        check_place("folder", self.folder, on_path=False)

    @contextmanager
    def open(self, agent: Path) -> Iterator[Pipe]:
        """Start ``agent`` on the board; a board that is not there, or not running, is a BoardError with the command."""
        folder = folder_at(Path(self.folder))
        if folder.facts is None:
            raise BoardError(f"there is no emulated board in {self.folder}; `robustdeploy board create {self.folder}`")
        if running(folder) is None:
            raise BoardError(
                f"the emulated board in {self.folder} is not running; `robustdeploy board start {self.folder}`"
            )
        with self._link.open(agent) as pipe:
            yield pipe

    @cached_property
    def _link(self) -> Ssh:
        """One for all connections, so that the board knows a later one for the same run's."""
        folder = folder_at(Path(self.folder))
        return Ssh(
            host=HOST,
            python=str(folder.python),
            folder=str(folder.store),
            timeout_s=self.timeout_s,
            grace_s=self.grace_s,
            config=str(folder.config),
        )


plugin = Emulated
