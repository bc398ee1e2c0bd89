"""Replay: images that earlier runs found, tried again; of each test image the one that the net does worst on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from robustdeploy.attacks.losses import margin_loss
from robustdeploy.data.images import pixels
from robustdeploy.data.noise import Noise
from robustdeploy.data.replay_set import Belonging, ReplaySet, check_replay_set, read_replay_set
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Bytes, Labels, Threat

_AT_ONCE = 256


@dataclass(frozen=True)
class Replay:
    """The replay set in ``source``. An image is used where it is of a test image, by content, and in its box."""

    source: Path
    """Folder of the set, as ``robustdeploy collect`` makes it; from the folder where robustdeploy is called."""

    KIND: ClassVar[str] = "replay"
    NORMS: ClassVar = ("linf", "l2", "l1")

    @property
    def label(self) -> str:
        """``replay``."""
        return "replay"

    @property
    def conditions(self) -> Mapping[str, str]:
        """Which images are in the set, for the conditions of its rows and to tell whether it has grown."""
        return {"source_sha256": self._held().digest}

    def check(self, image_shape: Sequence[int], classes: Sequence[str]) -> None:
        """Raise a UsageError where the set is of other data than a net."""
        self._held().check_fits(image_shape, classes, str(self.source))

    def belonging(self, images: Bytes, labels: Labels, threat: Threat) -> Belonging:
        """Return which images of the set are tried on these."""
        return self._held().belonging(images, labels, threat)

    def __call__(
        self, net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, threat: Threat, noise: Noise
    ) -> Tensor:
        """Return the replay of each image that is wrong, or nearest to it; the image itself where there is none."""
        held, found = self._held(), images.clone()
        whole = torch.round(images * 255).to(torch.uint8).cpu().numpy()
        belongs = held.belonging(whole, labels.cpu().numpy(), threat)
        worst = torch.full((len(images),), -torch.inf, device=images.device)
        for start in range(0, len(belongs.rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            tried = pixels(torch.from_numpy(held.images[belongs.rows[part]])).to(images.device)
            of = belongs.of[part]
            at = torch.from_numpy(of).to(images.device)
            with torch.no_grad():
                scores = net(tried)
            wrong = ~CLASSIFICATION.right(scores, labels[at])
            # At a tie the margin is 0 whichever the label is, so that alone would not tell.
            loss = margin_loss(scores, labels[at])
            loss = torch.where(wrong, loss.clamp_min(0) + 1, loss.clamp_max(0))
            for row in range(len(of)):
                if loss[row] > worst[at[row]]:
                    worst[at[row]], found[at[row]] = loss[row], tried[row]
        return found

    def _held(self) -> ReplaySet:
        check_replay_set(self.source)
        # Read again only where it was written since.
        changed = max(path.stat().st_mtime_ns for path in self.source.iterdir())
        return _read(self.source.absolute(), changed)


@lru_cache(maxsize=2)
def _read(source: Path, changed: int) -> ReplaySet:
    return read_replay_set(source)


plugin = Replay
