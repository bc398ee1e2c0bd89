"""Additive regression: how much each layer adds to a net's time, from the times of whole nets.

The time of a net is modelled as a constant plus, per layer, a function of its kind and of its input and output
channels: a Gaussian process with an additive kernel (Duvenaud et al. 2011). Whole nets are measured and not single
layers, as toolchains fuse layers and change layouts between them: a layer alone takes another time than in its net.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BLOCKS = (2, 4, 8, 16, 32)
"""Channels that toolchains may work on at once. What is no multiple of them may wait for the rest, or take a slower
kernel; which of these happens is learnt."""
_LENGTHS = (1.5, 2.5, 4.0)
_NOISES = (0.003, 0.006, 0.012, 0.025, 0.05)
_SMOOTH = (0.003, 0.01, 0.03, 0.1)
_CONSTANT = 0.1
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Structure:
    """The layers of a net: the kind of each as a number, and the channels of the dense net."""

    kinds: Counts
    inputs: Counts
    outputs: Counts

    @property
    def most(self) -> tuple[Counts, Counts]:
        """Per kind, the most input and output channels of its layers."""
        number = int(self.kinds.max()) + 1
        tops = [
            np.array([side[self.kinds == kind].max() for kind in range(number)]) for side in (self.inputs, self.outputs)
        ]
        return tops[0], tops[1]


@dataclass(frozen=True)
class Fit:
    """Times by layer that were fitted to whole nets; in the unit that the times had."""

    structure: Structure
    constant: float
    _points: Floats
    """Per layer of every measured net: its coordinates."""
    _weights: Floats
    _kinds: Counts
    _length: float
    _smooth: float
    errors: Floats
    """Per measured net: how far it is from what the others say of it, as a share of its time."""

    def table(self, kind: int, inputs: Counts, outputs: Counts) -> Floats:
        """Return the time of a layer of ``kind`` for each pair of input and output channels."""
        most_in, most_out = self.structure.most
        grid = np.array([(i, o) for i in inputs for o in outputs], dtype=np.float64)
        here = _coordinates(grid[:, 0], grid[:, 1], most_in[kind], most_out[kind])
        own = self._kinds == kind
        points, weights = self._points[own], self._weights[own]
        step = max(1, _CHUNK // max(1, len(points)))
        parts = [
            _kernel(here[at : at + step], points, self._length, self._smooth) @ weights
            for at in range(0, len(here), step)
        ]
        return np.concatenate(parts).reshape(len(inputs), len(outputs))


def fit(structure: Structure, inputs: Counts, outputs: Counts, times: Floats) -> Fit:
    """Fit nets' ``times``; ``inputs`` and ``outputs`` are nets × layers, the channels of each layer.

    How smooth the functions are and how noisy the times is chosen by the likelihood of what was measured.
    """
    nets, layers = inputs.shape
    kinds = np.tile(structure.kinds, nets)
    most_in, most_out = structure.most
    points = _coordinates(inputs.ravel(), outputs.ravel(), most_in[kinds], most_out[kinds])
    owner = np.repeat(np.arange(nets), layers)
    # Times near 1 whatever their unit, so that the choices of noise and scale below suit them all.
    scale = float(np.median(times))
    y = times / scale
    best: tuple[float, Floats, Floats, float, float] | None = None
    for length in _LENGTHS:
        linear, bumps = _summed(points, kinds, owner, nets, length)
        for smooth in _SMOOTH:
            gram = _CONSTANT + linear + smooth * bumps
            for noise in _NOISES:
                # Disturbance grows with the time that a net takes.
                inverse = np.linalg.inv(gram + np.diag((noise * y) ** 2))
                alpha = inverse @ y
                sign, logdet = np.linalg.slogdet(inverse)
                likelihood = float(logdet - y @ alpha) if sign > 0 else -np.inf
                if best is None or likelihood > best[0]:
                    best = likelihood, alpha, alpha / np.diag(inverse), length, smooth
    assert best is not None
    _, alpha, left_out, length, smooth = best
    weights = alpha[owner] * scale
    return Fit(structure, float(_CONSTANT * alpha.sum() * scale), points, weights, kinds, length, smooth, left_out / y)


def _summed(points: Floats, kinds: Counts, owner: Counts, nets: int, length: float) -> tuple[Floats, Floats]:
    """Return the two parts of the kernel between nets: sums over all pairs of their layers of one kind."""
    linear, bumps = np.zeros((nets, nets)), np.zeros((nets, nets))
    for kind in np.unique(kinds):
        own = kinds == kind
        those = np.zeros((nets, int(own.sum())))
        those[owner[own], np.arange(those.shape[1])] = 1
        line, bump = _kernels(points[own], points[own], length)
        linear += those @ line @ those.T
        bumps += those @ bump @ those.T
    return linear, bumps


def _kernel(these: Floats, those: Floats, length: float, smooth: float) -> Floats:
    line, bump = _kernels(these, those, length)
    combined: Floats = line + smooth * bump
    return combined


def _kernels(these: Floats, those: Floats, length: float) -> tuple[Floats, Floats]:
    """Return products of sides, as operations are, and bumps around what was measured."""
    half = these.shape[1] // 2
    sides = [1 + these[:, part] @ those[:, part].T for part in (slice(0, half), slice(half, None))]
    squares = (these**2).sum(1)[:, None] + (those**2).sum(1)[None] - 2 * these @ those.T
    return 2e-4 * sides[0] * sides[1], np.exp(-np.maximum(squares, 0) / (2 * length**2))


def _coordinates(
    inputs: npt.NDArray[np.generic], outputs: npt.NDArray[np.generic], most_in: object, most_out: object
) -> Floats:
    """Return where a layer is: how wide, how wide in whole blocks, and what it is no multiple of, on both sides."""
    columns: list[Floats] = []
    for counts, most in ((inputs, most_in), (outputs, most_out)):
        count, top = np.asarray(counts, dtype=np.float64), np.asarray(most, dtype=np.float64)
        columns.append(count / top)
        for block in BLOCKS:
            whole = np.ceil(count / block) * block
            # Where a block is wider than the layer, it can say one thing only: whether the layer fills it.
            narrow = np.asarray(0.5 * (count < block), dtype=np.float64)
            columns += [np.minimum(whole / top, 2.0), 0.5 * (count % block != 0), narrow]
    return np.stack(np.broadcast_arrays(*columns), axis=-1)
