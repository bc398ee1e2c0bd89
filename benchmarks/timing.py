"""Timing: the latency of all rows' nets on this machine's toolchains, taking turns with the dense net.

One image, one thread, one process. In every round each net runs for a moment, and its median is divided by the dense
net's of the same round, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import torch
from rowfile import ROW_FILE, read_row
from rows import ROWS

from robustdeploy.core.files import atomic_write_json
from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.target import OPSET
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.fraction import fraction_of
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.store import load_info, load_net
from robustdeploy.onboard.types import Model

TOOLCHAINS = ("onnxruntime", "openvino", "tvm")
TURN_S = 0.02
Say = Callable[[str], object]


def time_rows(results: Path, rounds: int, say: Say) -> int:
    """Write the latency of all trained rows into their row files; return how many there are."""
    torch.set_num_threads(1)
    found = {row.name: record for row in ROWS if (record := read_row(results / row.name)) is not None}
    dense = [name for name, record in found.items() if record["method"] == "dense"]
    if len(dense) != 1:
        raise UsageError(f"{results} holds {len(dense)} dense rows, and times are told against one")
    names = [dense[0], *(name for name in found if name not in dense)]
    told: dict[str, dict[str, Any]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as kept_in:
        files = [_exported(results / name, Path(kept_in) / f"{name}.onnx") for name in names]
        image = np.random.default_rng(0).random((1, *load_info(results / dense[0]).image_shape), dtype=np.float32)
        for toolchain in TOOLCHAINS:
            say(f"{toolchain}: {len(names)} nets, {rounds} rounds")
            backend = BACKENDS.build(toolchain, {})
            if not (probe := backend.probe()).usable:
                say(f"without {toolchain}: {probe.fix}")
                continue
            with ExitStack() as opened:
                models = list(_opened(opened, backend, files, Path(kept_in) / toolchain))
                times = _in_turns(models, image, rounds)
            for name, its in zip(names, times, strict=True):
                told[name][toolchain] = {"version": probe.version, **_summary(its, times[0])}
    conditions = {
        "against": dense[0],
        "rounds": rounds,
        "precision": "fp32",
        "machine": machine.description(torch.device("cpu")),
        "load": machine.load_average(),
    }
    for name in names:
        record = {**found[name], "latency": {"toolchains": told[name], **conditions}}
        atomic_write_json(results / name / ROW_FILE, record)
    return len(names)


def _exported(folder: Path, file: Path) -> Path:
    export_onnx(load_net(folder), load_info(folder).image_shape, file, OPSET, NO_METADATA)
    return file


def _opened(opened: ExitStack, backend: Any, files: Sequence[Path], folder: Path) -> Iterator[Model]:
    for file in files:
        engine = folder / file.stem
        engine.mkdir(parents=True)
        backend.compile(file, engine)
        yield opened.enter_context(backend.open(engine))


def _in_turns(models: Sequence[Model], image: Any, rounds: int) -> list[list[float]]:
    """Return, for each model, its median time of each round in seconds."""
    times: list[list[float]] = [[] for _ in models]
    for number in range(rounds + 1):
        for model, its in zip(models, times, strict=True):
            model(image)  # the others' data are in the caches
            samples, ends = [], time.perf_counter() + TURN_S
            while time.perf_counter() < ends or not samples:
                started = time.perf_counter()
                model(image)
                samples.append(time.perf_counter() - started)
            if number:  # the first round warms everything up
                its.append(median(samples))
    return times


def _summary(its: Sequence[float], dense: Sequence[float]) -> Mapping[str, float]:
    found = fraction_of(its, dense)
    return {
        "median_us": round(median(its) * 1e6, 1),
        "lowest_us": round(min(its) * 1e6, 1),
        "fraction": round(found.value, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }
