"""Layer times: where the time of a deployed net goes by the profile of its target, and why a layer gains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from robustdeploy.core.profile import LayerKind, Profile, ProfiledNet
from robustdeploy.core.reading import parse_json, read_bounded
from robustdeploy.core.recipe import Choice
from robustdeploy.core.report import LayerTime, Report
from robustdeploy.core.subject import Subject
from robustdeploy.cost.layer_times import LayerTimes
from robustdeploy.devices.profiles import load_profile
from robustdeploy.errors import RobustdeployError
from robustdeploy.report.quantity import quantity

HEAD: Final = ("Layer", "Work", "Channels", "Operations", "Time", "Of dense", "Why no gain")
LAYERS_NOTE: Final = (
    "Foretold by the target's profile, which was measured on whole nets: a single layer's share is an estimate. "
    "Time is of undisturbed calls."
)
_MOST_BYTES = 64 << 20
_LITTLE = 0.15
"""A layer that keeps so much more of its time than of its operations is worth a reason."""


def layer_times(
    profiles: Path, subject: Subject, net: Path, backend: str, version: str, identity: Mapping[str, str]
) -> tuple[LayerTime, ...]:
    """Return a line for each layer of the net in folder ``net``; none where no profile is of its engine's device.

    ``backend``, ``version`` and ``identity`` are what the engine was built with and for.
    """
    try:
        told = parse_json(read_bounded(net / "net.json", _MOST_BYTES), "it")
        shape = tuple(told["image_shape"])
        steps = tuple(Choice(**each) for each in told.get("preprocess", ()))
        about = ProfiledNet(
            net=Choice(**told["net"]), classes=len(told["classes"]), image_shape=shape, preprocess=steps
        )
        profile = load_profile(profiles, subject.place, subject.precision, about, "")
    except (RobustdeployError, ValidationError, KeyError, TypeError):
        return ()  # a page without this section is as true as one with it
    was = profile.device
    same = all(was.identity.get(name) == value for name, value in identity.items())
    if (was.backend, was.version) != (backend, version) or not same:
        return ()
    return tuple(_lines(profile, told.get("modules", {})))


def _lines(profile: Profile, modules: Mapping[str, Any]) -> Iterator[LayerTime]:
    dense = np.array([(layer.inputs, layer.outputs) for layer in profile.layers])
    now = np.array([_sides(modules.get(layer.name), layer.inputs, layer.outputs) for layer in profile.layers])
    times = LayerTimes(profile)
    before, after = (times.by_layer(sides[:, 0], sides[:, 1]) for sides in (dense, now))
    kinds = {kind.name: kind for kind in profile.kinds}
    for number, layer in enumerate(profile.layers):
        inputs, outputs = map(int, now[number])
        kept = outputs / layer.outputs * (1.0 if layer.kind.startswith("depthwise") else inputs / layer.inputs)
        us, dense_us = float(after[number]), float(before[number])
        yield LayerTime(
            layer=layer.name.removeprefix("net."),
            kind=layer.kind,
            inputs=inputs,
            outputs=outputs,
            dense_inputs=layer.inputs,
            dense_outputs=layer.outputs,
            ops_kept=round(kept, 5),
            us=round(us, 3),
            dense_us=round(dense_us, 3),
            why=_why(
                kinds[layer.kind],
                ((inputs, layer.inputs), (outputs, layer.outputs)),
                kept,
                us / dense_us if dense_us > 0 else 1.0,
            ),
        )


def _sides(size: Any, inputs: int, outputs: int) -> tuple[int, int]:
    return (int(size["inputs"]), int(size["outputs"])) if isinstance(size, Mapping) else (inputs, outputs)


def _why(kind: LayerKind, sides: tuple[tuple[int, int], tuple[int, int]], kept: float, share: float) -> str:
    """Say what keeps a layer from gaining what its operations lost; nothing where it does gain."""
    if share <= kept + _LITTLE or kept >= 1:
        return ""
    multiples = zip(("input", "output"), sides, (kind.input_quantum, kind.output_quantum), strict=True)
    told = [
        f"{count} {name}s are no multiple of {multiple}"
        for name, (count, dense), multiple in multiples
        if count % multiple and count < dense  # a side that lost nothing could gain nothing
    ]
    return " and ".join(told) or "little of its time follows its channels"


def layer_rows(report: Report, subject: str) -> list[tuple[str, ...]]:
    """Return the cells of a subject's table, under ``HEAD``, with the sum of the layers at its end."""
    lines = report.figures.layer_times[subject]
    rows = [
        (
            each.layer,
            each.kind,
            f"{each.inputs}→{each.outputs} of {each.dense_inputs}→{each.dense_outputs}",
            quantity(each.ops_kept, "fraction"),
            f"{each.us:.1f} us",
            _share(each.us, each.dense_us),
            each.why,
        )
        for each in lines
    ]
    us, dense_us = sum(each.us for each in lines), sum(each.dense_us for each in lines)
    return [*rows, ("all layers", "", "", "", f"{us:.1f} us", _share(us, dense_us), "")]


def _share(us: float, dense_us: float) -> str:
    return f"{us / dense_us:.2f}" if dense_us > 0 else ""
