"""Latency alarms: how often two sets of runs of one engine look different, and how often a slow-down is found.

    python benchmarks/latency_alarms.py synthetic
    python benchmarks/latency_alarms.py record traces.npz --minutes 20
    python benchmarks/latency_alarms.py replay traces.npz

Traces are runs of fresh processes on this machine, one after another, of two nets. A comparison takes ten runs in a row
and ten others in a row. Synthetic runs have calls that hang together (AR(1), 0.9), 3 % of scatter, runs half a per cent
apart and 0.5 % of spikes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch
from scipy.signal import lfilter

from robustdeploy.core.target import LatencyPlan
from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.evaluate.comparison import Runs, change
from robustdeploy.evaluate.latency import run_plan
from robustdeploy.evaluate.telemetry import disturbance
from robustdeploy.export.agent import build_agent
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.resnet8 import ResNet8
from robustdeploy.nets.resnet20 import ResNet20

COMPARISONS, RUNS, CALLS = 1000, 10, 1000
SLOW_DOWNS = (1.05, 1.1, 1.3, 1.5)
SHAPES = {"resnet8": (1, 8, 8), "resnet20": (3, 32, 32)}
Draw = Callable[[np.random.Generator], tuple[Runs, Runs]]


def main() -> int:
    """Record traces, or count alarms on recorded or synthetic ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["synthetic", "record", "replay"])
    parser.add_argument("traces", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    if options.what != "synthetic" and options.traces is None:
        parser.error("say which file of traces")
    if options.what == "record":
        record(options.traces, options.minutes * 60)
        return 0
    draws = {"synthetic": synthetic} if options.what == "synthetic" else replayed(options.traces)
    found = {name: counted(draw) for name, draw in draws.items()}
    print(json.dumps({"comparisons": COMPARISONS, "runs": RUNS, "found": found}, indent=2))
    return 0


def counted(draw: Draw) -> dict[str, Any]:
    """Count alarms among equal pairs, and what is found among pairs of which one is slower.

    ``would_alarm`` counts equal pairs that the test alone calls different, had nobody looked at what disturbed them.
    """
    rng = np.random.default_rng(0)
    alarms, untold, would, seen = 0, 0, 0, dict.fromkeys(SLOW_DOWNS, 0)
    for _ in range(COMPARISONS):
        before, after = draw(rng)
        verdict = _verdict(before, after, 1.0)
        alarms += verdict in ("slower", "faster")
        untold += verdict is None
        would += _verdict(Runs(before.quartiles_ms), Runs(after.quartiles_ms), 1.0) in ("slower", "faster")
        for factor in SLOW_DOWNS:
            seen[factor] += _verdict(before, after, factor) == "slower"
    return {
        "alarms": alarms,
        "nobody_can_tell": untold,
        "would_alarm": would,
        "found": {f"{factor - 1:.0%} slower": count for factor, count in seen.items()},
    }


def _verdict(before: Runs, after: Runs, factor: float) -> str | None:
    slower = Runs(tuple(factor * each for each in after.quartiles_ms), after.disturbed)
    told = change(before, slower)
    return None if isinstance(told, str) else told.verdict


def synthetic(rng: np.random.Generator) -> tuple[Runs, Runs]:
    """Draw the runs of two equal nets on a quiet board."""
    steps = rng.normal(size=(2 * RUNS, CALLS)) * (1 - 0.9**2) ** 0.5
    steps[:, 0] = rng.normal(size=2 * RUNS)
    times = (1 + 0.03 * lfilter([1], [1, -0.9], steps)) * (1 + 0.005 * rng.normal(size=(2 * RUNS, 1)))
    times = np.where(rng.random(times.shape) < 0.005, 3 * times, times)
    quartiles = np.quantile(times, 0.25, axis=1)
    return Runs(tuple(quartiles[:RUNS])), Runs(tuple(quartiles[RUNS:]))


def replayed(path: Path) -> dict[str, Draw]:
    """Draw stretches of recorded runs that do not overlap, with what disturbed them."""
    held = np.load(path)

    def draw_of(name: str) -> Draw:
        quartiles, disturbed = held[f"{name}/quartiles_ms"], held[f"{name}/disturbed"]

        def draw(rng: np.random.Generator) -> tuple[Runs, Runs]:
            last = len(quartiles) - RUNS
            one = other = 0
            while abs(one - other) < RUNS:
                one, other = (int(at) for at in rng.integers(0, last + 1, 2))
            return _stretch(quartiles, disturbed, one), _stretch(quartiles, disturbed, other)

        return draw

    return {name: draw_of(name) for name in SHAPES}


def _stretch(quartiles: np.ndarray[Any, Any], disturbed: np.ndarray[Any, Any], at: int) -> Runs:
    return Runs(tuple(quartiles[at : at + RUNS].tolist()), tuple(disturbed[at : at + RUNS].tolist()))


def record(path: Path, seconds: float) -> None:
    """Take runs of both nets in turn for so long; keep each run's quartile and whether others disturbed it."""
    torch.manual_seed(0)
    nets = {"resnet8": ResNet8()(10, 1), "resnet20": ResNet20()(10, 3)}
    kept: dict[str, list[tuple[float, bool]]] = {name: [] for name in nets}
    plan, rng = run_plan(LatencyPlan()), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        build_agent(folder / "agent.pyz")
        with board_from(Local(), folder / "agent.pyz") as board:
            engines = {}
            for name, net in nets.items():
                export_onnx(net.eval(), SHAPES[name], folder / f"{name}.onnx", 18, NO_METADATA)
                engines[name] = board.compile("onnxruntime", board.put(folder / f"{name}.onnx")).files
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                for name, files in engines.items():
                    images = rng.integers(0, 256, (32, *SHAPES[name])).astype(np.uint8)
                    run = board.run("onnxruntime", files, {}, plan, images)
                    kept[name].append(
                        (float(np.quantile(run.window.samples_ns, 0.25)) * 1e-6, disturbance(run) is not None)
                    )
    arrays = {f"{name}/quartiles_ms": np.array([each for each, _ in runs]) for name, runs in kept.items()}
    arrays |= {f"{name}/disturbed": np.array([each for _, each in runs]) for name, runs in kept.items()}
    np.savez(path, **arrays)
    told = machine.in_words(machine.description(torch.device("cpu")))
    counts = {name: f"{sum(each for _, each in runs)} of {len(runs)} disturbed" for name, runs in kept.items()}
    print(f"{told}, load {machine.load_average()}: {counts}")


if __name__ == "__main__":
    sys.exit(main())
