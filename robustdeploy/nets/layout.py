"""Layout: in which order the numbers of a weight lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def lay_channels_last(net: nn.Module) -> None:
    """Lay weights with two spatial dimensions out channels last, in place: convolutions run faster so.

    ``Module.to(memory_format=...)`` does that too, and fails where a net has weights with three of them.
    """
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.dim() == 4:
            # `contiguous` would leave the strides of dimensions of size 1 alone, by which torch chooses its kernels.
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
