"""The zoo: every net of the registry, three of torchvision, and users' nets with one difficulty each."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import NETS
from robustdeploy.nets.build import build_net
from robustdeploy.prune.rehearsal import find_groups


def conv(before, after, size=3, **more):
    return nn.Conv2d(before, after, size, padding=size // 2, **more)


class Flat(nn.Module):
    """A channel of the last map is sixteen inputs of the first linear layer; no normalisation, with biases."""

    def __init__(self, classes, channels):
        super().__init__()
        self.conv = conv(channels, 6)
        self.more = conv(6, 10)
        self.hidden = nn.Linear(10 * 16, 12)
        self.out = nn.Linear(12, classes)

    def forward(self, images):
        maps = F.adaptive_max_pool2d(F.relu(self.more(F.relu(self.conv(images)))), 4)
        return self.out(F.relu(self.hidden(maps.flatten(1))))


class Dense(nn.Module):
    """DenseNet's style: normalisation after concatenation, every map read by all later layers."""

    def __init__(self, classes, channels):
        super().__init__()
        self.stem = conv(channels, 8)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8 + 6 * i) for i in range(3)])
        self.layers = nn.ModuleList([conv(8 + 6 * i, 6, bias=False) for i in range(3)])
        self.last = nn.BatchNorm2d(26)
        self.out = nn.Linear(26, classes)

    def forward(self, images):
        maps = self.stem(images)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            maps = torch.cat([maps, layer(F.relu(norm(maps)))], 1)
        return self.out(F.relu(self.last(maps)).mean((2, 3)))


class Doubled(nn.Module):
    """The same map twice in one concatenation, and a gated one: each channel is read in several places."""

    def __init__(self, classes, channels):
        super().__init__()
        self.stem = conv(channels, 8)
        self.gate = conv(8, 8, 1)
        self.mix = conv(16, 10)
        self.norm = nn.BatchNorm2d(10)
        self.out = nn.Linear(10, classes)

    def forward(self, images):
        maps = F.relu(self.stem(images))
        maps = maps * torch.sigmoid(self.gate(maps.mean((2, 3), keepdim=True)))
        return self.out(F.relu(self.norm(self.mix(torch.cat([maps, -maps], 1)))).mean((2, 3)))


class Grouped(nn.Module):
    """A convolution in two groups, which stays whole, between layers that can be pruned."""

    def __init__(self, classes, channels):
        super().__init__()
        self.stem = nn.Sequential(conv(channels, 12, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.grouped = nn.Sequential(conv(12, 12, groups=2), nn.BatchNorm2d(12), nn.ReLU())
        self.after = nn.Sequential(conv(12, 14, bias=False), nn.BatchNorm2d(14), nn.ReLU())
        self.out = nn.Linear(14, classes)

    def forward(self, images):
        return self.out(self.after(self.grouped(self.stem(images))).mean((2, 3)))


class Bare(nn.Module):
    """Normalisation without weights, and one with a learnt scale that is a bare parameter."""

    def __init__(self, classes, channels):
        super().__init__()
        self.stem = conv(channels, 8)
        self.plain = nn.BatchNorm2d(8, affine=False)
        self.scaled = conv(8, 9)
        self.scale = nn.Parameter(torch.ones(9, 1, 1))
        self.last = nn.Sequential(conv(9, 10, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.out = nn.Linear(10, classes)

    def forward(self, images):
        maps = F.relu(self.plain(self.stem(images)))
        return self.out(self.last(F.relu(self.scaled(maps) * self.scale)).mean((2, 3)))


class Twice(nn.Module):
    """One layer that runs twice in a row."""

    def __init__(self, classes, channels):
        super().__init__()
        self.stem = nn.Sequential(conv(channels, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.again = conv(8, 8)
        self.out = nn.Linear(8, classes)

    def forward(self, images):
        maps = self.stem(images)
        for _ in range(2):
            maps = F.relu(self.again(maps))
        return self.out(maps.mean((2, 3)))


SHIPPED = {
    "lenet": ((1, 28, 28), {"first": 8, "second": 12, "hidden": 24}),
    "lenet-300-100": ((1, 8, 8), {"first": 24, "second": 12, "side": 8}),
    "wang-cnn": ((1, 28, 28), {"width": 4}),
    "vgg16-bn": ((3, 16, 16), {"width": 8}),
    "wide-resnet": ((3, 16, 16), {"depth": 10, "width": 1}),
}
TORCHVISION = {
    "torchvision-resnet18": ("torchvision.models:resnet18", {}, (3, 32, 32)),
    "torchvision-mobilenet": ("mobilenet_v2", {}, (3, 32, 32)),
}


def narrow_vgg16(classes, channels):
    """torchvision's vgg16_bn, its 120 million weights behind the flattened map cut down to what a test can wait for."""
    with torch.device("meta"):
        net = torchvision.models.vgg16_bn(num_classes=classes)
        net.classifier[0], net.classifier[3], net.classifier[6] = (
            nn.Linear(512 * 49, 48),
            nn.Linear(48, 32),
            nn.Linear(32, classes),
        )
    net.to_empty(device="cpu")
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net


USERS = {
    "torchvision-vgg16": narrow_vgg16,
    "flat": Flat,
    "dense": Dense,
    "doubled": Doubled,
    "grouped": Grouped,
    "bare": Bare,
    "twice": Twice,
}
ZOO = (*NETS.names(), *TORCHVISION, *USERS)


class Subject:
    """A net by name, made anew from one seed."""

    def __init__(self, name):
        self.name = name
        if name in TORCHVISION:
            self.choice, self.shape = (
                Choice(name=TORCHVISION[name][0], options=TORCHVISION[name][1]),
                TORCHVISION[name][2],
            )
        elif name in USERS:
            self.choice, self.shape = None, (3, 32, 32) if name == "torchvision-vgg16" else (3, 12, 12)
        else:
            self.shape, options = SHIPPED.get(name, ((3, 16, 16), {"width": 8}))
            self.choice = Choice(name=name, options=options)

    def net(self):
        torch.manual_seed(3)
        if self.choice is None:
            return USERS[self.name](10, self.shape[0]).eval()
        return build_net(self.choice, 10, self.shape, [0.4] * self.shape[0], [0.3] * self.shape[0]).eval()


@pytest.fixture(scope="session")
def users():
    return USERS


@pytest.fixture(scope="session")
def subject(request):
    return Subject(request.param)


@pytest.fixture(scope="session")
def coupling(subject):
    return find_groups(subject.net(), subject.shape)


def pytest_generate_tests(metafunc):
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "subject" in metafunc.fixturenames and "subject" not in chosen:
        metafunc.parametrize("subject", ZOO, indirect=True, scope="session")
