"""Speeds: images per second of trainings that take turns, and the time of whole trainings."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from ratios import WHOLE, Ratio, ratios
from setting import Setting
from turns import Turns

from robustdeploy.core.registry import PRUNERS

FIRST = 2
"""Steps before the first round, in which memory is laid out and kernels are chosen."""
UNTIMED = 1
"""Steps at the start of a turn that are not timed: caches hold another training's data."""
SAID_EVERY = 10
"""Turns between two lines about whole trainings."""
PREFETCHED = 2
"""Batches that each process of a DataLoader prepares ahead, in part during the others' turns."""


@dataclass(frozen=True)
class Contender:
    """A training that takes part."""

    name: str
    turns: Turns
    untimed: int = UNTIMED


def by_turns(whole: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """Let all trainings make ``steps`` timed steps in each round; return images per second and the ratios."""
    pruner: Any = PRUNERS.build(whole.recipe.prune.name, whole.recipe.prune.options)
    needed = FIRST + rounds * (UNTIMED + steps)
    total = math.ceil((needed + 1) / min(pruner.freeze, 1 - pruner.freeze)) + 1
    freezes = next(step for step in range(total + 1) if step / total >= pruner.freeze)
    setting = _quiet(whole, total)
    ours = {"dense": False, "masks": True, "compact": True}
    with ExitStack() as running:
        field = [*_references(setting, rounds, steps), *(_contender(setting, *of) for of in ours.items())]
        for contender in field:
            running.enter_context(contender.turns)
            contender.turns.advance(FIRST)
        compact = field[-1].turns
        compact.advance(freezes - compact.done)
        compact.advance(FIRST)
        rates = _rounds(field, rounds, steps, setting.recipe.train.batch_size)
        assert field[-2].turns.done < freezes, "the masks were frozen before the last round"
    share = freezes / total
    return {
        "images_per_s": {name: _spread(values) for name, values in rates.items()},
        "masks_share": share,
        "ratios": [ratio.plain() for ratio in ratios(rates, share)],
    }


def _quiet(setting: Setting, steps: int) -> Setting:
    """Return the setting of one epoch of ``steps`` steps in which nothing but steps happens.

    Probes, validations and checkpoints are left to ``--whole``: here they would fall on some turns and not on others.
    """
    recipe, data = setting.recipe, setting.data
    train = recipe.train.model_copy(update={"epochs": 1, "sentinel": False, "checkpoint_every_s": 1e6})
    several = torch.arange(steps * train.batch_size) % len(data.train)
    few = torch.arange(min(16, len(data.validation)))
    data = replace(data, train=data.train.select(several), validation=data.validation.select(few))
    return replace(setting, recipe=recipe.model_copy(update={"train": train}), data=data)


def _contender(setting: Setting, name: str, pruned: bool) -> Contender:
    return Contender(name, Turns(partial(setting.trained, pruned, name), setting.finish))


def _references(setting: Setting, rounds: int, steps: int) -> Iterator[Contender]:
    """Give the reference in float32 and, where autocast is what one would use, with it too."""
    untimed = UNTIMED + PREFETCHED * setting.workers
    for name, autocast in (("reference", False), ("reference, autocast", True)):
        if not autocast or setting.device.type == "cuda":
            whole = FIRST + rounds * (untimed + steps) + 1
            yield Contender(name, Turns(partial(setting.reference, autocast, whole), setting.finish), untimed)


def _rounds(field: Sequence[Contender], rounds: int, steps: int, batch_size: int) -> dict[str, tuple[float, ...]]:
    """Let everybody make ``steps`` timed steps in each round; return images per second."""
    rates: dict[str, tuple[float, ...]] = {contender.name: () for contender in field}
    for number in range(1, rounds + 1):
        for contender in field:
            contender.turns.advance(contender.untimed)
            seconds = contender.turns.advance(steps)
            rates[contender.name] += (steps * batch_size / seconds,)
        now = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
        print(f"round {number} of {rounds}, images per second: {now}", file=sys.stderr, flush=True)
    return rates


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": median(values), "lowest": min(values), "highest": max(values), "rounds": list(values)}


def whole_trainings(setting: Setting, epochs: int, steps: int) -> dict[str, Any]:
    """Time the dense and the pruned training from end to end, in turns of ``steps``: probes, validations and all."""
    train = setting.recipe.train.model_copy(update={"epochs": epochs})
    setting = replace(setting, recipe=setting.recipe.model_copy(update={"train": train}))
    contenders = {"dense": False, "pruned": True}
    turns = {
        name: Turns(partial(setting.trained, pruned, f"whole-{name}"), setting.finish)
        for name, pruned in contenders.items()
    }
    with ExitStack() as running:
        for each in turns.values():
            running.enter_context(each)
        for turn in itertools.count(1):
            for each in turns.values():
                each.advance(steps)
            ended = all(each.ended for each in turns.values())
            if ended or turn % SAID_EVERY == 0:
                now = ", ".join(f"{name} {each.done} steps in {each.seconds:.0f} s" for name, each in turns.items())
                print(f"whole trainings: {now}", file=sys.stderr, flush=True)
            if ended:
                break
    seconds = {name: each.seconds for name, each in turns.items()}
    ratio = Ratio("time of the whole training, pruned / dense", (seconds["pruned"] / seconds["dense"],), at_most=WHOLE)
    return {"epochs": epochs, "images": len(setting.data.train), "seconds": seconds, "ratio": ratio.plain()}
