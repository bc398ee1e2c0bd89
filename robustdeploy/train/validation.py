"""Validation on held-out training images, and the choice between the best epoch and the last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.cost.module import evaluating
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.train import ranks
from robustdeploy.train.batched import in_batches
from robustdeploy.train.plan import Plan

VALIDATED = 512
"""Held-out images, at most, that an epoch is validated on."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Validation:
    """One bool per held-out image: right as it is, and right under PGD-10."""

    clean: Tensor
    robust: Tensor

    def record(self) -> dict[str, float]:
        """Return accuracies and sample count, for the log."""
        return {
            "validation_clean": float(self.clean.float().mean()),
            "validation_pgd10": float(self.robust.float().mean()),
            "validation_n": len(self.clean),
        }


def validate(module: nn.Module, plan: Plan) -> Validation:
    """Judge ``module`` in eval mode and float32, always on the same images under the same attack noise."""

    def judge(images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        attacked = Pgd(steps=10)(module, images, labels, plan.threat, noise)
        clean, robust = (CLASSIFICATION.right(module(x), labels) for x in (images, attacked))
        # An image that is wrong as it is may be right at a random start, and must not count as robust.
        return torch.stack([clean, clean & robust], 1)

    with evaluating(module), torch.no_grad():
        held_out = plan.validation.first(VALIDATED)
        right = in_batches(judge, held_out, key(plan.seed, "validation"), plan.options.batch_size)
    clean, robust = ranks.from_first(right.T.to(torch.uint8)).bool()
    return Validation(clean, robust)


def significantly_better(best: Tensor, last: Tensor) -> bool:
    """Whether outcomes ``best`` beat ``last`` on the same images beyond chance: a one-sided exact sign test at 5 %.

    The highest of many noisy figures is mostly the luckiest, so without such evidence the last epoch is taken.
    """
    # Imported here, so that a training that never chooses does not wait for SciPy.
    from scipy.stats import binomtest

    # Images on which both agree tell nothing of which is better (McNemar 1947).
    only_best, only_last = int((best & ~last).sum()), int((last & ~best).sum())
    if only_best <= only_last:
        return False
    return bool(binomtest(only_best, only_best + only_last, 0.5, alternative="greater").pvalue < SIGNIFICANT)
