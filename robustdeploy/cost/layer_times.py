"""Layer times: look up, in a profile, how long nets of given channels take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robustdeploy.core.profile import LayerKind, Profile

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class LayerTimes:
    """The tables of a profile, filled up between the counts that they hold."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        numbers = {kind.name: number for number, kind in enumerate(profile.kinds)}
        self._tables = [_filled(kind) for kind in profile.kinds]
        self._kinds = [numbers[layer.kind] for layer in profile.layers]

    def by_layer(self, inputs: Counts, outputs: Counts) -> Floats:
        """Return microseconds of each layer; ``inputs`` and ``outputs`` end in an axis of the profile's layers."""
        parts = []
        for layer, kind in enumerate(self._kinds):
            table = self._tables[kind]
            rows = np.clip(inputs[..., layer], 1, len(table)) - 1
            columns = np.clip(outputs[..., layer], 1, table.shape[1]) - 1
            parts.append(table[rows, columns])
        return np.stack(parts, axis=-1)

    def of(self, inputs: Counts, outputs: Counts) -> Floats:
        """Return microseconds of whole nets."""
        total: Floats = self.profile.overhead_us + self.by_layer(inputs, outputs).sum(-1)
        return total


def grid(most: int, points: int = 64) -> Counts:
    """Return the counts that a table holds: all of them up to 64, else multiples of a power of two."""
    step = 1
    while most // step > points:
        step *= 2
    return np.unique(np.array([*range(step, most + 1, step), most]))


def _filled(kind: LayerKind) -> Floats:
    """Return the table over all counts from 1 to the dense net's."""
    held = np.array(kind.us, dtype=np.float64)
    rows, columns = (np.arange(1, side[-1] + 1) for side in (kind.inputs, kind.outputs))
    across = np.array([np.interp(columns, kind.outputs, row) for row in held])
    return np.array([np.interp(rows, kind.inputs, column) for column in across.T]).T


def quantum(times: Sequence[float] | Floats, counts: Counts) -> tuple[int, float]:
    """Return the multiple that ``counts`` are best kept in, by their ``times``, and the time that it saves on average.

    Rounding up to it must cost nothing: so it is 1 where each channel costs its share, and 8 where a staircase has
    steps of 8. Saved is what the other counts take longer than the next multiple.
    """
    held = np.asarray(times, dtype=np.float64)
    found, best = 1, 0.0
    # Of what channels change, and not of the time: how much of that is a layer's own cannot be told from whole nets.
    little = 0.005 * float(np.ptp(held))
    for block in (2, 4, 8, 16, 32, 64):
        rounded = np.minimum(-(-counts // block) * block, counts[-1])
        loose = (counts % block != 0) & (counts < counts[-1])
        if block > counts[-1] or not loose.any():
            continue
        after = np.interp(rounded, counts, held)
        saved = float((held - after)[loose].mean())
        # A longer step that saves as much leaves fewer choices of equal worth, so nothing is lost by it.
        if saved >= best - little:
            found, best = block, max(best, saved)
    return found, best if found > 1 else 0.0
