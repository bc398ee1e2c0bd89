"""Planted flips: an engine whose labels differ from its twin's near ties alone, and how many of these are found.

    python benchmarks/divergence.py
    python benchmarks/divergence.py --images 60 --thresholds 0.01 --seeds 0 --json

A small net of the digits is trained. In its ONNX file the last bias is moved, each class by its own amount, none
further from another than the threshold. So the engine can be wrong where the net is right only where the margin is
below that. Near which images there is such a flip is found without the attack. A targeted PGD finds wrong images, and
on the path to each every image is scored by both nets, a grey level of one pixel after the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from robustdeploy import api
from robustdeploy.attacks.engine.divergence import Divergence
from robustdeploy.attacks.losses import Goal
from robustdeploy.attacks.protocol import box, input_gradient, to_grey_levels
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.files import atomic_write_text, temporary_folder
from robustdeploy.data.images import pixels
from robustdeploy.data.load import load_test
from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.engine.run import Run
from robustdeploy.evaluate.asking import engine_on, sought
from robustdeploy.evaluate.attack import Images, chosen
from robustdeploy.evaluate.host import load_host_net
from robustdeploy.export.agent import build_agent
from robustdeploy.nets.store import load_info
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat

RECIPE = """\
name: divergence
net: resnet8
threat: {norm: linf, eps: 0.1}
train: {task: fastat, epochs: 8, batch_size: 64, lr: 0.2, device: cpu}
baseline: false
"""
_STEPS = 40
"""Of the PGD that finds the ends of the paths."""
_CLEAR = 2e-5
"""Margin, in logits, beyond which no rounding of a runtime decides."""


@dataclass(frozen=True)
class Planted:
    """One planted engine."""

    threshold: float
    """Margin, in logits, below which a label may flip."""
    seed: int
    images: int
    flips: int
    """Images near which there is a flip, by the paths."""
    found: int
    """Of these, how many the attack found."""
    beyond: int
    """Images on which it found one where the paths show none."""
    by_chance: int
    """Of those with a flip, how many as many random images found."""
    queries: float
    """Per image that was attacked."""
    box: str = field(default="±25 grey levels")


def planted(run: Run, onnx_file: Path, images: Images, threat: Threat, threshold: float, seed: int) -> Planted:
    """Plant flips below ``threshold`` into an engine of the run's net, and look for them."""
    host = load_host_net(run.root / run.net_place, "cpu")
    offsets = np.random.default_rng(seed).uniform(-threshold / 2, threshold / 2, len(_bias(onnx.load(onnx_file))[1]))
    offsets = offsets.astype(np.float32)
    flips = near_flips(host.net, torch.from_numpy(offsets), images, threat)
    with temporary_folder() as folder:
        moved(onnx_file, folder / "model.onnx", offsets)
        build_agent(folder / "agent.pyz")
        with board_from(Local(workdir=str(folder)), folder / "agent.pyz") as board:
            made = board.compile("onnxruntime", board.put(folder / "model.onnx"))
            board.open_engine("onnxruntime", made.files)
            attack, of = Divergence(), (images.images, images.labels, images.ids)
            seen = sought(attack, host, engine_on(board, 1, lambda: None), of, threat, key(seed, attack.label))
            found = host.rounded(seen.images)
            differ = (host.score(found).argmax(1) == images.labels) & (board.score(found, 1).argmax(1) != images.labels)
    asked = seen.queries[seen.queries > 0]
    return Planted(
        threshold,
        seed,
        len(images.ids),
        int(flips.sum()),
        int((differ & flips).sum()),
        int((differ & ~flips).sum()),
        int((seen.by_chance & flips).sum()),
        float(asked.mean()) if len(asked) else 0.0,
        f"±{threat.levels} grey levels",
    )


def _bias(model: onnx.ModelProto) -> tuple[onnx.TensorProto, np.ndarray]:
    """Return the bias of the last layer."""
    name = [node for node in model.graph.node if node.op_type == "Gemm"][-1].input[2]
    tensor = next(each for each in model.graph.initializer if each.name == name)
    return tensor, numpy_helper.to_array(tensor)


def moved(before: Path, after: Path, offsets: np.ndarray) -> None:
    """Write an ONNX file with ``offsets`` added to the last layer's bias."""
    model = onnx.load(before)
    tensor, bias = _bias(model)
    tensor.CopyFrom(numpy_helper.from_array(bias + offsets, tensor.name))
    onnx.save(model, after)


def near_flips(net: nn.Module, offsets: Tensor, images: Images, threat: Threat) -> np.ndarray:
    """Return near which images a path shows one that ``net`` labels right, and with ``offsets`` added wrong."""
    clean, labels = pixels(torch.from_numpy(images.images)), torch.from_numpy(images.labels)
    low, high = box(clean, threat)
    flips = np.zeros(len(labels), np.bool_)
    with torch.no_grad():
        right = net(clean).argmax(1) == labels
    for target in range(len(offsets)):
        goal = Goal(labels, "margin", torch.full_like(labels, target))
        ends = clean
        for _ in range(_STEPS):
            slope, _ = input_gradient(net, ends, labels, goal.loss)
            ends = torch.minimum(
                torch.maximum(to_grey_levels(ends + threat.levels / 255 / 8 * slope.sign()), low), high
            )
        with torch.no_grad():
            wrong = net(ends).argmax(1) != labels
        for at in torch.arange(len(labels))[wrong & right & torch.from_numpy(~flips) & (labels != target)].tolist():
            path = _path(clean[at], ends[at], at)
            with torch.no_grad():
                own = torch.cat([net(part) for part in path.split(512)])
            flips[at] = bool(((_lead(own, labels[at]) > _CLEAR) & (_lead(own + offsets, labels[at]) < -_CLEAR)).any())
    return flips


def _path(start: Tensor, end: Tensor, seed: int) -> Tensor:
    """Return all images from one to another, a grey level of one pixel apart, the pixels in a random order."""
    levels = ((end - start) * 255).round().flatten()
    order = torch.randperm(len(levels), generator=torch.Generator().manual_seed(seed))
    steps = levels[order].abs().long()
    pixel = order.repeat_interleave(steps)
    moves = torch.zeros(len(pixel), len(levels))
    moves[torch.arange(len(pixel)), pixel] = levels[pixel].sign()
    whole = (start.flatten() * 255).round() + moves.cumsum(0)
    return (whole / 255).view(-1, *start.shape)


def _lead(scores: Tensor, label: Tensor) -> Tensor:
    others = scores.clone()
    others[:, label] = -torch.inf
    return scores[:, label] - others.amax(1)


def _all(run: Run, onnx_file: Path, images: Images, thresholds: list[float], seeds: list[int]) -> Iterator[Planted]:
    for threshold in thresholds:
        for seed in seeds:
            yield planted(run, onnx_file, images, run.recipe.threat, threshold, seed)


def main() -> None:
    """Train, plant and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where the trained net is kept")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.1, 0.01, 0.001])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    atomic_write_text(asked.work / "divergence.yaml", RECIPE)
    run = api.prune(recipe_for(asked.work / "divergence.yaml"), runs=asked.work, name="divergence")
    (exported, *_) = api.export(run, "host-cpu")
    info = load_info(run.root / run.net_place)
    images = chosen(load_test(run.recipe.data, info.classes), asked.images)
    rows = []
    for row in _all(run, exported.path, images, asked.thresholds, asked.seeds):
        rows.append(asdict(row))
        if not asked.json:
            print(_line(rows[-1]), flush=True)
    if asked.json:
        print(json.dumps(rows, indent=2))


def _line(row: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


if __name__ == "__main__":
    main()
