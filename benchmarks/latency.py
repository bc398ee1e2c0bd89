"""Latency: every usable backend's time for one image on one core, taking turns, as a ratio to ONNX Runtime's in fp32.

    python benchmarks/latency.py
    python benchmarks/latency.py resnet20 mobilenet_v2 --precisions fp32 int8 --seconds 20 --json

Nets have weights that nobody trained: neither time nor parity depends on them. The smaller ones keep, of each layer,
the number of channels that the package's masks find for their share of operations before any training.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before numpy and torch load, which read it once.
os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch
import torchvision
from torch import nn

from robustdeploy.core.recipe import Budget
from robustdeploy.core.registry import BACKENDS, PRECISIONS
from robustdeploy.core.traits import traits_of
from robustdeploy.cost.module import macs
from robustdeploy.errors import RobustdeployError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.resnet18 import ResNet18
from robustdeploy.nets.resnet20 import ResNet20
from robustdeploy.onboard.types import Backend, Model
from robustdeploy.prune.masks import Masks

SMALL, LARGE = (3, 32, 32), (3, 64, 64)
REFERENCE = "onnxruntime"
MULTIPLE = 8
OPSET = 18
TURN_S = 0.03
"""How long one backend runs before the next one does."""
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Net:
    """One net of the table."""

    make: Make
    shape: tuple[int, int, int]
    ops: float | None = None
    """Share of the operations that is kept."""


NETS: Mapping[str, Net] = {
    "resnet20": Net(lambda: ResNet20()(10, 3), SMALL),
    "resnet20-ops0.5": Net(lambda: ResNet20()(10, 3), SMALL, 0.5),
    "resnet20-ops0.3": Net(lambda: ResNet20()(10, 3), SMALL, 0.3),
    "resnet18": Net(lambda: ResNet18()(10, 3), SMALL),
    "resnet18-ops0.5": Net(lambda: ResNet18()(10, 3), SMALL, 0.5),
    "resnet18-ops0.3": Net(lambda: ResNet18()(10, 3), SMALL, 0.3),
    "mobilenet_v2": Net(lambda: torchvision.models.mobilenet_v2(num_classes=10), LARGE),
    "vgg11_bn": Net(lambda: torchvision.models.vgg11_bn(num_classes=10), LARGE),
}
CALIBRATED_ON = 32
"""Random images: speed does not hang on ranges, and no accuracy is told."""


@dataclass
class Contender:
    """A backend with its engine of one net."""

    precision: str
    name: str
    model: Model
    compile_s: float
    calls: int = 1
    lowest_s: float = float("inf")

    def turn(self, image: Any) -> None:
        """Run for a while, and keep the shortest time."""
        self.model(image)  # the others' data are in the caches
        for _ in range(self.calls):
            started = time.perf_counter()
            self.model(image)
            self.lowest_s = min(self.lowest_s, time.perf_counter() - started)


def main() -> int:
    """Measure the nets that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"of {', '.join(NETS)}; all of them without any")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each net, of all backends together")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "int8"], help="fp32 first; by default fp32 int8")
    parser.add_argument("--backends", nargs="*", help="all that are usable here, if not given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := [name for name in options.nets if name not in NETS]:
        parser.error(f"no net {unknown[0]} (there are: {', '.join(NETS)})")
    torch.set_num_threads(1)
    backends = dict(_usable(options.backends))
    precisions = ["fp32", *(each for each in options.precisions if each != "fp32")]  # the reference
    rows = [row for name in options.nets or NETS for row in _rows(name, precisions, backends, options.seconds)]
    found = {"machine": machine.description(torch.device("cpu")), "load": machine.load_average(), "rows": rows}
    print(json.dumps(found, indent=2) if options.json else _table(found))
    return 0


def _usable(asked: list[str] | None) -> Iterator[tuple[str, Backend]]:
    """Give the backends that compute something here, the reference first."""
    for name in sorted(BACKENDS.names(), key=lambda name: (name != REFERENCE, name)):
        backend: Backend = BACKENDS.build(name, {})
        if name != REFERENCE and asked is not None and name not in asked:
            continue
        probe = backend.probe()
        if not probe.usable or traits_of(type(backend)).stands_in:
            print(f"without {name}: {probe.fix or 'it computes no net'}", file=sys.stderr)
            continue
        yield name, backend


def _rows(
    name: str, precisions: list[str], backends: Mapping[str, Backend], seconds: float
) -> Iterator[dict[str, Any]]:
    net, kept = _made(NETS[name])
    shape = NETS[name].shape
    with tempfile.TemporaryDirectory() as kept_in, ExitStack() as opened:
        folder = Path(kept_in)
        export_onnx(net, shape, folder / "fp32.onnx", OPSET, NO_METADATA)
        images = np.random.default_rng(0).random((CALIBRATED_ON, *shape), dtype=np.float32)
        field = []
        for precision in precisions:
            onnx = folder / f"{precision}.onnx"
            if precision != "fp32":
                PRECISIONS.build(precision, {}).lower(folder / "fp32.onnx", onnx, images)
            for backend_name, backend in backends.items():
                try:
                    place = folder / precision / backend_name
                    field.append(_opened(opened, precision, backend_name, backend, onnx, place))
                except RobustdeployError as error:
                    print(f"without {backend_name} for {name} in {precision}: {error}", file=sys.stderr)
        told = _measured(field, images[:1], seconds)
    for precision in precisions:
        its = {each.name: told[precision, each.name] for each in field if each.precision == precision}
        yield {"net": name, "precision": precision, "ops_kept": round(kept, 4), "backends": its}


def _made(which: Net) -> tuple[nn.Module, float]:
    """Return a net with fresh weights and the share of operations that it keeps."""
    torch.manual_seed(0)
    net = which.make()
    _settle(net, which.shape)
    whole = macs(net, which.shape)
    if which.ops is not None:
        pruning = Masks().wrap(net, which.shape, Budget(ops=which.ops, channel_multiple=MULTIPLE))
        pruning.finalize()
        net = pruning.compact()
    return net.eval(), macs(net, which.shape) / whole


def _settle(net: nn.Module, shape: tuple[int, int, int]) -> None:
    """Give normalisation layers statistics of their own inputs; fresh ones would let scores grow or vanish."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(8, *shape))
    net.eval()


def _measured(field: list[Contender], image: Any, seconds: float) -> dict[tuple[str, str], dict[str, Any]]:
    scores = {(each.precision, each.name): each.model(image) for each in field}
    for contender in field:
        contender.turn(image)
        contender.calls = max(1, int(TURN_S / contender.lowest_s))
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for contender in field:
            contender.turn(image)
    reference = field[0]
    return {
        (contender.precision, contender.name): {
            "lowest_us": round(contender.lowest_s * 1e6, 1),
            "ratio": round(contender.lowest_s / reference.lowest_s, 3),
            # From the reference's scores of the very same file.
            "largest_difference": float(
                np.abs(scores[contender.precision, contender.name] - scores[contender.precision, reference.name]).max()
            ),
            "compile_s": round(contender.compile_s, 2),
        }
        for contender in field
    }


def _opened(opened: ExitStack, precision: str, name: str, backend: Backend, onnx: Path, folder: Path) -> Contender:
    folder.mkdir(parents=True)
    started = time.monotonic()
    backend.compile(onnx, folder)
    seconds = time.monotonic() - started
    return Contender(precision, name, opened.enter_context(backend.open(folder)), seconds)


def _table(found: Mapping[str, Any]) -> str:
    lines = [machine.in_words(found["machine"]), ""]
    head = f"{'net':18} {'precision':10} {'ops':>6} {'backend':14} {'lowest':>10} {'ratio':>7} {'parity':>9}"
    lines.append(head)
    for row in found["rows"]:
        for name, told in row["backends"].items():
            lines.append(
                f"{row['net']:18} {row['precision']:10} {row['ops_kept']:6.1%} {name:14} "
                f"{told['lowest_us']:7,.0f} us {told['ratio']:7.3f} {told['largest_difference']:9.1e}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
