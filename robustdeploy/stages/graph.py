"""The graph: which stages lead from a recipe to what is measured of its nets on its targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdeploy.core.precisions import form_of, precisions_on
from robustdeploy.core.recipe import DEPLOY, Choice
from robustdeploy.core.subject import DENSE, FP32, IMPORTED, PRUNED, Subject
from robustdeploy.core.target import Target
from robustdeploy.engine.places import BOARDS
from robustdeploy.stages.attack import Attack
from robustdeploy.stages.compile import Compile
from robustdeploy.stages.export import Export, NetStage
from robustdeploy.stages.import_net import Import
from robustdeploy.stages.lower import Lower, OnnxStage
from robustdeploy.stages.measure import Measure
from robustdeploy.stages.session import Session
from robustdeploy.stages.train import Train


@dataclass(frozen=True)
class Graph:
    """The stages of one run. Asking for a stage builds it and has no other effect."""

    session: Session
    own: str
    """The run's own net: ``pruned``, ``dense`` or ``imported``."""

    @property
    def compared(self) -> bool:
        """Whether a dense net stands beside the run's own."""
        return self.own == PRUNED and self.session.asked.baseline is not False

    @property
    def deployed(self) -> tuple[str, ...]:
        """The nets that are measured on targets, the run's own first.

        A dense net that was measured on one stays among them. Otherwise a command that no longer asks for it would
        replace what was replayed there, and leave its evaluation out of date.
        """
        there = any(place.startswith(f"{BOARDS}/{DENSE}/") for place in self.session.run.manifests())
        wanted = self.compared and (there or self.session.asked.baseline == DEPLOY)
        return (self.own, DENSE) if wanted else (self.own,)

    @property
    def nets(self) -> tuple[NetStage, ...]:
        """The trained nets, in the order in which they are trained."""
        return tuple(self.net(name) for name in ((DENSE, self.own) if self.compared else (self.own,)))

    def net(self, name: str) -> NetStage:
        """Return what trains a net, or took it over."""
        # By now the net is in the run, so its origin is never read.
        return Import(self.session, Path()) if name == IMPORTED else Train(self.session, name)

    def export(self, net: str, target: Target) -> Export:
        """Return what exports a net for a target's opset."""
        return Export(self.session, self.net(net), net, target.opset)

    def onnx(self, net: str, target: Target, precision: Choice) -> OnnxStage:
        """Return what makes the file of a net in a precision, as a target takes it."""
        exported = self.export(net, target)
        if precision.name == FP32:
            return exported
        return Lower(self.session, exported, precision, form_of(precision, self.session.asked.precisions))

    def exports(self, target: Target) -> tuple[OnnxStage, ...]:
        """Return what makes the files that a target takes, of all nets that run there, the run's own first."""
        return tuple(self.onnx(net, target, each) for net, each in self._subjects(target))

    def dense_files(self, target: Target) -> tuple[OnnxStage, ...]:
        """Return what makes the dense net's files that take turns with the run's own net on a target."""
        if not self.compared or target.emulated:
            return ()
        return tuple(self.onnx(DENSE, target, each) for each in precisions_on(target, self.session.asked.precisions))

    def measures(self, target: Target) -> tuple[Measure, ...]:
        """Return what measures all nets that run on a target, the run's own first."""
        return tuple(self._measure(net, target, each) for net, each in self._subjects(target))

    def goals(self, targets: Sequence[Target]) -> Iterator[NetStage | Measure]:
        """Yield everything that a report on these targets rests on, besides what these need themselves."""
        yield from self.nets
        for target in targets:
            yield from self.measures(target)

    def _subjects(self, target: Target) -> Iterator[tuple[str, Choice]]:
        for net in self.deployed:
            for precision in precisions_on(target, self.session.asked.precisions):
                yield net, precision

    def _measure(self, net: str, target: Target, precision: Choice) -> Measure:
        subject, onnx = Subject(net, precision.name, target.name), self.onnx(net, target, precision)
        lowered = onnx if isinstance(onnx, Lower) else None
        # Where the dense net runs on targets too, its own measuring tells of it, in torch as well.
        beside = Attack(self.session, self.net(DENSE), DENSE, deployed=False)
        alone = not self.compared or DENSE in self.deployed
        # What an emulator takes says nothing, so nothing takes turns there.
        timed = self.compared and net != DENSE and not target.emulated
        return Measure(
            session=self.session,
            subject=subject,
            target=target,
            export=onnx,
            engine=Compile(self.session, subject, target, onnx),
            found=Attack(self.session, onnx.net, net, deployed=True, lowered=lowered),
            beside=None if alone else beside,
            dense_engine=self._dense_engine(subject, target, precision) if timed else None,
        )

    def _dense_engine(self, subject: Subject, target: Target, precision: Choice) -> Compile:
        return Compile(self.session, subject.of(DENSE), target, self.onnx(DENSE, target, precision))
