"""Substitute: train a net on the labels of what is attacked, attack that net, and let the images be judged elsewhere.

What is asked are validation images that were set aside with the net, and images made of them: never one of those that
are attacked and judged. Labels alone come back, and each answer is sealed, so that nothing is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from robustdeploy.core.archive import Arrays
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.data.images import pixels
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.attack import Adversary, Bench, Found, Images, found_in, gathered, made_valid
from robustdeploy.evaluate.host import HostNet, to_bytes
from robustdeploy.evaluate.outcomes import Substituted
from robustdeploy.evaluate.workers import in_turn
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Bytes, Labels

Labelling = Callable[[Bytes], Labels]
"""Asks what is attacked for the labels of 8-bit images."""


@dataclass(frozen=True)
class Victim:
    """What a substitute is to imitate."""

    ask: Labelling
    seeds: Bytes
    """Held-out images that the substitute may begin with."""
    classes: int
    clean: Labels
    """What it says to the test images, which it was asked anyway."""


@dataclass
class _Asking:
    """Asks the victim, and seals each of its answers."""

    bench: Bench
    label: str
    victim: Victim
    device: torch.device
    asked: int = 0
    times: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        sent = to_bytes(images)
        stop_if_interrupted()
        self.bench.progress(f"{self.label}, labels for its substitute", self.asked, self.asked + len(sent))
        part = f"{self.label}-asked-{self.times:05d}"
        told = self.bench.parts.get(part, lambda: {"images": sent, "labels": self.victim.ask(sent)})
        if not np.array_equal(told["images"], sent):
            # A substitute that is no function of its key and of what it was told cannot be resumed.
            raise ArtifactError(f"{self.label} now asks for other images than before; evaluate anew with --force")
        self.asked, self.times = self.asked + len(sent), self.times + 1
        return torch.from_numpy(told["labels"]).to(self.device)


def by_substitute(adversary: Adversary, bench: Bench, host: HostNet, victim: Victim) -> Found:
    """Return what is found on a substitute of ``victim``, and how ``host`` labels it. Sealed parts are used again."""
    assert adversary.substitute is not None
    attack, noise_key = adversary.substitute, key(bench.seed, adversary.label)
    asking = _Asking(bench, adversary.label, victim, host.device)
    seeds = pixels(torch.from_numpy(victim.seeds[: attack.seed_images]).to(host.device))
    net = attack(asking, seeds, victim.classes, noise_key)
    stand_in, follows = HostNet(net, host.device, net, host.at_once), attack.follows

    def one(block: Images, host: HostNet) -> Arrays:
        found = stand_in.attack(follows, block.images, block.labels, bench.threat, noise_key, block.ids)
        found = made_valid(block.images, found, bench.threat)
        return {"images": found, "predictions": CLASSIFICATION.predictions(host.score(found))}

    agreed = CLASSIFICATION.predictions(stand_in.score(bench.images.images)) == victim.clean
    # Named apart from the blocks that are judged on a board.
    # Here and by no worker: the stand-in is in this process alone.
    name, here = f"{adversary.label}-found", partial(in_turn, host)
    found = gathered(bench, name, lambda block, number: partial(one, block), here)
    return found_in(found, Substituted(asking.asked, len(seeds), float(agreed.mean())))
