"""Trainings small enough to be done, stopped and repeated many times: real digits, real nets, a dozen steps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Budget, Data, Train
from robustdeploy.data.load import load_data
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.masks import Masks
from robustdeploy.train.plan import Plan, single_phase
from robustdeploy.train.tasks.fastat import FastAt


class Dropping(nn.Module):
    """A user's net that draws random numbers of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout2d(0.3),
            nn.Conv2d(8, 8, 3),
        )
        self.out = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 10))

    def forward(self, images):
        return self.out(self.layers(images))


@pytest.fixture(scope="session")
def digits():
    return load_data(Data())


@pytest.fixture(scope="session")
def make_net():
    def make(kind="resnet"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = Dropping() if kind == "dropout" else ResidualNet(1, (4, 8, 8), 10, 1)
            return Normalised(net, [0.3], [0.4])

    return make


@pytest.fixture(scope="session")
def make_pruning(make_net):
    def make(ops=0.4, kind="resnet"):
        net = make_net(kind)
        return net, Masks(warmup=0.1, freeze=0.5).wrap(net, (1, 8, 8), Budget(ops=ops))

    return make


@pytest.fixture(scope="session")
def make_plan(digits):
    """A plan of ``epochs`` times ``steps`` steps."""

    def make(epochs=3, steps=4, batch_size=32, held_out=24, **more):
        given = more.pop("options", {})
        options = Train(**{"epochs": epochs, "batch_size": batch_size, "lr": 0.1, "precision": "fp32", **given})
        phases = more.pop("phases", None) or (single_phase(more.pop("task", FastAt()), options),)
        plan = Plan(
            train=digits.train.select(torch.arange(steps * batch_size)),
            validation=digits.validation.select(torch.arange(held_out)),
            phases=phases,
            threat=Threat(eps=0.1),
            options=options,
            seed=0,
            shift=1,
        )
        return replace(plan, **more)

    return make
