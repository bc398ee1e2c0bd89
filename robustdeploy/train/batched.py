"""Batched: held-out images are judged a training batch at a time, since that many are known to fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.data.images import Images, pixels
from robustdeploy.data.noise import Noise
from robustdeploy.prune.protocol import Judge
from robustdeploy.train import ranks


def in_batches(judge: Judge, held_out: Images, noise: int, size: int, *, stops: bool = True) -> Tensor:
    """Return the rows that ``judge`` gives for all of ``held_out``, of which it sees at most ``size`` at a time.

    ``noise`` is the key of the attack's noise, which is an image's own, however the parts are cut. With ``stops`` a
    signal is heeded between two parts (Interrupted), unless other processes wait for this one.
    """
    rows = []
    for part in torch.split(torch.arange(len(held_out), device=held_out.labels.device), size):
        if stops and ranks.world() == 1:
            stop_if_interrupted()
        rows.append(judge(pixels(held_out.images[part]), held_out.labels[part], Noise(noise, part)))
    return torch.cat(rows)
