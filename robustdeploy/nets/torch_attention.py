"""Torch form of ONNX's Attention (opset 23), operation by operation, so that a gradient can be followed."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdeploy.nets.torch_windows import Attributes, Inputs, at


def attention(i: Inputs, a: Attributes) -> Tensor:
    """Weigh values by the softmax of scaled products of queries and keys; heads share keys where there are fewer.

    Tensors are N×heads×length×size, or N×length×(heads·size) with the numbers of heads as attributes. Caches of earlier
    keys, soft caps and the products as an output of their own have no form here.
    """
    if a.get("softcap", 0.0) or any(at(i, place) is not None for place in (4, 5, 6)):
        raise NotImplementedError("Attention with earlier keys or a soft cap")
    flat = i[0].dim() == 3
    queries = _heads(i[0], a["q_num_heads"]) if flat else i[0]
    keys, values = (_heads(each, a["kv_num_heads"]) if flat else each for each in i[1:3])
    shared = queries.shape[1] // keys.shape[1]
    keys, values = (each.repeat_interleave(shared, 1) for each in (keys, values))
    products = queries @ keys.transpose(-1, -2) * a.get("scale", queries.shape[-1] ** -0.5)
    mask = at(i, 3)
    if mask is not None and mask.dtype == torch.bool:
        products = products.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        products = products + mask
    if a.get("is_causal", 0):
        later = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).triu(1)
        products = products.masked_fill(later, -torch.inf)
    weighed: Tensor = products.softmax(-1) @ values
    return weighed.transpose(1, 2).flatten(2) if flat else weighed


def _heads(x: Tensor, count: int) -> Tensor:
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)
