"""Busy: a training's speed while nothing else runs and while others keep cores busy, for three ways to use threads.

    python benchmarks/busy.py docs/results/cifar10-resnet20-ops1

The ways: as torch has it; with the short wait of robustdeploy/cli/threads.py; on one thread.
They take turns, each in a process of its own, because an OpenMP runtime reads its settings only once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import machine
import torch

from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.cli.threads import SPINS, WAIT_SETTINGS
from robustdeploy.errors import RobustdeployError
from robustdeploy.nets.store import load_info, load_net

WAYS: dict[str, dict[str, str]] = {
    "torch's own": {},
    "short wait": {"GOMP_SPINCOUNT": SPINS},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main(words: Sequence[str] | None = None) -> int:
    """Time all ways in turns, quiet and busy, and print steps a second, ratios and the conditions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("net", type=Path, help="folder with net.json and model.safetensors")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", type=int, default=1, help="processes that keep a core busy each")
    parser.add_argument("--only-steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.only_steps:
        print(_steps_per_s(options.net, options.batch_size, options.seconds))
        return 0
    try:
        load_info(options.net)
    except RobustdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    before = machine.load_average()
    report: dict[str, Any] = {"quiet": _rounds(options)}
    with _kept_busy(options.others):
        report["busy"] = _rounds(options)
    conditions = {
        **machine.description(torch.device("cpu")),
        "load_before": before,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "others": options.others,
        "ways": WAYS,
    }
    print(json.dumps({**report, "conditions": conditions}, indent=2))
    return 0


def _rounds(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the steps a second of each way, and how many times torch's own they are, medians over the rounds."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, settings in WAYS.items():
            rates[way].append(_in_a_process(options, settings))
    return {way: _in_figures(of, rates["torch's own"]) for way, of in rates.items()}


def _in_figures(rates: Sequence[float], own: Sequence[float]) -> dict[str, float]:
    times = median(rate / other for rate, other in zip(rates, own, strict=True))
    return {"steps_per_s": median(rates), "lowest": min(rates), "highest": max(rates), "times torch's own": times}


def _in_a_process(options: argparse.Namespace, settings: Mapping[str, str]) -> float:
    bare = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", *WAIT_SETTINGS)}
    words = ["--batch-size", str(options.batch_size), "--seconds", str(options.seconds), "--only-steps"]
    command = [sys.executable, __file__, str(options.net), *words]
    done = subprocess.run(command, env={**bare, **settings}, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def _steps_per_s(folder: Path, batch_size: int, seconds: float) -> float:
    """Make FastAT's two passes on random images for so long; return the steps a second."""
    net = load_net(folder).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(batch_size, *load_info(folder).image_shape).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch_size, dtype=torch.long)

    def step() -> None:
        gradient, _ = input_gradient(net, images, labels)
        torch.nn.functional.cross_entropy(net(images + 0.03 * gradient.sign()), labels).backward()
        net.zero_grad()

    step()  # what a first step fetches or builds is not timed
    made, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        step()
        made += 1
    return made / passed


@contextmanager
def _kept_busy(others: int) -> Iterator[None]:
    """Let so many processes, each in a session of its own, do nothing as fast as they can while this one lives."""
    command = [sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: pass"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(others)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
