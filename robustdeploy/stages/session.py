"""The session of one command: the run, the settings that are asked for, and what its stages share while it lasts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.files import canonical_json, temporary_folder
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Data, Recipe
from robustdeploy.core.settings import label_of
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.data.images import Images as StoredImages
from robustdeploy.data.load import Loaded, load_data, load_test
from robustdeploy.devices.fleet import Fleet, check_fit, fleet_of
from robustdeploy.engine.run import Run
from robustdeploy.evaluate.attack import Images, chosen
from robustdeploy.evaluate.nodes import Nodes, nodes_on
from robustdeploy.export.agent import build_agent, foreign_plugins
from robustdeploy.nets.store import NetInfo


@dataclass
class Session:
    """A context manager: boards that were opened in it are closed at its end."""

    run: Run
    asked: Recipe
    """The run's recipe, with the evaluation that is asked for; its results stand beside where that is another."""
    data: Path | None = None
    """Folder of the data set where that has moved."""
    skip_unreadable: bool = False
    trust: Trust = False
    """Whose factories may be called, as for ``load_net``."""
    callback: Callback = SILENT
    workers: int = 1
    """Processes that share the blocks of attacks in torch."""
    cluster: str | None = None
    """Address of the Ray cluster that shares them instead."""
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _fleets: dict[str, tuple[Fleet, ExitStack]] = field(default_factory=dict, init=False)
    _tests: dict[tuple[str, ...], StoredImages] = field(default_factory=dict, init=False)

    @property
    def label(self) -> str:
        """What marks the results of other settings than the run's own; nothing marks those."""
        return label_of(self.run.recipe.evaluate, self.asked.evaluate)

    @cached_property
    def training_data(self) -> Loaded:
        """The images of the training set, read once."""
        return load_data(self._where, partial(self.callback.progress, "reading images"), self.callback.say)

    @cached_property
    def nodes(self) -> Nodes | None:
        """The workers of the cluster, begun once for all nets; None where attacks in torch are run here."""
        return None if self.cluster is None else self._stack.enter_context(nodes_on(self.cluster))

    def test_set(self, info: NetInfo) -> StoredImages:
        """Return all test images, read once, for a net of these classes."""
        # Labels are positions among the classes, so other classes mean other labels for the same files.
        if info.classes not in self._tests:
            progress = partial(self.callback.progress, "reading images")
            self._tests[info.classes] = load_test(self._where, info.classes, progress, self.callback.say)
        return self._tests[info.classes]

    def test_images(self, info: NetInfo) -> Images:
        """Return the test images that are used."""
        return chosen(self.test_set(info), self.asked.evaluate.limit)

    def fleet(self, target: Target) -> Fleet:
        """Return the boards of a target, which answer until they are left.

        Their agent is built of the installed package: what lies in a run's folder is never started.
        """
        # One agent for all stages: starting one over ssh takes seconds, and a board serves one host at a time. Targets
        # with the same links, such as two toolchains of one board, would shut each other out.
        place = _place(target)
        if place in self._fleets and self._fleets[place][0].is_broken:
            self.leave(target)
        if place in self._fleets:
            check_fit(self._fleets[place][0], target)
        else:
            stack = self._stack.enter_context(ExitStack())
            self._fleets[place] = stack.enter_context(fleet_of(target, self.agent, self.callback.say)), stack
        return self._fleets[place][0]

    def leave(self, target: Target) -> None:
        """Let the agents on a target's boards end; the next use starts others."""
        if left := self._fleets.pop(_place(target), None):
            left[1].close()

    @cached_property
    def agent(self) -> Path:
        """The agent of the installed package, as a file."""
        path = self._stack.enter_context(temporary_folder()) / "agent.pyz"
        build_agent(path, foreign_plugins())
        return path

    @property
    def _where(self) -> Data:
        own = self.asked.data
        moved = {} if self.data is None else {"path": self.data}
        # Where the images lie is no part of what they are: their digest decides, so a moved folder changes nothing.
        return own.model_copy(update={**moved, "skip_unreadable": own.skip_unreadable or self.skip_unreadable})

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _place(target: Target) -> str:
    """Name the boards that a target's links lead to."""
    return canonical_json(plain(target.links))
