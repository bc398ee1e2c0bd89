"""FMN: a ball that shrinks onto the nearest wrong image, in ℓ2, ℓ∞ or ℓ1 (Pintor et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from robustdeploy.attacks.distance.protocol import back_to_the_boundary
from robustdeploy.attacks.minimum_norm import approached
from robustdeploy.core.bounds import Count
from robustdeploy.data.noise import Noise

_METRICS: Mapping[str, str] = {"l2": "r2_fmn", "linf": "rinf_fmn", "l1": "r1_fmn"}


@dataclass(frozen=True)
class FastMinimumNorm:
    """Gradient steps in a ball of its own for each image."""

    steps: Count = 200
    """Gradient steps."""
    norm: Literal["l2", "linf", "l1"] = "l2"
    """What the length of a move is measured in."""
    refine: bool = True
    """Go straight back to the boundary in the end, where a shorter way is left."""
    box: bool = True
    """Keep pixels in [0, 1], as the paper does."""
    limit: Count = 1000
    """Test images to use, the first of those that are attacked."""

    estimates: ClassVar[bool] = False

    @property
    def metric(self) -> str:
        """``r2_fmn``, ``rinf_fmn`` or ``r1_fmn``."""
        return _METRICS[self.norm]

    @property
    def label(self) -> str:
        """``fmn-box``, ``fmn`` with pixels left free; ``fmn-linf-box`` in another norm than ℓ2."""
        norm = "" if self.norm == "l2" else f"-{self.norm}"
        return f"fmn{norm}-box" if self.box else f"fmn{norm}"

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Return the nearest wrong image found for each; the image itself where none was."""
        best, nearest = approached(net, images, labels, self.norm, self.steps, box=self.box)
        met = nearest.isfinite().nonzero().squeeze(1)
        found = images.clone()
        found[met] = best[met]
        if self.refine and len(met):
            found[met] = back_to_the_boundary(net, images[met], labels[met], best[met], farthest=1.0, box=self.box)
        return found


plugin = FastMinimumNorm
