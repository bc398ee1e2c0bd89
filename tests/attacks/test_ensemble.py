from __future__ import annotations

import pytest
import torch
from torch import nn

from robustdeploy.attacks.ensemble import Ensemble
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat


class Counted(nn.Module):
    """A net that counts the images it scores."""

    def __init__(self, net):
        super().__init__()
        self.net, self.scored = net, 0

    def forward(self, images):
        self.scored += len(images)
        return self.net(images)


@pytest.mark.slow
def test_what_any_part_breaks_is_broken_and_only_what_stands_is_attacked(trained, held_out):
    images, labels = (each[:64] for each in held_out)
    threat, noise = Threat(eps=44 / 255), Noise(0, torch.arange(64))
    ensemble, counted = Ensemble(steps=10, targets=3), Counted(trained)

    def standing(found):
        with torch.no_grad():
            return trained(found).argmax(1) == labels

    whole = standing(ensemble(counted, images, labels, threat, noise))
    spent, counted.scored, left = counted.scored, 0, torch.ones(64, dtype=torch.bool)
    for number, part in enumerate(ensemble.parts):
        left &= standing(part(counted, images, labels, threat, Noise(number, torch.arange(64))))
    assert 2 < whole.sum() < 40
    assert torch.equal(whole, left)
    assert spent < 0.8 * counted.scored


def test_its_label():
    assert [Ensemble().label, Ensemble(steps=20, targets=4).label] == ["ensemble-100-t9", "ensemble-20-t4"]
