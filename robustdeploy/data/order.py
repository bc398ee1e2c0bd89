"""The order of samples in an epoch, as a pure function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.draws import key


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Return a permutation of ``range(n)`` (int64, CPU); a run that resumes finds the same one again."""
    scores = Noise(key(seed, "order", epoch), torch.arange(n)).uniform(0, (1,))
    # Stable: among 2²⁴ values large sets have equal ones, which other sorts may order otherwise on each machine.
    return torch.argsort(scores.view(-1), stable=True)
