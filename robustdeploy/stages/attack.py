"""Attack: find adversarial images in torch, once for each net, for all targets to replay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robustdeploy.core.plain import plain
from robustdeploy.core.records import AttackRecord
from robustdeploy.core.registry import PATCHES, SUBSTITUTES
from robustdeploy.core.settings import evaluation_content
from robustdeploy.core.subject import FP32
from robustdeploy.engine.places import attacks_place, onnx_place
from robustdeploy.engine.stage import Need, Work
from robustdeploy.evaluate.adversarial import FILE, Attacked, attack_net
from robustdeploy.evaluate.attack import adversaries_from
from robustdeploy.nets.store import NetInfo, load_info
from robustdeploy.stages.export import NetStage
from robustdeploy.stages.lower import Lower, twin_file
from robustdeploy.stages.session import Session
from robustdeploy.train.setup import device_from


def brought_to(session: Session, info: NetInfo, kinds: Collection[str] = ("transfer", "replay")) -> dict[str, str]:
    """Return the hash of what attacks of these ``kinds`` bring along, by label; a set of other data is a UsageError."""
    found: dict[str, str] = {}
    for each in adversaries_from(session.asked.evaluate.attacks):
        if each.kind not in kinds:
            continue
        if each.kind == "replay":
            replay: Any = each.gradient
            replay.check(info.image_shape, info.classes)
        settings = each.settings
        found |= {each.label: settings["source_sha256"]} if "source_sha256" in settings else {}
    return found


@dataclass(frozen=True)
class Attack:
    """Attacks one net by its gradients, and by queries too where it runs on no target.

    A net in low precision is attacked by the gradients of its torch twin.
    """

    session: Session
    net: NetStage
    net_name: str
    deployed: bool
    """Whether it is measured on a target, which is where queries are then asked."""
    lowered: Lower | None = None
    """What put it into another precision than it was exported in."""
    name: str = "attack"
    record: type[AttackRecord] = AttackRecord

    @property
    def place(self) -> str:
        """``attacks/pruned/fp32``; what was found under other settings stands beside."""
        onnx = onnx_place(self.net_name, FP32) if self.lowered is None else self.lowered.place
        return attacks_place(onnx, self.session.label)

    @property
    def needs(self) -> tuple[Need, ...]:
        """The net; for a twin the file that it is read from, and what was found on the net in float32."""
        # Named only where a substitute begins with them, so that other evaluations keep their fingerprint.
        held_out = ("held_out.npz",) if self._begins_with_held_out else ()
        net = Need(self.net, ("model.safetensors", "net.json", *held_out))
        if self.lowered is None:
            return (net,)
        return (net, Need(self.lowered, ("model.onnx",)), Need(self._exported, (FILE,)))

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decides what is found."""
        recipe = self.session.asked
        evaluate, threat = evaluation_content(recipe.evaluate), plain(recipe.attacked_within)
        # Without the target: what gradients find in torch is the same for all of them.
        return {"evaluate": evaluate, "threat": threat, "seed": recipe.seed, "deployed": self.deployed}

    def inputs(self) -> Mapping[str, str]:
        """The test images, and nets that attacks bring along."""
        info = load_info(self._folder)
        return {"test_images": self.session.test_images(info).digest, **brought_to(self.session, info)}

    def run(self, work: Work) -> AttackRecord:
        """Attack, block by block; sealed blocks of an interrupted call are used again."""
        session = self.session
        device = str(device_from(session.run.recipe.train.device))
        twin = None if self.lowered is None else twin_file(work.of(self.lowered))
        exported = None if twin is None else work.of(self._exported).folder / FILE
        net = Attacked(work.of(self.net).folder, self.deployed, device, session.trust, twin, exported)
        test = session.test_images(load_info(net.folder))

        def progress(what: str, done: int, total: int) -> None:
            # Said apart from the targets' attacks, which replay these.
            session.callback.progress(f"{self._named}, {what}", done, total)

        record = attack_net(net, session.asked, test, work, progress, session.workers, session.nodes)
        session.callback.say(f"attack: {self._named}, {len(test.ids)} test images, found in {work.folder}")
        return record

    @property
    def _begins_with_held_out(self) -> bool:
        """Whether a patch is learnt here, or a substitute; one of what is deployed is trained on its own answers."""
        evaluate = self.session.asked.evaluate
        learns = any(PATCHES.trait(each.name, "LEARNS", False) for each in evaluate.patches)
        return learns or (not self.deployed and any(each.name in SUBSTITUTES for each in evaluate.attacks))

    @property
    def _named(self) -> str:
        precision = "" if self.lowered is None else f" in {self.lowered.choice.name}"
        return f"{self.net_name}{precision} in torch"

    @property
    def _exported(self) -> Attack:
        """What attacks the same net in float32."""
        return replace(self, lowered=None)

    @property
    def _folder(self) -> Any:
        return self.session.run.root / self.net.place
