"""Sparse nets on MNIST: what progressive pruning does to r2 and r∞ (Guo et al., NeurIPS 2018).

    python benchmarks/guo.py --data PATH [--steps 2800] [--retrain 100] [--seed 0]
    python benchmarks/guo.py --data PATH --net lenet-300-100 [--l1 0.01] [--images 1000] --steps 9000 --retrain 2000
    python benchmarks/guo.py --data PATH --net lenet ...

The linear net tells 1 from 7, as in the paper; the others tell all digits. A net is trained and pruned in 12 rounds by
the product's ``progressive``, each of which leaves two thirds of what the one before has left, and trained on after
each. Its distances are the product's ``deepfool`` with pixels free and in the box, its r∞ the accuracy under ``fgsm``
and ``rfgs`` at 0.1. With ``--l1`` the task ``standard`` also keeps activations small, the paper's second kind of
sparsity.
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
from robustdeploy.core.registry import NETS
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.progressive import Progressive
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.train.tasks.standard import Standard

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


def digits(path: Path, *, train: bool, pair: bool) -> tuple[Tensor, Tensor]:
    """Read all images, or with ``pair`` those of 1 and 7 alone, with label 1 for a 7."""
    from torchvision.datasets import MNIST

    held = MNIST(str(path), train=train)
    wanted = (held.targets == 1) | (held.targets == 7) if pair else held.targets >= 0
    labels = (held.targets[wanted] == 7).long() if pair else held.targets
    return held.data[wanted][:, None].float() / 255, labels


def measured(net: nn.Module, images: Tensor, labels: Tensor, some: int | None) -> list[float]:
    """Return accuracy, and of the first ``some`` images both distances and both accuracies under attack."""
    accuracy = 1 - is_wrong(net, images, labels).float().mean().item()
    images, labels = images[:some], labels[:some]
    noise, right = Noise(key(0, "guo"), torch.arange(len(images))), ~is_wrong(net, images, labels)
    on = images[right], labels[right], noise.select(right.nonzero().squeeze(1))
    r2 = [l2_norms(DeepFool(box=box)(net, *on) - on[0]) for box in (False, True)]
    attacked = [attack(net, images, labels, Threat(eps=0.1), noise) for attack in (Fgsm(), Rfgs())]
    kept = [(right & ~is_wrong(net, found, labels)).float().mean().item() for found in attacked]
    return [accuracy, *(found.mean().item() for found in r2), *kept]


def budget_of(net: nn.Module, left: float) -> Budget:
    """Return the budget that leaves the share ``left`` of the weights, beside all that is no weight."""
    weights = sum(layer.weight.numel() for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    everything = sum(each.numel() for each in net.parameters())
    return Budget(params=(weights * left + everything - weights) / everything)


def main() -> None:
    """Train, prune and print a line after each round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2800, help="of the dense net, batch 64, SGD 0.01, momentum 0.9")
    parser.add_argument("--retrain", type=int, default=100, help="steps after each round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--net", choices=("linear", "lenet-300-100", "lenet"), default="linear")
    parser.add_argument("--l1", type=float, default=0.0, help="weight of the mean activation in the loss")
    parser.add_argument("--images", type=int, help="test images to attack; all by default")
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    linear = asked.net == "linear"
    net = OneScore() if linear else NETS.build(asked.net, {})(10, 1)
    images, labels = digits(asked.data, train=True, pair=linear)
    test = digits(asked.data, train=False, pair=linear)
    task = Standard(asked.l1)
    # The last round comes where the masks freeze, two parts behind the one before.
    total = asked.steps + (ROUNDS + 1) * asked.retrain
    pruner = Progressive(ROUNDS, asked.steps / total, (total - asked.retrain) / total)
    pruning = pruner.wrap(net, (1, 28, 28), budget_of(net, (2 / 3) ** ROUNDS))
    pruning.on_phase(PhaseInfo(steps=total))
    optimiser = torch.optim.SGD(pruning.net.parameters(), lr=0.01, momentum=0.9)
    print(f"{len(images):,} training and {len(test[0]):,} test images, seed {asked.seed}")
    print("round  weights  accuracy  r2      r2 in the box  FGS    rFGS")
    rounds = 0
    for step in range(1, total + 1):
        batch = torch.randint(len(images), (64,))
        loss = task(pruning, images[batch], labels[batch], Threat(), Noise(step, batch))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        # Before the next round masks more: what is told is a round and the training after it.
        if step >= asked.steps and (step - asked.steps) % asked.retrain == 0 and step != total - asked.retrain:
            left = int(sum(keep.sum() for keep in pruning.keeps))
            right, free, boxed, fgs, rfgs = measured(pruning, *test, asked.images)
            print(
                f"{rounds:5}  {left:7}  {100 * right:8.2f}  {free:.4f}  {boxed:.4f}         "
                f"{100 * fgs:.1f}   {100 * rfgs:.1f}",
                flush=True,
            )
            rounds += 1
        pruning.after_step(step / total)
    for done, (free, boxed) in PUBLISHED.items() if linear else ():
        print(f"published after {done} rounds: r2 {free} by DeepFool, {boxed} by Carlini and Wagner")


if __name__ == "__main__":
    main()
