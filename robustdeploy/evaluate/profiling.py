"""Profiling: measure nets like one, with other channel counts, on a device, and take their times apart into layers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from robustdeploy.core.files import atomic_write_text, canonical_json, temporary_folder
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.profile import Device, LayerKind, Profile, ProfiledLayer, ProfiledNet
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.core.subject import FP32
from robustdeploy.core.target import Target
from robustdeploy.cost.additive import Fit, fit
from robustdeploy.cost.layer_times import grid, quantum
from robustdeploy.cost.memory import without_values
from robustdeploy.devices.board import Board
from robustdeploy.devices.builder import builder_for
from robustdeploy.devices.toolchain import installed_on
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.resizing import Resizable, Sizes, learn
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.size import module_sizes
from robustdeploy.onboard.engine import Files
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.groups import ChannelGroup
from robustdeploy.prune.layers import NetLayers, net_layers
from robustdeploy.prune.probing import smaller_net

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]

TURNS = 10
"""Of each load."""
TURN_S = 0.008
LOADS = 3
"""Where an engine's memory lies moves its time by several percent, and each load places it anew."""
_LOADING_S = 8.0
"""Toolchains that take long to load are loaded less often, so that more nets are measured in the same time."""
TOGETHER = 11
"""Nets that take turns with the dense one: so many that its own turns cost little, so few that memory holds all."""
FEWEST, LEAST, MOST = 44, 60, 192
"""Nets that are measured: whatever time that takes, before the errors are looked at, and at most."""
GOOD_MEDIAN, GOOD_WORST = 0.025, 0.1
"""Errors on nets left out of the fit at which more nets would not help much."""
_CALIBRATION = 8


@dataclass(frozen=True)
class Sample:
    """One net that was measured."""

    kept: tuple[int, ...]
    ratio: float
    """Its time over the dense net's, in turns."""
    dense_us: float


@dataclass
class Shop:
    """Makes engines of nets with any channel counts, and lets them take turns on a board."""

    board: Board
    target: Target
    agent: Path
    groups: Sequence[ChannelGroup]
    blank: nn.Module
    file: Resizable
    image_shape: tuple[int, int, int]

    def times(self, nets: Sequence[Counts]) -> Floats:
        """Return microseconds of undisturbed calls of each net, in each load of its engine: nets × loads."""
        there = installed_on(self.board, self.target)
        with temporary_folder() as folder, builder_for(self.board, there, self.target, self.agent) as builder:
            engines = [self._engine(builder, counts, folder / str(number)) for number, counts in enumerate(nets)]
        return undisturbed(self.board, self.target, engines, self.image_shape)

    def _engine(self, builder: Board, counts: Counts, folder: Path) -> Files:
        stop_if_interrupted()
        folder.mkdir()
        path = folder / "model.onnx"
        path.write_bytes(self.file.resized(_sizes(self.blank, self.groups, counts)).SerializeToString())
        backend = self.target.backend
        made = builder.compile(backend.name, builder.put(path), backend.options)
        if builder is not self.board:
            builder.fetch(made.files, folder / "engine")
            self.board.send(folder / "engine", made.files)
        return made.files


def undisturbed(board: Board, target: Target, engines: Sequence[Files], image_shape: tuple[int, int, int]) -> Floats:
    """Let engines on a board take turns; return microseconds of undisturbed calls, engines × loads."""
    images = np.random.default_rng(0).integers(0, 256, (1, *image_shape), dtype=np.uint8)
    backend, found, began = target.backend, list[Floats](), time.monotonic()
    while len(found) < LOADS and (not found or time.monotonic() - began < _LOADING_S):
        turns = board.turns(backend.name, engines, backend.options, images, TURNS, TURN_S)
        found.append(turns.min(axis=1) / 1e3)  # a busy machine disturbs most of the turns
    return np.stack(found, axis=1)


def ratios(times: Floats) -> Floats:
    """Return the times of nets over that of the first one, which took turns with them: the median over loads."""
    middle: Floats = np.median(times / times[0], axis=1)
    return middle


def resizable(
    net: nn.Module, groups: Sequence[ChannelGroup], image_shape: tuple[int, int, int], opset: int, precision: Choice
) -> Resizable:
    """Export ``net`` in a few sizes and learn from them what a file of any size is."""
    exported = []
    for counts in _telling_counts(net, groups):
        exported.append(
            (_sizes(without_values(net), groups, counts), _exported(net, groups, image_shape, opset, precision, counts))
        )
    return learn(*exported)


def _telling_counts(net: nn.Module, groups: Sequence[ChannelGroup]) -> list[Counts]:
    """Return three choices of channels of which the first two tell all sizes apart that follow different groups."""
    rng, blank = np.random.default_rng(0), without_values(net)
    for _ in range(100):
        drawn = [np.array([rng.integers(max(1, g.size // 4), max(2, g.size)) for g in groups]) for _ in range(3)]
        if any((a == b).any() for a, b in [drawn[:2]]):
            drawn[1] = np.where(drawn[0] == drawn[1], np.maximum(1, drawn[0] - 1) + (drawn[0] == 1), drawn[1])
        one, two, three = (_sizes(blank, groups, counts) for counts in drawn)
        seen: dict[tuple[int, int], int] = {}
        if all(seen.setdefault((one[n], two[n]), three[n]) == three[n] for n in one):
            return drawn
    raise ArtifactError("the sizes of this net's layers cannot be told apart, so its latency cannot be profiled")


def _sizes(blank: nn.Module, groups: Sequence[ChannelGroup], counts: Counts) -> Sizes:
    found = module_sizes(smaller_net(blank, groups, counts))
    sides = ("inputs", "outputs", "groups")
    return {f"{name}.{side}": int(getattr(size, side)) for name, size in found.items() for side in sides}


def _exported(
    net: nn.Module,
    groups: Sequence[ChannelGroup],
    image_shape: tuple[int, int, int],
    opset: int,
    precision: Choice,
    counts: Counts,
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    # Any of the channels, as a training keeps them: the first ones would give shortcuts a simpler form.
    chosen = {
        g.name: torch.from_numpy(np.sort(rng.permutation(g.size)[: int(n)]))
        for g, n in zip(groups, counts, strict=True)
    }
    with temporary_folder() as folder:
        path = folder / "fp32.onnx"
        small = compact_net(net, groups, chosen)
        for module in small.modules():
            if isinstance(module, ChannelPad):
                module.padding = None  # a choice that happens to be in order has another graph than all others
        export_onnx(small, image_shape, path, opset, NO_METADATA)
        if precision.name != FP32:
            images = rng.random((_CALIBRATION, *image_shape), dtype=np.float32)
            path, source = folder / "model.onnx", path
            PRECISIONS.build(precision.name, precision.options).lower(source, path, images)
        return onnx.load(path)


def drawn_counts(number: int, groups: Sequence[ChannelGroup]) -> Counts:
    """Return the channels of the net of that number: every second one in whole blocks, as toolchains like them."""
    rng = np.random.default_rng([20, number])
    level, counts = rng.uniform(0.15, 1.1), []
    blocks = rng.choice([4, 8, 16], 1) if number % 2 == 0 else rng.choice([1, 1, 4, 8], len(groups))
    for group, block in zip(groups, np.resize(blocks, len(groups)), strict=True):
        wanted = group.size * np.clip(level * rng.uniform(0.5, 1.5), 0.05, 1)
        counts.append(min(group.size, max(1, round(wanted / block)) * block if group.size > block else round(wanted)))
    return np.maximum(1, np.array(counts, dtype=np.int64))


class Samples:
    """What was measured so far, in a file; each batch is safe as soon as it is there."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path, self._head = path, canonical_json(about)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        # What was measured on another device, or of another net, says nothing here.
        mine = bool(lines) and lines[0] == self._head
        self.all = (
            [Sample(tuple(each["kept"]), each["ratio"], each["dense_us"]) for each in map(json.loads, lines[1:])]
            if mine
            else []
        )

    def add(self, found: Sequence[Sample]) -> None:
        """Keep these as well."""
        self.all += found
        told = [{"kept": each.kept, "ratio": each.ratio, "dense_us": each.dense_us} for each in self.all]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self._path, "\n".join([self._head, *map(json.dumps, told)]) + "\n")

    def replace(self, number: int, sample: Sample) -> None:
        """Put another measurement of the same net in the place of an earlier one."""
        self.all[number] = sample


def profile_net(
    net: nn.Module,
    groups: Sequence[ChannelGroup],
    about: ProfiledNet,
    target: Target,
    precision: Choice,
    board: Board,
    agent: Path,
    samples_file: Path,
    progress: Progress,
    seconds: float,
) -> Profile:
    """Measure nets with other channel counts on ``board`` for about ``seconds``, and return the profile.

    What an interrupted call has measured on the same device is used again.
    """
    device = device_of(board, target)
    progress("exporting", 0, 1)
    shape = about.image_shape
    layers = net_layers(net, groups, shape)
    shop = Shop(
        board, target, agent, groups, without_values(net), resizable(net, groups, shape, target.opset, precision), shape
    )
    samples = Samples(
        samples_file, {"device": device.model_dump(), "net": about.described(), "precision": precision.name}
    )
    began = time.monotonic()
    found: Fit | None = None
    while True:
        have = len(samples.all)
        enough = found is not None and have >= LEAST and _is_good(found)
        if have and (enough or have >= MOST or (time.monotonic() - began > seconds and have >= FEWEST)):
            break
        progress("nets measured", have, MOST)
        samples.add(_measured(shop, [drawn_counts(have + number, groups) for number in range(TOGETHER)]))
        if len(samples.all) >= LEAST:
            found = _fitted(layers, samples.all)
    found = _checked_again(shop, layers, samples, _fitted(layers, samples.all))
    progress("nets measured", len(samples.all), len(samples.all))
    return _profile(found, layers, samples.all, about, target, precision, device, time.monotonic() - began)


def device_of(board: Board, target: Target) -> Device:
    """Return what a profile that is measured now would be of."""
    there = installed_on(board, target)
    return Device(
        backend=there.name,
        version=there.version,
        options=dict(target.backend.options),
        identity={**there.identity, **board.identity()},
    )


def _is_good(found: Fit) -> bool:
    errors = np.abs(found.errors)
    return bool(np.median(errors) <= GOOD_MEDIAN and np.quantile(errors, 0.95) <= GOOD_WORST)


def _measured(shop: Shop, nets: Sequence[Counts]) -> list[Sample]:
    whole = np.array([group.size for group in shop.groups], dtype=np.int64)
    times = shop.times([whole, *nets])
    found, dense_us = ratios(times)[1:], float(np.median(times[0]))
    return [Sample(tuple(map(int, kept)), float(ratio), dense_us) for kept, ratio in zip(nets, found, strict=True)]


def _checked_again(shop: Shop, layers: NetLayers, samples: Samples, found: Fit) -> Fit:
    """Measure once more what fits the others worst: on a busy device a net may have had bad turns alone."""
    errors = found.errors[1:]
    limit = max(0.06, 4 * float(np.median(np.abs(errors))))
    worst = [int(number) for number in np.argsort(-np.abs(errors))[:TOGETHER] if abs(errors[number]) > limit]
    if not worst:
        return found
    for number, again in zip(worst, _measured(shop, [np.array(samples.all[n].kept) for n in worst]), strict=True):
        if again.ratio < samples.all[number].ratio:
            samples.replace(number, again)
    samples.add(())
    return _fitted(layers, samples.all)


def _fitted(layers: NetLayers, samples: Sequence[Sample]) -> Fit:
    """Fit the ratios; the first net is the dense one itself, which is 1 by definition."""
    kept = np.array([layers.sizes, *(sample.kept for sample in samples)])
    return fit(layers.structure, *layers.channels(kept), np.array([1.0, *(sample.ratio for sample in samples)]))


def _profile(
    found: Fit,
    layers: NetLayers,
    samples: Sequence[Sample],
    about: ProfiledNet,
    target: Target,
    precision: Choice,
    device: Device,
    seconds: float,
) -> Profile:
    dense_us = float(np.median([sample.dense_us for sample in samples]))
    inputs, outputs = layers.channels(layers.sizes)
    errors = np.abs(found.errors)
    return Profile(
        target=target.name,
        precision=precision.name,
        device=device,
        net=about,
        kinds=tuple(_kinds(found, layers, dense_us)),
        layers=tuple(
            ProfiledLayer(name=name, kind=kind, inputs=int(i), outputs=int(o))
            for name, kind, i, o in zip(layers.names, layers.kinds, inputs, outputs, strict=True)
        ),
        overhead_us=round(found.constant * dense_us, 4),
        dense_us=round(dense_us, 4),
        measured=len(samples),
        turns=TURNS * LOADS,
        error_median=round(float(np.median(errors)), 5),
        error_worst=round(float(errors.max()), 5),
        seconds=round(seconds, 1),
    )


def _kinds(found: Fit, layers: NetLayers, dense_us: float) -> Iterator[LayerKind]:
    most_in, most_out = layers.structure.most
    for number, name in enumerate(layers.kind_names):
        inputs, outputs = grid(int(most_in[number])), grid(int(most_out[number]))
        table = found.table(number, inputs, outputs) * dense_us
        # Averages over the other side, since a step shows wherever that one is.
        by_input, by_output = quantum(table.mean(1), inputs), quantum(table.mean(0), outputs)
        share = int((layers.structure.kinds == number).sum()) / dense_us
        yield LayerKind(
            name=name,
            inputs=tuple(map(int, inputs)),
            outputs=tuple(map(int, outputs)),
            us=tuple(tuple(round(float(us), 4) for us in row) for row in table),
            input_quantum=by_input[0],
            input_gain=round(by_input[1] * share, 4),
            output_quantum=by_output[0],
            output_gain=round(by_output[1] * share, 4),
        )
