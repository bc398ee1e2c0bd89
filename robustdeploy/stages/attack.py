"""Attack: find adversarial images in torch, once for each net, for all targets to replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustdeploy.core.plain import plain
from robustdeploy.core.records import AttackRecord
from robustdeploy.core.subject import FP32
from robustdeploy.engine.places import attacks_place
from robustdeploy.engine.stage import Need, Work
from robustdeploy.evaluate.adversarial import Attacked, attack_net
from robustdeploy.nets.store import load_info
from robustdeploy.stages.export import NetStage
from robustdeploy.stages.session import Session
from robustdeploy.train.setup import device_from


@dataclass(frozen=True)
class Attack:
    """Attacks one net by its gradients, and by queries too where it runs on no target."""

    session: Session
    net: NetStage
    net_name: str
    deployed: bool
    """Whether it is measured on a target, which is where queries are then asked."""
    name: str = "attack"
    record: type[AttackRecord] = AttackRecord

    @property
    def place(self) -> str:
        """``attacks/pruned/fp32``; what was found under other settings stands beside."""
        return attacks_place(self.net_name, FP32, self.session.label)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The net."""
        return (Need(self.net, ("model.safetensors", "net.json")),)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decides what is found."""
        recipe = self.session.asked
        evaluate, threat = plain(recipe.evaluate), plain(recipe.threat)
        # Without the target: what gradients find in torch is the same for all of them.
        return {"evaluate": evaluate, "threat": threat, "seed": recipe.seed, "deployed": self.deployed}

    def inputs(self) -> Mapping[str, str]:
        """The test images."""
        return {"test_images": self.session.test_images(load_info(self._folder)).digest}

    def run(self, work: Work) -> AttackRecord:
        """Attack, block by block; sealed blocks of an interrupted call are used again."""
        session = self.session
        device = str(device_from(session.run.recipe.train.device))
        net = Attacked(work.of(self.net).folder, self.deployed, device, session.trust)
        test = session.test_images(load_info(net.folder))

        def progress(what: str, done: int, total: int) -> None:
            # Said apart from the targets' attacks, which replay these.
            session.callback.progress(f"{self.net_name} in torch, {what}", done, total)

        record = attack_net(net, session.asked, test, work, progress)
        session.callback.say(f"attack: {self.net_name} in torch, {len(test.ids)} test images, found in {work.folder}")
        return record

    @property
    def _folder(self) -> Any:
        return self.session.run.root / self.net.place
