"""Profiles: how well a profile foretells the latency of nets that it has not seen, for each usable backend.

    python benchmarks/profiles.py
    python benchmarks/profiles.py --net resnet20 --size 8 --targets host-cpu host-openvino --seconds 120 --json

The held-out nets keep random numbers of channels in every group; each is measured in turns with the dense net.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

# Before numpy and torch load, which read it once.
os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch

from robustdeploy.core.files import temporary_folder
from robustdeploy.core.load import load_target
from robustdeploy.core.profile import ProfiledNet
from robustdeploy.core.recipe import Choice
from robustdeploy.cost.layer_times import LayerTimes
from robustdeploy.cost.memory import without_values
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.errors import RobustdeployError
from robustdeploy.evaluate.profiling import TOGETHER, Shop, profile_net, resizable
from robustdeploy.export.agent import build_agent, foreign_plugins
from robustdeploy.nets.build import build_net
from robustdeploy.prune.groups import traced_groups
from robustdeploy.prune.layers import net_layers

LEAST_SHARE = 0.15
SEED = 1


def main() -> int:
    """Profile on each target, measure the held-out nets there, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--targets", nargs="+", default=["host-cpu", "host-openvino", "host-tvm"])
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for name in asked.targets:
        try:
            rows.append(_row(asked, name))
        except RobustdeployError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    found = {"machine": machine.description(torch.device("cpu")), "net": asked.net, "size": asked.size, "rows": rows}
    print(json.dumps(found, indent=2) if asked.json else _table(found))
    return 0 if rows else 1


def _row(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    shape = (asked.channels, asked.size, asked.size)
    plain = (0.5,) * asked.channels
    net = build_net(Choice(name=asked.net), 10, shape, plain, plain).eval()
    groups = traced_groups(net, shape).groups
    target, precision = load_target(name), Choice(name=asked.precision)
    about = ProfiledNet(net=Choice(name=asked.net), classes=10, image_shape=shape)
    rng = np.random.default_rng(SEED)
    held_out = [
        np.array([max(1, round(group.size * rng.uniform(LEAST_SHARE, 1))) for group in groups])
        for _ in range(asked.held_out)
    ]
    with temporary_folder() as folder:
        build_agent(folder / "agent.pyz", foreign_plugins())
        with fleet_of(target, folder / "agent.pyz", print, deadline_s=600) as fleet:
            board = fleet.boards[0]
            began = time.monotonic()
            profile = profile_net(
                net,
                groups,
                about,
                target,
                precision,
                board,
                folder / "agent.pyz",
                folder / "samples",
                _say,
                asked.seconds,
            )
            seconds = time.monotonic() - began
            file = resizable(net, groups, shape, target.opset, precision)
            shop = Shop(board, target, folder / "agent.pyz", groups, without_values(net), file, shape)
            measured = []
            whole = np.array([group.size for group in groups])
            for at in range(0, len(held_out), TOGETHER):
                low = np.quantile(shop.times([whole, *held_out[at : at + TOGETHER]]), 0.1, axis=1)
                measured += list(low[1:] / low[0])
    layers = net_layers(net, groups, shape)
    foretold = LayerTimes(profile).of(*layers.channels(np.array(held_out))) / profile.dense_us
    errors = np.abs(foretold / np.array(measured) - 1)
    return {
        "target": name,
        "dense_us": profile.dense_us,
        "profiled": profile.measured,
        "profile_s": round(seconds, 1),
        "own_error_median": profile.error_median,
        "own_error_worst": profile.error_worst,
        "held_out": len(held_out),
        "error_median": round(float(np.median(errors)), 4),
        "error_worst": round(float(errors.max()), 4),
        "ratios": [round(float(min(measured)), 3), round(float(max(measured)), 3)],
        "quanta": {kind.name: [kind.input_quantum, kind.output_quantum] for kind in profile.kinds},
    }


def _say(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total}", file=sys.stderr)


def _table(found: dict[str, Any]) -> str:
    lines = [machine.in_words(found["machine"]), f"{found['net']} on {found['size']}×{found['size']} pixels", ""]
    lines.append(
        f"{'target':16} {'dense':>8} {'nets':>5} {'profiled in':>12} {'held out':>9} {'median':>8} {'worst':>8}"
    )
    for row in found["rows"]:
        lines.append(
            f"{row['target']:16} {row['dense_us']:5,.0f} us {row['profiled']:5} {row['profile_s']:10,.0f} s "
            f"{row['held_out']:9} {row['error_median']:8.1%} {row['error_worst']:8.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
