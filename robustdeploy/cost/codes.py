"""Codes: what a net takes whose weights have few values: a code for each that is not 0, where it is, and the values."""

from __future__ import annotations

import math

import torch
from torch import nn

from robustdeploy.core.records import Codes
from robustdeploy.cost.module import params
from robustdeploy.cost.sparse import LAYERS

FLOAT_BITS = 32


def coded(net: nn.Module, bits: int) -> Codes:
    """Count what ``net`` takes in codes of ``bits``; a layer with more values than codes is stored as floats."""
    numbers, seen = params(net), set[int]()
    codes = indices = books = most = stored = layers = 0
    for module in net.modules():
        weight = module._parameters.get("weight") if isinstance(module, LAYERS) else None
        if weight is None or id(weight) in seen:
            continue
        seen.add(id(weight))  # what several layers share is stored once
        values = weight.detach().flatten()
        nonzero = values[values != 0]
        distinct = len(torch.unique(nonzero))
        # One code is that of 0.
        if distinct >= 2**bits:
            continue
        layers, stored, most = layers + 1, stored + len(values), max(most, distinct)
        codes += _bytes(len(nonzero) * bits)
        indices += _bytes(min(len(values), len(nonzero) * math.ceil(math.log2(max(2, len(values))))))
        books += _bytes(distinct * FLOAT_BITS)
    return Codes(
        bits=bits,
        layers=layers,
        most_values=most,
        codes_bytes=codes,
        indices_bytes=indices,
        codebooks_bytes=books,
        others_bytes=_bytes((numbers - stored) * FLOAT_BITS),
        dense_bytes=_bytes(numbers * FLOAT_BITS),
    )


def _bytes(bits: int) -> int:
    return -(-bits // 8)
