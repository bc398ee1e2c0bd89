"""Asking: an engine attack at work on a block of images, the engine's answers counted and timed image by image."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from robustdeploy.attacks.engine.protocol import EngineAttack
from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.data.noise import Noise
from robustdeploy.devices.board import Board
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import Draws, key
from robustdeploy.onboard.queries import Counted, ask
from robustdeploy.onboard.types import Bytes, Labels, Model, Pixels, Scores, Threat, pixels_from_bytes


@dataclass(frozen=True)
class Engine:
    """What is asked, and a clock that tells how many nanoseconds it has taken in all."""

    model: Model
    clock: Callable[[], int] = time.perf_counter_ns
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)
    """Held while the net on the host computes: it is one for all threads."""


@dataclass(frozen=True)
class Sought:
    """What an engine attack found and spent, image by image."""

    images: Pixels
    """As they were proposed."""
    queries: Labels
    spent_ns: Labels
    """Time that the engine took for the first `MARKS` queries of each, N×marks."""
    by_chance: Bits
    """Images near which a random one, of as many as were asked for, divides the two; all false of other attacks."""


def engine_on(
    board: Board, batch: int, tell: Callable[[], None], lock: AbstractContextManager[Any] | None = None
) -> Engine:
    """Return what runs on a board, asked in batches of ``batch`` as it is judged; ``tell`` hears that work goes on."""

    def model(images: Pixels) -> Scores:
        scores = board.score(HostNet.rounded(images), batch)
        tell()
        return scores

    return Engine(model, lambda: board.spent_ns, lock or nullcontext())


def sought(
    attack: EngineAttack,
    host: HostNet,
    engine: Engine,
    of: tuple[Bytes, Labels, Labels],
    threat: Threat,
    noise_key: int,
) -> Sought:
    """Run an engine attack on a block ``of`` images, labels and ids; beside divergences, also ask random images."""
    images, labels, ids = of
    parts = _InParts(attack, _Locked(host.net, engine.lock), Counted(engine.model, len(images), engine.clock))
    proposed = host.proposed(parts, images, labels, threat, noise_key, ids)
    queries, by_chance = parts.counted.per_image, np.zeros(len(images), np.bool_)
    if getattr(attack, "KIND", "") == "divergence":
        by_chance = _by_chance(host, engine, of, threat, key(noise_key, "by-chance"), queries)
    return Sought(proposed, queries, parts.counted.spent_ns, by_chance)


def chosen_by(replay: GradientAttack, engine: Engine, of: tuple[Bytes, Labels, Labels], threat: Threat) -> Bytes:
    """Return of each image the replay that the engine does worst on."""
    images, labels, ids = of

    def scored(sent: Tensor) -> Tensor:
        return torch.from_numpy(engine.model(sent.numpy()))

    noise = Noise(0, torch.from_numpy(ids))
    sent = torch.from_numpy(pixels_from_bytes(images))
    # It asks of a net nothing but scores, so anything that gives these will do.
    found = replay(cast("nn.Module", scored), sent, torch.from_numpy(labels), threat, noise)
    return HostNet.rounded(found.numpy())


@dataclass
class _InParts:
    """An engine attack as one on the host, which is given the parts of a block one after the other."""

    attack: EngineAttack
    twin: nn.Module
    counted: Counted
    done: int = 0

    @property
    def label(self) -> str:
        return self.attack.label

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
        # The net itself and not ``net``, its faster twin: near a tie their rounding would decide.
        begins, self.done = self.done, self.done + len(images)

        def scores(sent: Tensor, places: Tensor) -> Tensor:
            if not len(sent):
                return sent.new_zeros((0, 1))
            rows = places.cpu().numpy() + begins
            told = ask(self.counted, sent.detach().float().cpu().numpy(), rows)
            return torch.from_numpy(told).to(sent.device)

        return self.attack(self.twin, scores, images, labels, threat, noise)


class _Locked(nn.Module):
    """A net of which one thread at a time asks."""

    def __init__(self, net: nn.Module, lock: AbstractContextManager[Any]) -> None:
        super().__init__()
        self.net, self._lock = net, lock

    def forward(self, images: Tensor) -> Tensor:
        with self._lock:
            scores: Tensor = self.net(images)
            return scores


def _by_chance(
    host: HostNet, engine: Engine, of: tuple[Bytes, Labels, Labels], threat: Threat, noise_key: int, queries: Labels
) -> Bits:
    """Ask for as many random images of each box as the attack did; return near which one divides twin and engine."""
    images, labels, ids = of
    low, high = threat.box(images)
    draws, divided = Draws(noise_key, ids), np.zeros(len(images), np.bool_)
    for number in range(int(queries.max(initial=0))):
        # One that has shown a difference needs to show no other.
        at = np.flatnonzero((queries > number) & ~divided)
        if not len(at):
            break
        wide = low[at].astype(np.int64), high[at].astype(np.int64)
        drawn = draws.select(at).uniform(number, images[0].size).reshape(images[at].shape)
        random = (wide[0] + np.floor(drawn * (wide[1] - wide[0] + 1))).astype(np.uint8)
        wrong = ~CLASSIFICATION.right(engine.model(pixels_from_bytes(random)), labels[at])
        if wrong.any():
            with engine.lock:
                divided[at[wrong]] = CLASSIFICATION.right(host.score(random[wrong]), labels[at[wrong]])
    return divided
