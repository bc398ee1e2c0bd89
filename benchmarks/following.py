"""Following: how long the gradient to the pixels takes on a net as it is and on its folded copy, taking turns.

    python benchmarks/following.py docs/results/cifar10-resnet20-ops0.3
    python benchmarks/following.py docs/results/cifar10-resnet20-ops1 --device cuda

Images are random ones: how long a gradient takes does not depend on what is on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import machine
import torch
from alternating import alternated
from torch import nn

from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.evaluate.host import load_host_net
from robustdeploy.nets.store import load_info
from robustdeploy.train.setup import device_from


def main() -> int:
    """Time both in turns and print medians, extremes, the ratio and the conditions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("net", type=Path, help="folder with net.json and model.safetensors")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = device_from(options.device)
    host = load_host_net(options.net, str(device))
    images = torch.rand(options.batch_size, *load_info(options.net).image_shape, device=device)
    jobs = {"as it is": partial(_follow, host.net, images), "folded": partial(_follow, host.followed, images)}
    report = alternated("as it is", "folded", jobs, options.rounds)
    print(json.dumps({**report, "batch_size": options.batch_size, **machine.description(device)}, indent=2))
    return 0


def _follow(net: nn.Module, images: torch.Tensor) -> None:
    gradient, _ = input_gradient(net, images, torch.zeros(len(images), dtype=torch.long, device=images.device))
    gradient.cpu()  # waits for the device


if __name__ == "__main__":
    sys.exit(main())
