"""Kinds of structure, a small net for each: what `benchmarks/supported.py` tries beside torchvision's classifiers.

Every net reads images of 1×8×8, has ordinary convolutions around its one difficulty, and ends in a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Between = Callable[["Kind", Tensor], Tensor]


def conv(before: int, after: int, size: int = 3, stride: int = 1, **more: Any) -> nn.Module:
    """Return a convolution with batch normalisation and a rectifier."""
    layer = nn.Conv2d(before, after, size, stride, size // 2, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())


class Kind(nn.Module):
    """Two convolutions, something between them and the linear layer, and what that needs."""

    def __init__(self, classes: int, between: Between, features: int, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.stem, self.more = conv(1, 16), conv(16, 12)
        self.between = between
        for name, module in parts.items():
            setattr(self, name, module)
        self.fc = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Any:
        """Return the scores of N×1×8×8 images."""
        maps = self.between(self, self.more(self.stem(images)))
        return self.fc(maps.mean((2, 3)) if maps.dim() == 4 else maps.flatten(1))


class Pair(Kind):
    """Two tensors in place of one."""

    def forward(self, images: Tensor) -> Any:
        """Return the scores twice."""
        return super().forward(images), super().forward(images)


class Bare(nn.Module):
    """A parameter of the net's own."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(*shape))


def _shuffled(maps: Tensor) -> Tensor:
    return maps.unflatten(1, (2, 6)).transpose(1, 2).flatten(1, 2)


def _tied() -> dict[str, nn.Module]:
    first, second = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
    second.weight = first.weight
    return {"a": first, "b": second}


def _columns(net: Any, maps: Tensor) -> Tensor:
    last: Tensor = net.a(maps.permute(0, 3, 1, 2).flatten(2))[0][:, -1]
    return last


def _attended(net: Any, maps: Tensor) -> Tensor:
    places = maps.flatten(2).transpose(1, 2)
    return torch.as_tensor(net.a(places, places, places)[0]).mean(1)


def _non_local(net: Any, maps: Tensor) -> Tensor:
    query, key, value = (layer(maps).flatten(2) for layer in (net.a, net.b, net.c))
    scores = torch.einsum("bcq,bck->bqk", query, key).softmax(-1)
    return maps + net.d(torch.einsum("bqk,bck->bcq", scores, value).unflatten(2, (8, 8)))


def _batch_stats(net: Any, maps: Tensor) -> Tensor:
    return torch.as_tensor(net.a(maps))


KINDS: dict[str, tuple[Between, int, Callable[[], dict[str, nn.Module]]]] = {
    "a plain chain": (lambda net, x: x, 12, dict),
    "residual addition": (lambda net, x: F.relu(x + net.a(x)), 12, lambda: {"a": conv(12, 12)}),
    "concatenation": (lambda net, x: torch.cat([x, net.a(x)], 1), 20, lambda: {"a": conv(12, 8)}),
    "shortcut of padded channels": (
        lambda net, x: net.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
        16,
        lambda: {"a": conv(12, 16, stride=2)},
    ),
    "channels split or chunked": (
        lambda net, x: torch.cat([net.a(x[:, :4]), net.b(x[:, 4:])], 1),
        13,
        lambda: {"a": conv(4, 6), "b": conv(8, 7)},
    ),
    "channel shuffle": (lambda net, x: net.a(_shuffled(x)), 8, lambda: {"a": conv(12, 8)}),
    "pixel shuffle": (lambda net, x: net.a(F.pixel_shuffle(x, 2)), 8, lambda: {"a": conv(3, 8)}),
    "depthwise convolution": (
        lambda net, x: net.b(net.a(x)),
        8,
        lambda: {"a": conv(12, 12, groups=12), "b": conv(12, 8)},
    ),
    "grouped convolution": (lambda net, x: net.b(net.a(x)), 8, lambda: {"a": conv(12, 12, groups=3), "b": conv(12, 8)}),
    "transposed convolution": (
        lambda net, x: net.b(net.a(x)),
        8,
        lambda: {"a": nn.ConvTranspose2d(12, 10, 2, 2), "b": conv(10, 8)},
    ),
    "one-dimensional convolution": (
        lambda net, x: net.b(net.a(x.flatten(2))).unsqueeze(2),
        8,
        lambda: {"a": nn.Conv1d(12, 10, 3), "b": nn.Conv1d(10, 8, 3)},
    ),
    "flattened maps": (lambda net, x: net.a(F.avg_pool2d(x, 4).flatten(1)), 9, lambda: {"a": nn.Linear(48, 9)}),
    "group normalisation": (
        lambda net, x: F.relu(net.b(net.a(x))),
        8,
        lambda: {"a": nn.Conv2d(12, 8, 3), "b": nn.GroupNorm(4, 8)},
    ),
    "batch normalisation without weights": (
        lambda net, x: F.relu(net.b(net.a(x))),
        8,
        lambda: {"a": nn.Conv2d(12, 8, 3), "b": nn.BatchNorm2d(8, affine=False)},
    ),
    "layer normalisation": (
        lambda net, x: net.b(net.a(x.mean((2, 3)))),
        9,
        lambda: {"a": nn.Linear(12, 9), "b": nn.LayerNorm(9)},
    ),
    "PReLU, a slope per channel": (
        lambda net, x: net.b(net.a(x)),
        8,
        lambda: {"a": nn.Conv2d(12, 8, 3), "b": nn.PReLU(8)},
    ),
    "sigmoid between linear layers": (
        lambda net, x: torch.sigmoid(net.a(x.mean((2, 3)))),
        9,
        lambda: {"a": nn.Linear(12, 9)},
    ),
    "squeeze and excitation": (
        lambda net, x: x * torch.sigmoid(net.b(F.relu(net.a(x.mean((2, 3), keepdim=True))))),
        12,
        lambda: {"a": nn.Conv2d(12, 4, 1), "b": nn.Conv2d(4, 12, 1)},
    ),
    "weights that two layers share": (lambda net, x: net.b(F.relu(net.a(x))), 12, _tied),
    "weight normalisation": (
        lambda net, x: F.relu(net.a(x)),
        8,
        lambda: {"a": nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 8, 3))},
    ),
    "weights that are a bare parameter": (
        lambda net, x: 10 * F.linear(F.normalize(x.mean((2, 3))), F.normalize(net.a.values)),
        9,
        lambda: {"a": Bare(9, 12)},
    ),
    "attention (nn.MultiheadAttention)": (
        _attended,
        12,
        lambda: {"a": nn.MultiheadAttention(12, 2, batch_first=True)},
    ),
    "attention by einsum": (
        _non_local,
        12,
        lambda: {
            "a": nn.Conv2d(12, 6, 1),
            "b": nn.Conv2d(12, 6, 1),
            "c": nn.Conv2d(12, 5, 1),
            "d": nn.Conv2d(5, 12, 1),
        },
    ),
    "a recurrent layer (nn.LSTM)": (_columns, 10, lambda: {"a": nn.LSTM(96, 10, batch_first=True)}),
    "adaptive maximum": (lambda net, x: F.adaptive_max_pool2d(x, 3), 12, dict),
    "adaptive mean to a size that does not divide": (lambda net, x: F.adaptive_avg_pool2d(x, 3), 12, dict),
    "interpolation": (lambda net, x: net.a(F.interpolate(x, scale_factor=2.0)), 8, lambda: {"a": conv(12, 8)}),
    "the same part computed twice": (
        lambda net, x: net.a(x) * torch.sigmoid(net.a(x).mean((2, 3), keepdim=True)),
        8,
        lambda: {"a": conv(12, 8)},
    ),
    "a Fourier transform": (lambda net, x: torch.fft.rfft2(x).abs(), 12, dict),
    "distances by torch.cdist": (
        lambda net, x: torch.cdist(x.mean((2, 3)), net.a.values),
        9,
        lambda: {"a": Bare(9, 12)},
    ),
    "a decision by a computed value": (lambda net, x: x if x.mean() > 0 else -x, 12, dict),
    "a selection of another size each time": (lambda net, x: x.masked_select(x > -1).view(x.shape), 12, dict),
    "a number of images written into the code": (lambda net, x: torch.stack([x[i] for i in range(len(x))]), 12, dict),
    "dropout that is always on": (lambda net, x: F.dropout(x, 0.3), 12, dict),
    "statistics of the batch at hand": (_batch_stats, 12, lambda: {"a": nn.BatchNorm2d(12, track_running_stats=False)}),
    "two outputs": (lambda net, x: x, 12, dict),
    "scores that are no numbers": (lambda net, x: x / (x - x), 12, dict),
}


def net(kind: str, num_classes: int) -> nn.Module:
    """Return the net of a kind, as a recipe's factory."""
    between, features, parts = KINDS[kind]
    return (Pair if kind == "two outputs" else Kind)(num_classes, between, features, parts())
