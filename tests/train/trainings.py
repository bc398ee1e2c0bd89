"""What tests of a training share: a stop in the middle of it, and what its nets hold."""

import torch

from robustdeploy.prune.protocol import StepData


class Stop(Exception):
    """What ends a training in the middle of a step's report."""


def silent(step, steps, numbers):
    """Say nothing."""


def step_of(images):
    """What a pruner is told of a step on so many images, which it does not look at."""
    return StepData(torch.zeros(images, 1, 1, 1), torch.zeros(images, dtype=torch.int64))


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    """Whether two states hold the same bits under the same names in the same order."""
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())
