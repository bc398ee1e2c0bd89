"""Sparse linear nets on MNIST's 1 against 7: what progressive pruning does to r2 and r∞ (Guo et al., NeurIPS 2018).

    python benchmarks/guo.py --data PATH [--steps 2800] [--retrain 100] [--seed 0]

One net is trained and pruned in 12 rounds by the product's ``progressive``, each of which leaves two thirds of what the
one before has left, and trained on after each. Its distances are the product's ``deepfool`` with pixels free and in
the box, its r∞ the accuracy under ``fgsm`` and ``rfgs`` at 0.1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from robustdeploy.attacks.distance.deepfool import DeepFool
from robustdeploy.attacks.distance.protocol import is_wrong, l2_norms
from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.rfgs import Rfgs
from robustdeploy.core.recipe import Budget
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.progressive import Progressive
from robustdeploy.prune.protocol import PhaseInfo

ROUNDS = 12
PUBLISHED = {0: (2.0103, 2.3151), 1: (2.0009, 2.3061)}
"""r2 by DeepFool and by Carlini and Wagner in the box, by the rounds done."""


class OneScore(nn.Module):
    """A linear net of one score, as the paper's; 7 where it is above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Score 1 and 7."""
        score = self.linear(images.flatten(1))
        return torch.cat([-score, score], dim=1) / 2


def one_and_seven(path: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read the images of both digits, with label 1 for a 7."""
    from torchvision.datasets import MNIST

    held = MNIST(str(path), train=train)
    wanted = (held.targets == 1) | (held.targets == 7)
    return held.data[wanted][:, None].float() / 255, (held.targets[wanted] == 7).long()


def measured(net: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Return accuracy, both distances and both accuracies under attack."""
    noise = Noise(key(0, "guo"), torch.arange(len(images)))
    right = ~is_wrong(net, images, labels)
    on = images[right], labels[right], noise.select(right.nonzero().squeeze(1))
    r2 = [l2_norms(DeepFool(box=box)(net, *on) - on[0]) for box in (False, True)]
    attacked = [attack(net, images, labels, Threat(eps=0.1), noise) for attack in (Fgsm(), Rfgs())]
    kept = [(right & ~is_wrong(net, found, labels)).float().mean().item() for found in attacked]
    return [right.float().mean().item(), *(found.mean().item() for found in r2), *kept]


def main() -> None:
    """Train, prune and print a line after each round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2800, help="of the dense net, batch 64, SGD 0.01, momentum 0.9")
    parser.add_argument("--retrain", type=int, default=100, help="steps after each round")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    images, labels = one_and_seven(asked.data, train=True)
    test = one_and_seven(asked.data, train=False)
    # The last round comes where the masks freeze, two parts behind the one before.
    total = asked.steps + (ROUNDS + 1) * asked.retrain
    left = (2 / 3) ** ROUNDS
    pruner = Progressive(ROUNDS, asked.steps / total, (total - asked.retrain) / total)
    pruning = pruner.wrap(OneScore(), (1, 28, 28), Budget(params=(784 * left + 1) / 785))
    pruning.on_phase(PhaseInfo(steps=total))
    optimiser = torch.optim.SGD(pruning.net.parameters(), lr=0.01, momentum=0.9)
    print(f"{len(images):,} training and {len(test[0]):,} test images, seed {asked.seed}")
    print("round  weights  accuracy  r2      r2 in the box  FGS    rFGS")
    rounds = 0
    for step in range(1, total + 1):
        batch = torch.randint(len(images), (64,))
        loss = nn.functional.cross_entropy(pruning(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        # Before the next round masks more: what is told is a round and the training after it.
        if step >= asked.steps and (step - asked.steps) % asked.retrain == 0 and step != total - asked.retrain:
            left = int(sum(keep.sum() for keep in pruning.keeps))
            right, free, boxed, fgs, rfgs = measured(pruning, *test)
            print(
                f"{rounds:5}  {left:7}  {100 * right:8.2f}  {free:.4f}  {boxed:.4f}         "
                f"{100 * fgs:.1f}   {100 * rfgs:.1f}"
            )
            rounds += 1
        pruning.after_step(step / total)
    for done, (free, boxed) in PUBLISHED.items():
        print(f"published after {done} rounds: r2 {free} by DeepFool, {boxed} by Carlini and Wagner")


if __name__ == "__main__":
    main()
