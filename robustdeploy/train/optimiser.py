"""Optimiser: the recipe's rule for what follows the phase's rate, and SGD or Adam for what has a rate of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustdeploy.core.recipe import Train

Kinds = dict[str, dict[str, Tensor]]
"""What is kept of each parameter, by what torch calls it (``momentum_buffer``, ``exp_avg`` …) and by parameter."""
STEP = "step"
"""What torch calls the count of a parameter's steps; all else that it keeps is shaped like the parameter."""


class Optimiser:
    """Optimisers of torch over parameter groups; a group without ``lr`` follows the schedule.

    One with ``lr`` is moved by SGD, unless its ``rule`` is ``adam``.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], options: Train, lr: float) -> None:
        following = [dict(group) for group in groups if "lr" not in group]
        own = [dict(group) for group in groups if "lr" in group]
        rules = [group.pop("rule", "sgd") for group in own]
        by_adam = [group for group, rule in zip(own, rules, strict=True) if rule == "adam"]
        by_sgd = [group for group, rule in zip(own, rules, strict=True) if rule == "sgd"]
        sgd: dict[str, Any] = {"lr": lr, "momentum": options.momentum, "weight_decay": options.weight_decay}
        decay = options.weight_decay
        self._all: list[torch.optim.Optimizer] = []
        if options.optimiser == "sgd":
            # As one: torch steps them together.
            if following or by_sgd:
                self._all.append(torch.optim.SGD([*following, *by_sgd], **sgd))
        else:
            if following and options.optimiser == "adam":
                self._all.append(torch.optim.Adam(following, lr=lr, weight_decay=decay))
            elif following:
                self._all.append(torch.optim.RMSprop(following, lr=lr, weight_decay=decay))
            # Masks choose their rate, momentum and decay for SGD, and mean nothing under another rule.
            if by_sgd:
                self._all.append(torch.optim.SGD(by_sgd, **sgd))
        if by_adam:
            self._all.append(torch.optim.Adam(by_adam))
        fixed = {id(group["params"][0]) for group in own}
        self._scheduled = [g for one in self._all for g in one.param_groups if id(g["params"][0]) not in fixed]

    def set_rate(self, rate: float) -> None:
        """Give what follows the schedule its rate."""
        for group in self._scheduled:
            group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for one in self._all:
            # Set to None, a parameter that the loss does not reach is left alone; a zero gradient would still decay it.
            one.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move all parameters."""
        for one in self._all:
            one.step()

    def kept(self, named: Mapping[str, nn.Parameter]) -> Kinds:
        """Return all that is kept of the parameters ``named``."""
        found: Kinds = {}
        for name, parameter in named.items():
            for one in self._all:
                for kind, value in one.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        found.setdefault(kind, {})[name] = value
        return found

    def put_back(self, kinds: Mapping[str, Mapping[str, Tensor]], named: Mapping[str, nn.Parameter]) -> None:
        """Go on from what ``kept`` returned; ``named`` may be the parameters of a smaller net."""
        for one in self._all:
            ours = {id(value) for group in one.param_groups for value in group["params"]}
            for name, parameter in named.items():
                if id(parameter) not in ours:
                    continue
                for kind, values in kinds.items():
                    if name in values:
                        one.state[parameter][kind] = _like(parameter, kind, values[name])


def _like(parameter: nn.Parameter, kind: str, value: Tensor) -> Tensor:
    if kind == STEP:
        return value.detach().clone().cpu()  # torch counts on the CPU
    # In the parameter's own layout, channels last, as the optimiser's own would be; a checkpoint's is contiguous.
    return torch.empty_like(parameter).copy_(value)
