"""Bytes of codes, where they are, what they mean, and all the rest, by hand."""

from __future__ import annotations

import torch
from torch import nn

from robustdeploy.cost.codes import coded


def test_every_byte_is_told():
    net = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 8, bias=False))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[0, :30] = torch.tensor([0.5, -0.25, 1.0]).repeat(10)
    found = coded(net, 2)
    # 30 codes of 2 bits; the places of 30 among 1,024 by number, 10 bits each, are less than one bit for each.
    assert (found.layers, found.most_values) == (1, 3)
    assert (found.codes_bytes, found.indices_bytes, found.codebooks_bytes) == (8, 38, 12)
    assert found.others_bytes == 4 * (16 + 32 + 128)  # the bias, the normalisation, and a layer of too many values
    assert found.dense_bytes == 4 * (64 * 16 + 16 + 32 + 128)
    assert found.total_bytes == 8 + 38 + 12 + 4 * (16 + 32 + 128)


def test_a_dense_layer_has_its_places_in_one_bit_each_and_shared_weights_count_once():
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    nn.init.constant_(first.weight, 0.5)
    second.weight = first.weight
    found = coded(nn.Sequential(first, nn.ReLU(), second), 8)
    assert (found.layers, found.codes_bytes, found.indices_bytes, found.codebooks_bytes) == (1, 256, 32, 4)
    assert (found.others_bytes, found.dense_bytes) == (0, 1024)
