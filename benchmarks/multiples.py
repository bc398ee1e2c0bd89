"""Multiples: what it buys on a target to keep channels in multiples, by nets that were pruned before any training.

    python benchmarks/multiples.py
    python benchmarks/multiples.py resnet8 --targets host-cpu --ops 0.5 0.3 --choices 8 --json

All nets take turns with the dense one on the target itself. Several nets for each multiple differ in how they share the
operations out between their layers, and are the same ones for all multiples but for rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Before numpy and torch load, which read it once.
os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch

from robustdeploy.core.files import temporary_folder
from robustdeploy.core.load import load_target
from robustdeploy.core.recipe import Budget, Choice
from robustdeploy.cost.memory import without_values
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.errors import RobustdeployError
from robustdeploy.evaluate.profiling import TOGETHER, Shop, ratios, resizable
from robustdeploy.export.agent import build_agent, foreign_plugins
from robustdeploy.nets.build import build_net
from robustdeploy.prune.groups import traced_groups
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.multiples import shared_out


@dataclass(frozen=True)
class Net:
    """One net of the table, as a recipe has it."""

    choice: Choice
    shape: tuple[int, int, int]


NETS = {
    "resnet8": Net(Choice(name="resnet8", options={"width": 24}), (1, 8, 8)),
    "resnet20": Net(Choice(name="resnet20"), (3, 32, 32)),
}


def main() -> int:
    """Measure on each target and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(NETS)}; all of them without any")
    parser.add_argument("--targets", nargs="+", default=["host-cpu", "host-cpu-int8", "host-openvino", "host-tvm"])
    parser.add_argument("--ops", nargs="+", type=float, default=[0.7, 0.5, 0.3])
    parser.add_argument("--multiples", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--choices", type=int, default=5, help="nets for each multiple")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in asked.nets or NETS:
        for target in asked.targets:
            try:
                rows += _rows(asked, name, target)
            except RobustdeployError as error:
                print(f"without {target}: {error}", file=sys.stderr)
    found = {"machine": machine.description(torch.device("cpu")), "load": machine.load_average(), "rows": rows}
    print(json.dumps(found, indent=2) if asked.json else _table(found))
    return 0 if rows else 1


def _rows(asked: argparse.Namespace, name: str, target_name: str) -> Iterator[dict[str, Any]]:
    which, target = NETS[name], load_target(target_name)
    plain = (0.5,) * which.shape[0]
    net = build_net(which.choice, 10, which.shape, plain, plain).eval()
    groups = traced_groups(net, which.shape).groups
    cells = [(ops, multiple) for ops in asked.ops for multiple in asked.multiples]
    pruned = {cell: Masks().wrap(net, which.shape, Budget(ops=cell[0], preferred_multiple=cell[1])) for cell in cells}
    nets = [
        (cell, shared_out(masked.model, masked.limits, number))
        for number in range(asked.choices)
        for cell, masked in pruned.items()
    ]
    whole = np.array([group.size for group in groups])
    found: dict[tuple[float, int], list[float]] = {cell: [] for cell in cells}
    dense_us = []
    with temporary_folder() as folder:
        build_agent(folder / "agent.pyz", foreign_plugins())
        with fleet_of(target, folder / "agent.pyz", print, deadline_s=600) as fleet:
            file = resizable(net, groups, which.shape, target.opset, target.precisions[0])
            shop = Shop(fleet.boards[0], target, folder / "agent.pyz", groups, without_values(net), file, which.shape)
            for at in range(0, len(nets), TOGETHER):
                print(f"{name} on {target_name}: {at} of {len(nets)}", file=sys.stderr)
                batch = nets[at : at + TOGETHER]
                times = shop.times([whole, *(counts for _, counts in batch)])
                dense_us.append(float(np.median(times[0])))
                for (cell, _), ratio in zip(batch, ratios(times)[1:], strict=True):
                    found[cell].append(float(ratio))
    for (ops, multiple), its in found.items():
        yield {
            "net": name,
            "target": target_name,
            "dense_us": round(float(np.median(dense_us)), 1),
            "ops": ops,
            "multiple": multiple,
            "used": sorted(set(pruned[ops, multiple].limits.quantum.tolist())),
            "n": len(its),
            "ratio": round(float(np.median(its)), 3),
            "from": round(min(its), 3),
            "to": round(max(its), 3),
        }


def _table(found: dict[str, Any]) -> str:
    head = f"{'net':10} {'target':14} {'dense':>9} {'ops':>5} {'multiple':>9} {'time':>6} {'from':>6} {'to':>6} n"
    lines = [machine.in_words(found["machine"]), "", head]
    for row in found["rows"]:
        lines.append(
            f"{row['net']:10} {row['target']:14} {row['dense_us']:6,.0f} us {row['ops']:5} {row['multiple']:9} "
            f"{row['ratio']:6.3f} {row['from']:6.3f} {row['to']:6.3f} {row['n']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
