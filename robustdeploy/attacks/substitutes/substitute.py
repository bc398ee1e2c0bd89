"""Substitute: a small net taught by labels alone, with images moved along its own Jacobian (Papernot et al. 2017).

"Practical black-box attacks against machine learning" (ASIA CCS 2017); Wang et al. 2018 attack pruned nets so. Each
round trains on all images that were labelled so far. Then each of them is moved along the sign of the slope of its
label's score, and the moved ones are asked for and added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustdeploy.attacks.followed import followed
from robustdeploy.attacks.protocol import GradientAttack, input_gradient, to_grey_levels
from robustdeploy.attacks.substitutes.protocol import Ask
from robustdeploy.core.bounds import Count, Positive
from robustdeploy.core.recipe import Choice, PlugIn
from robustdeploy.data.order import epoch_order
from robustdeploy.onboard import draws

_FGSM = Choice(name="fgsm")
_SEEDS = (1 << 63) - 1


@dataclass(frozen=True)
class Substitute:
    """Two hidden layers trained by Adam, asked about twice as many images in each round."""

    seed_images: Count = 150
    """Images to begin with, held out from training and never those that are attacked."""
    rounds: Count = 6
    """Trainings; between two of them the number of images doubles, so 150 become 4,800 in all."""
    epochs: Count = 10
    """Epochs of each training, which goes on from the one before."""
    step: Positive = 0.1
    """How far an image is moved to make a new one, in pixels of [0, 1]; the paper's λ."""
    turn: Count = 3
    """Rounds after which the step changes its sign; the paper's τ."""
    hidden: Count = 200
    """Units of each hidden layer."""
    lr: Positive = 0.001
    """Rate of Adam."""
    batch: Count = 128
    """Images of a training step."""
    attack: PlugIn = _FGSM
    """The gradient attack that is run on the substitute."""

    NORMS: ClassVar = ("linf", "l2", "l1")  # of what it runs, that which it has

    @property
    def follows(self) -> GradientAttack:
        """The attack of the option ``attack``, built."""
        return followed(self.attack)

    @property
    def label(self) -> str:
        """``substitute-fgsm`` and the like."""
        return f"substitute-{self.follows.label}"

    def __call__(self, ask: Ask, images: Tensor, classes: int, key: int) -> nn.Module:
        """Train a substitute in ``rounds`` rounds."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(key, "weights") & _SEEDS)
            net = self._net(images[0].numel(), classes).to(images.device)
        optimiser = torch.optim.Adam(net.parameters(), lr=self.lr)
        labels = ask(images)
        for number in range(self.rounds):
            self._train(net, optimiser, images, labels, draws.key(key, "round", number))
            if number + 1 < self.rounds:
                sign = -1 if (number // self.turn) % 2 else 1
                moved = self._moved(net, images, labels, sign * self.step)
                images, labels = torch.cat([images, moved]), torch.cat([labels, ask(moved)])
        return net.eval().requires_grad_(False)

    def _net(self, pixels: int, classes: int) -> nn.Module:
        wide = self.hidden
        layers = (nn.Linear(pixels, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, classes))
        return nn.Sequential(nn.Flatten(), *layers)

    def _train(
        self, net: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, key: int
    ) -> None:
        for epoch in range(self.epochs):
            order = epoch_order(key, epoch, len(images)).to(images.device)
            for batch in torch.split(order, self.batch):
                optimiser.zero_grad()
                with torch.enable_grad():
                    loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
                torch.autograd.backward(loss)
                optimiser.step()

    def _moved(self, net: nn.Module, images: Tensor, labels: Tensor, step: float) -> Tensor:
        """Return each image moved along the sign of the slope of its label's score."""
        slope, _ = input_gradient(net, images, labels, lambda scores, labels: scores.gather(1, labels[:, None])[:, 0])
        return to_grey_levels((images + step * slope.sign()).clamp(0, 1))


plugin = Substitute
