"""The model of operations against counts of smaller nets, where products are not one layer's own weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustdeploy.cost.module import macs
from robustdeploy.errors import BudgetError
from robustdeploy.prune.groups import ChannelGroup, Member
from robustdeploy.prune.probing import operation_model, random_counts, smaller_net

SHAPE = (3, 6, 6)


class NonLocal(nn.Module):
    """Attention of every place to every other, inside a net of convolutions."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.stem, self.value, self.join = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 8, 1)
        self.query, self.key, self.fc = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1), nn.Linear(8, 4)

    def forward(self, images):
        maps = F.relu(self.stem(images))
        query, key, value = (layer(maps).flatten(2) for layer in (self.query, self.key, self.value))
        if self.how == "places":  # 36×36 scores, over the channels of queries and keys
            mixed = value @ (query.transpose(1, 2) @ key).softmax(1)
        elif self.how == "channels":  # as many scores as pairs of channels of the values
            mixed = (value @ value.transpose(1, 2)).softmax(2) @ value
        else:  # half of the queries alone
            half = query[:, : query.shape[1] // 2]
            mixed = value @ (half.transpose(1, 2) @ half).softmax(1)
        return self.fc((maps + self.join(mixed.view(-1, value.shape[1], 6, 6))).mean((2, 3)))


def group(name, size, *sides):
    every = torch.arange(size)
    return ChannelGroup(name, size, tuple(Member(layer, side, every, every, True) for layer, side in sides))


GROUPS = (
    group("query", 6, ("query", "out"), ("key", "out")),
    group("value", 5, ("value", "out"), ("join", "in")),
)


@pytest.mark.parametrize("how", ["places", "channels"])
def test_products_outside_of_layers_follow_the_channels_that_they_are_over(how):
    net = NonLocal(how)
    model = operation_model(net, GROUPS, SHAPE)
    assert model.of(np.array([6.0, 5.0])) == macs(net, SHAPE)
    for counts in [*random_counts(GROUPS), np.array([1, 1]), np.array([2, 3]), np.array([5, 4])]:
        assert model.of(counts.astype(float)) == macs(smaller_net(net, GROUPS, counts), SHAPE)


def test_products_that_no_group_touches_are_a_constant():
    net = NonLocal("places")
    model = operation_model(net, GROUPS[:0], SHAPE)
    assert model.of(np.zeros(0)) == macs(net, SHAPE)
    widths = group("value", 5, ("value", "out"), ("join", "in"))
    model = operation_model(net, (widths,), SHAPE)
    assert [model.of(np.array([float(n)])) for n in (1, 5)] == [
        macs(smaller_net(net, (widths,), np.array([n])), SHAPE) for n in (1, 5)
    ]


def test_operations_that_follow_otherwise_are_refused_with_the_operator():
    with pytest.raises(BudgetError, match=r"do not follow from its channel counts: those of a 'bmm' in the net itself"):
        operation_model(NonLocal("half"), GROUPS, SHAPE)
