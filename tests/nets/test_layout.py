from __future__ import annotations

import torch
from torch import nn

from robustdeploy.nets.layout import lay_channels_last


def test_convolutions_of_images_are_laid_out_channels_last_and_others_stay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 6, 3), nn.Conv1d(4, 4, 3), nn.Linear(4, 2))
    before = [parameter.clone() for parameter in net.parameters()]
    held = list(net.parameters())
    lay_channels_last(net)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(new is old for new, old in zip(net.parameters(), held, strict=True))
    assert all(torch.equal(new, old) for new, old in zip(net.parameters(), before, strict=True))
