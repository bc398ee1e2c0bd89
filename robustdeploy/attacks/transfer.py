"""Transfer: images found on another net, such as a copy that was trained apart, and only judged on the attacked one.

The black-box of Madaan et al. (ICML 2020): the adversary has a net of the same architecture and no access to this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.followed import followed
from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.core.recipe import Choice, PlugIn
from robustdeploy.data.noise import Noise
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.nets.store import NetInfo, load_info, load_net
from robustdeploy.onboard.types import Threat

_PGD = Choice(name="pgd", options={"steps": 40})


@dataclass(frozen=True)
class Transfer:
    """A gradient attack on the net in ``source``. What it finds was never tried on the attacked net."""

    source: Path
    """Folder of the other net, or a run, whose own net is meant; from the folder where robustdeploy is called."""
    attack: PlugIn = _PGD
    """What is run on that net."""

    NORMS: ClassVar = ("linf", "l2", "l1")  # of what it runs, that which it has

    @property
    def follows(self) -> GradientAttack:
        """The attack of the option ``attack``, built."""
        return followed(self.attack)

    @property
    def label(self) -> str:
        """``transfer-pgd-40`` and the like."""
        return f"transfer-{self.follows.label}"

    @property
    def conditions(self) -> Mapping[str, str]:
        """Which net it is, for the conditions of its rows and to tell whether it is still the same one."""
        return {"source_sha256": self._info().weights_sha256}

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        """Return what the attack finds on the other net; ``net`` is not looked at."""
        info = self._info()
        if info.image_shape != tuple(images.shape[1:]):
            shapes = ("×".join(map(str, shape)) for shape in (info.image_shape, images.shape[1:]))
            raise UsageError("the attack transfer: {} reads images of {}, not {}".format(self.source, *shapes))
        other = _loaded(self.source, info.weights_sha256, images.device)
        return self.follows(other, images, labels, threat, noise)

    def _info(self) -> NetInfo:
        try:
            return load_info(self.source)
        except ArtifactError as error:
            raise UsageError(f"the attack transfer finds its images on another net, but {error}") from error


@lru_cache(maxsize=4)
def _loaded(source: Path, digest: str, device: torch.device) -> nn.Module:
    """Load the other net once for all blocks; ``digest`` is there so that a changed one is loaded anew."""
    return load_net(source).to(device).requires_grad_(False)


plugin = Transfer
