"""Trainable masks on single weights under one threshold for the whole net (HYDRA's setting, in one training).

The weights of highest value (see ``prune.weight_masks``) stay, wherever in the net they are, as many as the budget's
non-zero operations and parameters allow; in the layers this leaves with almost none, a small share stays in any case.
The budget falls along Zhu and Gupta's cubic ("To prune, or not to prune", 2017) and is met to the weight at the freeze.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from robustdeploy.core.bounds import Rate, Share
from robustdeploy.core.recipe import Budget
from robustdeploy.prune.courses import Cubic, check_shares
from robustdeploy.prune.masked_weights import MaskedWeights, rehearsed
from robustdeploy.prune.spreads import Threshold
from robustdeploy.prune.weight_budget import Maskable, maskable, priced
from robustdeploy.prune.weight_masks import WeightMasks


@dataclass(frozen=True)
class Weights:
    """A mask for every weight of every convolution and linear layer; the net keeps its shape and gains zeros."""

    lr: Rate = 0.01
    """Step of a mask's M; its inverse is also the number of steps over which M averages its gradient."""
    warmup: Share = 0.1
    """Share of the training before the first weight is masked."""
    freeze: Share = 0.65
    """Share of the training after which the budget is met exactly and the masks stay."""
    floor: Share = 0.1
    """Least share of a layer's weights that is kept, in units of the share that the budget leaves of all weights."""

    removes_channels: ClassVar[bool] = False
    """The budget counts what is not zero."""

    def __post_init__(self) -> None:
        check_shares(self.warmup, self.freeze)
        if not 0 <= self.floor < 1 or not 0 < self.lr <= 1:
            raise ValueError("floor must be in [0, 1), and lr above 0 and at most 1")

    def wrap(self, net: nn.Module, image_shape: tuple[int, int, int], budget: Budget) -> MaskedWeights:
        """Attach masks to ``net`` for one image of C×H×W; BudgetError when one weight per layer is more than allowed.

        The budget's ``ops`` and ``params`` are those other than zero; ``channel_multiple`` has no meaning here.
        """
        found = maskable(net, image_shape, budget, "masks on weights")
        layers = replace(found, weights=priced(found.weights, found.limits))
        threshold = Threshold(layers.limits, self._fewest(layers))
        return rehearsed(
            net,
            image_shape,
            layers,
            Cubic(self.warmup, self.freeze),
            lambda tensors: (WeightMasks(tensors, layers.weights, self.lr), threshold),
        )

    def _fewest(self, layers: Maskable) -> tuple[int, ...]:
        """Return how many weights of each layer stay in any case: by the floor, or one where that is too many."""
        share = self.floor * layers.share
        floored, single = [max(1, math.ceil(share * size)) for size in layers.sizes], [1 for _ in layers.sizes]
        # All layers fall to one weight together; a floor for some alone would favour these.
        return tuple(floored if layers.fits(floored) else single)


plugin = Weights
