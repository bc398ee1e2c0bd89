"""Zoo: nets of torchvision and timm for ten classes of grey images of 32×32, and their exports, as others make them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Coloured(nn.Module):
    """A net for colour images that is given grey ones."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of N×1×H×W images."""
        scores: Tensor = self.net(images.expand(-1, 3, -1, -1))
        return scores


def of_torchvision(name: str, **options: Any) -> nn.Module:
    """Return a fresh net of torchvision."""
    import torchvision

    return Coloured(torchvision.models.get_model(name, num_classes=10, **options))


def of_timm(name: str, **options: Any) -> nn.Module:
    """Return a fresh net of timm."""
    import timm

    net: nn.Module = timm.create_model(name, num_classes=10, in_chans=1, **options)
    return net


def small_mixer() -> nn.Module:
    """Return a mixer of timm that is small enough for small images; those by name are not."""
    from timm.models.mlp_mixer import MlpMixer

    net = MlpMixer(num_classes=10, in_chans=1, img_size=32, patch_size=8, num_blocks=2, embed_dim=64)
    net.reset_classifier(10)  # the first one is made of zeros
    made: nn.Module = net
    return made


ZOO: Mapping[str, Callable[[], nn.Module]] = {
    "torchvision-resnet18": lambda: of_torchvision("resnet18"),
    "torchvision-mobilenet": lambda: of_torchvision("mobilenet_v3_small"),
    "torchvision-densenet": lambda: of_torchvision("densenet121"),
    "torchvision-squeezenet": lambda: of_torchvision("squeezenet1_1"),
    "torchvision-shufflenet": lambda: of_torchvision("shufflenet_v2_x0_5"),
    "timm-vit": lambda: of_timm("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2),
    "timm-convnext": lambda: of_timm("convnext_atto"),
    "timm-efficientnet": lambda: of_timm("efficientnet_b0"),
    # Of a fresh net whose blocks begin as nothing, hardly an image reaches the scores, so there is nothing to follow.
    "timm-resnet": lambda: of_timm("resnet18", zero_init_last=False),
    "timm-mixer": small_mixer,
}


def exported(net: nn.Module, path: Path, opset: int) -> Path:
    """Export ``net`` to ``path`` with a free batch, by torch's own exporter; return the path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, 32, 32),),
            path,
            dynamo=True,
            opset_version=opset,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=64)},),
        )
    return path
