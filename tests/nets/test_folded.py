"""Folding batch norms into convolutions: the same function, faster; and every net that has to be left as it is."""

import copy

import pytest
import torch
from torch import nn

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import NETS
from robustdeploy.nets.build import build_net
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.folded import folded

SHAPE = (3, 32, 32)
EXAMPLE = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(8) % 10


def settled(net, seed=0):
    """``net`` in eval mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
    return net.eval().requires_grad_(False)


def norms(net):
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


def scores_and_gradient(net, images):
    images = images.clone().requires_grad_()
    scores = net(images)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(scores, LABELS, reduction="sum"), images)
    return scores.detach(), gradient


FOLDS_ALL = {
    "cifar-resnet",
    "resnet8",
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet18",
    "vgg16_bn",
    "torchvision.models:resnet18",
    "torchvision.models:mobilenet_v2",
}


@pytest.mark.parametrize(
    "name",
    [*NETS.names(), "torchvision.models:resnet18", "torchvision.models:mobilenet_v2", "torchvision.models:vgg11"],
)
def test_the_same_function_with_the_same_gradient(name):
    # In double, since in float32 rounding puts a ReLU here and there on its other side, where the gradient is another.
    net = settled(build_net(Choice(name=name), 10, SHAPE, [0.5] * 3, [0.25] * 3)).double()
    before = copy.deepcopy(net.state_dict())
    other = folded(net, EXAMPLE.double())
    fresh = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(2)).double()
    (scores, gradient), (found, followed) = scores_and_gradient(net, fresh), scores_and_gradient(other, fresh)
    torch.testing.assert_close(found, scores, rtol=1e-9, atol=1e-9 * float(scores.abs().max()))
    torch.testing.assert_close(followed, gradient, rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))
    assert not any(value.requires_grad for value in other.parameters())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    if name in FOLDS_ALL:
        assert norms(net) > 0
        assert norms(other) == 0


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))

    def features(self, images):
        return self.bn(self.conv(images)).relu()


class ReadTwice(Base):
    def features(self, images):
        out = self.conv(images)
        return self.bn(out) + out


class CalledTwice(Base):
    def features(self, images):
        return self.bn(self.conv(images)) + self.conv(images * 0.5)


class TwoNames(Base):
    def __init__(self):
        super().__init__()
        self.again = self.conv

    def features(self, images):
        return self.bn(self.conv(images)) + self.again(images * 0.5)


class TiedWeight(Base):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 4, 3)
        self.other.weight = self.conv.weight

    def features(self, images):
        return self.bn(self.conv(images)) + self.other(images * 0.5)


class ReadsTheWeight(Base):
    def features(self, images):
        return self.bn(self.conv(images)) * self.conv.weight.sum()


class DependsOnData(Base):
    def features(self, images):
        return self.bn(self.conv(images)) if images.mean() > 0 else images


class LooksAtItsLayers(Base):
    """Something that no graph shows."""

    def features(self, images):
        return super().features(images) * (1 if isinstance(self.bn, nn.BatchNorm2d) else -1)


class AsksItsLayers(Base):
    """An attribute that what takes the layer's place does not have."""

    def features(self, images):
        return super().features(images) / self.bn.num_features


class CannotBeCopied(Base):
    def __init__(self):
        super().__init__()
        self.extra = self.conv.weight.sum() * 2  # the result of a computation


def without_statistics():
    net = Base()
    net.bn = nn.BatchNorm2d(4, track_running_stats=False)
    return net


def with_a_hook():
    net = Base()
    net.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    return net


UNFOLDABLE = [
    ReadTwice,
    CalledTwice,
    TwoNames,
    TiedWeight,
    ReadsTheWeight,
    DependsOnData,
    LooksAtItsLayers,
    AsksItsLayers,
    CannotBeCopied,
    without_statistics,
    with_a_hook,
]


@pytest.mark.parametrize("make", UNFOLDABLE, ids=lambda make: make.__name__)
def test_a_net_that_cannot_be_folded_stays_as_it_is(make):
    torch.manual_seed(0)
    net = settled(make())
    other = folded(net, EXAMPLE)
    assert norms(other) == norms(net) == 1
    assert (other is net) == (make in (LooksAtItsLayers, AsksItsLayers, CannotBeCopied))
    torch.testing.assert_close(other(EXAMPLE), net(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_the_plain_net_of_those_cases_is_folded():
    torch.manual_seed(0)
    net = settled(Base())
    other = folded(net, EXAMPLE)
    assert norms(other) == 0
    torch.testing.assert_close(other(EXAMPLE), net(EXAMPLE), rtol=1e-4, atol=1e-5)


def test_a_random_net_stays_random():
    class Random(Base):
        def features(self, images):
            return super().features(images) * (1 + 1e-6 * torch.rand(()))

    torch.manual_seed(0)
    other = folded(settled(Random()), EXAMPLE)
    assert not torch.equal(other(EXAMPLE), other(EXAMPLE))


def test_gradients_stay_channels_last_through_every_shortcut():
    net = settled(build_net(Choice(name="resnet20"), 10, SHAPE, [0.5] * 3, [0.25] * 3))
    formats = []
    for way in (net, folded(net, EXAMPLE)):
        for pad in (module for module in way.modules() if isinstance(module, ChannelPad)):
            pad.register_full_backward_hook(lambda _, into, __: formats.append(last(into[0])))
        scores_and_gradient(way, EXAMPLE)
    assert formats == [False] * 2 + [True] * 2


def last(images):
    return images.is_contiguous(memory_format=torch.channels_last)
