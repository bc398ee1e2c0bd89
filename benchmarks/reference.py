"""Reference: FastAT written the usual way, for the package's own loop to be timed and checked against.

It follows what the authors of FastAT published (Wong, Rice and Kolter, "Fast is better than free", ICLR 2020): images
are prepared one by one by torchvision's transforms in the processes of a DataLoader, the net reads normalised images,
the attack happens in that normalised space, and both passes run backwards through all weights. Nothing of the package
is used but the net that is handed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with (steps done, all steps, the step's loss and accuracy)."""


@dataclass(frozen=True)
class Schedule:
    """The settings of the published code, with its defaults."""

    steps: int
    """Optimiser steps of the whole training; the learning rate rises over one half of them and falls over the other."""
    batch_size: int = 128
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    eps: float = 8 / 255
    """Radius of the ball, in pixels of [0, 1]."""
    alpha: float = 10 / 255
    """Step of the attack, in pixels of [0, 1]."""
    workers: int = 2
    """Processes that prepare images; 0 prepares them in this one."""
    autocast: bool = False
    """Run the passes in bfloat16 where autocast allows it."""
    seed: int = 0


@dataclass(frozen=True)
class Box:
    """Where an attack may go, in normalised units: one value per channel, each C×1×1."""

    eps: Tensor
    alpha: Tensor
    low: Tensor
    """What black becomes."""
    high: Tensor
    """What white becomes."""


def box_from(schedule: Schedule, mean: Sequence[float], std: Sequence[float], like: Tensor) -> Box:
    """Return the box of ``schedule`` for images normalised with ``mean`` and ``std``, typed and placed as ``like``."""
    centre, scale = (torch.tensor(values).to(like).view(-1, 1, 1) for values in (mean, std))
    return Box(schedule.eps / scale, schedule.alpha / scale, (0 - centre) / scale, (1 - centre) / scale)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images kept as torchvision keeps CIFAR-10: one array of uint8 N×H×W×C, each turned into a PIL image when read."""

    def __init__(
        self, images: npt.NDArray[np.uint8], labels: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self._images, self._labels = images, labels
        steps = [transforms.RandomCrop(images.shape[1], padding=4), transforms.RandomHorizontalFlip()]
        self._transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._images[index])), self._labels[index]


def loader(pictures: Pictures, schedule: Schedule, pin: bool = False) -> DataLoader[tuple[Tensor, int]]:
    """Return batches for all steps of ``schedule``, one permutation of the images after the other."""
    generator = torch.Generator().manual_seed(schedule.seed)
    drawn = RandomSampler(pictures, num_samples=schedule.steps * schedule.batch_size, generator=generator)
    return DataLoader(
        pictures,
        batch_size=schedule.batch_size,
        sampler=drawn,
        num_workers=schedule.workers,
        pin_memory=pin,
        generator=generator,
    )


def train(net: nn.Module, pictures: Pictures, schedule: Schedule, box: Box, progress: Progress) -> None:
    """Train ``net``, which reads normalised images, in place and on the device that it is on."""
    device = next(net.parameters()).device
    optimiser = optimiser_for(net, schedule)
    up = max(1, schedule.steps // 2)
    down = max(1, schedule.steps - up)
    cycle = torch.optim.lr_scheduler.CyclicLR(optimiser, 0.0, schedule.lr, up, down, cycle_momentum=False)
    generator = torch.Generator(device).manual_seed(schedule.seed)
    net.train()
    for number, (images, labels) in enumerate(_batches(pictures, schedule, device), start=1):
        uniform = torch.rand(images.shape, generator=generator, device=device)
        numbers = step(net, optimiser, images, labels, uniform, box, schedule.autocast)
        cycle.step()
        progress(number, schedule.steps, numbers)


def optimiser_for(net: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    """Return plain SGD with the settings of ``schedule``."""
    return torch.optim.SGD(net.parameters(), schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay)


def _batches(pictures: Pictures, schedule: Schedule, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    pin = device.type == "cuda"
    read = cast(Iterable[list[Tensor]], loader(pictures, schedule, pin))
    for images, labels in itertools.islice(read, schedule.steps):
        yield images.to(device, non_blocking=pin), labels.to(device, non_blocking=pin)


def step(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    uniform: Tensor,
    box: Box,
    autocast: bool = False,
) -> dict[str, float]:
    """Make one step on normalised ``images`` (N×C×H×W); ``uniform``, of their shape and in [0, 1), starts the attack.

    Returns loss and accuracy on the attacked batch, from before the step.
    """
    delta = _inside(box.eps * (2 * uniform - 1), images, box).requires_grad_()
    loss, _ = _loss(net, images + delta, labels, autocast)
    loss.backward()  # type: ignore[no-untyped-call]
    assert delta.grad is not None
    climbed = torch.clamp(delta.detach() + box.alpha * delta.grad.sign(), -box.eps, box.eps)
    attacked = images + _inside(climbed, images, box)
    loss, scores = _loss(net, attacked, labels, autocast)
    optimiser.zero_grad()  # also forgets what the attack's own backward pass left in the weights
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    right = scores.detach().argmax(1) == labels
    return {"loss": loss.item(), "accuracy": right.float().mean().item()}


def _inside(delta: Tensor, images: Tensor, box: Box) -> Tensor:
    """Cut ``delta`` so that no pixel becomes darker than black or brighter than white."""
    return torch.clamp(delta, box.low - images, box.high - images)


def _loss(net: nn.Module, images: Tensor, labels: Tensor, autocast: bool) -> tuple[Tensor, Tensor]:
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=autocast):
        scores = net(images)
        return F.cross_entropy(scores, labels), scores
