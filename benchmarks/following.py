"""Following: how long the gradient to the pixels takes on a net as it is and on its folded copy, taking turns.

python benchmarks/following.py docs/results/cifar10-resnet20-ops0.3
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import machine
import torch
from torch import nn

from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.evaluate.host import load_host_net
from robustdeploy.nets.store import load_info
from robustdeploy.train.stage import device_from


def main() -> int:
    """Time both in turns and print medians, extremes, the ratio and the conditions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("net", type=Path, help="folder with net.json and model.safetensors")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = device_from(options.device)
    before = machine.load_average()
    host = load_host_net(options.net, str(device))
    images = torch.rand(options.batch_size, *load_info(options.net).image_shape, device=device)
    nets = {"as it is": host.net, "folded": host.followed}
    for net in nets.values():
        _seconds(net, images)
    times = {name: [] for name in nets}
    for _ in range(options.rounds):
        for name, net in nets.items():
            times[name].append(_seconds(net, images))
    report = {
        "seconds": {name: {"median": median(of), "lowest": min(of), "highest": max(of)} for name, of in times.items()},
        "ratio": median(plain / fast for plain, fast in zip(times["as it is"], times["folded"], strict=True)),
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        **machine.description(device),
        "load_before": before,
        "load_after": machine.load_average(),
    }
    print(json.dumps(report, indent=2))
    return 0


def _seconds(net: nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    gradient, _ = input_gradient(net, images, torch.zeros(len(images), dtype=torch.long, device=images.device))
    gradient.cpu()  # waits for the device
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
