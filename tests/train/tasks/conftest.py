"""A batch and a net on which every training task runs in milliseconds, and a net that remembers what it is fed."""

import pytest
import torch
from torch import nn

from robustdeploy.data.noise import Noise


class Seen(nn.Module):
    """Remembers what ``inner`` is asked to score, and in which mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.images = []
        self.modes = []

    def forward(self, images):
        self.images.append(images.detach().clone())
        self.modes.append(self.inner.training)
        return self.inner(images)


@pytest.fixture
def plain_net():
    """Make the same untrained net, in training mode; ``norm`` is what stands for batch normalisation."""

    def make(norm=nn.BatchNorm2d, widths=(6, 6)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = nn.Sequential(nn.Conv2d(3, widths[0], 3), norm(widths[0]), nn.ReLU())
            last = nn.Sequential(nn.Conv2d(widths[0], widths[1], 3, stride=2), nn.ReLU(), nn.Flatten())
            return nn.Sequential(*first, *last, nn.Linear(widths[1] * 4, 10)).train()

    return make


@pytest.fixture
def seen():
    return Seen


@pytest.fixture
def batch():
    def make(n=16):
        generator = torch.Generator().manual_seed(1)
        images = torch.rand(n, 3, 8, 8, generator=generator)
        images[:, :, :2] = images[:, :, :2].round()  # black and white, where the box is cut
        return images, torch.arange(n) % 10, Noise(7, torch.arange(n))

    return make
