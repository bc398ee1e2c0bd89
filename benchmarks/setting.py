"""Setting: what the trainings of one measurement have in common, and how each of them is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reference
import torch

from robustdeploy.core.recipe import Recipe
from robustdeploy.core.registry import PRUNERS
from robustdeploy.data.load import Loaded
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train.loop import Progress, Trained, fit
from robustdeploy.train.setup import plan_from
from robustdeploy.train.start import starting_net


@dataclass(frozen=True)
class Setting:
    """What all trainings of one measurement have in common."""

    recipe: Recipe
    data: Loaded
    device: torch.device
    folder: Path
    """For checkpoints and logs, which nobody reads."""
    workers: int = 2
    """Processes that prepare the reference's images."""
    threads: int | None = None
    """Threads of torch; its own choice where None."""

    def finish(self) -> None:
        """Wait until the device has done what it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def trained(self, pruned: bool, name: str, progress: Progress) -> Trained:
        """Run the package's loop on a fresh net, under the recipe's pruner where it is to be ``pruned``."""
        self.use_threads()
        pruning = self._pruning() if pruned else None
        net = starting_net(self.recipe, self.data, self.device) if pruning is None else pruning.net
        plan = plan_from(self.recipe, self.data, self.device)
        return fit(net, pruning, plan, self.folder / name, progress)

    def reference(self, autocast: bool, steps: int, progress: Progress) -> None:
        """Run the reference loop on a fresh net."""
        self.use_threads()
        train, size = self.recipe.train, self.recipe.train.batch_size
        schedule = reference.Schedule(
            steps, size, train.lr, eps=self.recipe.threat.eps, workers=self.workers, autocast=autocast
        )
        images = self.data.train.images.permute(0, 2, 3, 1).contiguous().numpy()
        pictures = reference.Pictures(images, self.data.train.labels.tolist(), self.data.mean, self.data.std)
        box = reference.box_from(schedule, self.data.mean, self.data.std, torch.zeros((), device=self.device))
        net = starting_net(self.recipe, self.data, self.device).net
        reference.train(net, pictures, schedule, box, progress)

    def _pruning(self) -> Pruning:
        pruner: Any = PRUNERS.build(self.recipe.prune.name, self.recipe.prune.options)
        net = starting_net(self.recipe, self.data, self.device)
        begun: Pruning = pruner.wrap(net, self.data.image_shape, self.recipe.budget)
        return begun

    def use_threads(self) -> None:
        """Let torch use as many threads as were asked for."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
