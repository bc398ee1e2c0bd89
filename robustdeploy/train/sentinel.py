"""The sentinel against catastrophic overfitting: when single-step training stops being training against attacks.

A net trained against one gradient step may learn, within a fraction of an epoch, to beat that step alone: its
accuracy under FGSM soars while PGD finds every image (Wong, Rice and Kolter, ICLR 2020). Several times an epoch a few
held-out images are attacked; on a suspicion more of them are, and when that confirms it the training goes back to its
last sound state and on with a task that is harder to cheat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.attacks.protocol import input_gradient
from robustdeploy.core.registry import TASKS
from robustdeploy.cost.module import evaluating
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.train import ranks
from robustdeploy.train.batched import in_batches
from robustdeploy.train.plan import Plan
from robustdeploy.train.protocol import Replaying, Task

PROBE = 64
"""Held-out images of a probe."""
CONFIRM = 512
"""Held-out images, at most, that confirm a suspicion."""
STRONG_NOISE_EPS = 16 / 255
"""Largest eps at which N-FGSM's noise, three times eps in all, still leaves the image to be seen; the paper's range."""
SOUND_GAP = 0.1
"""Gap of a state that is always good enough to go back to."""
LADDER: tuple[tuple[str, dict[str, int]], ...] = (("n-fgsm", {}), ("pgd", {"steps": 4}))
"""What takes the task's place after the first and second collapse: stronger noise (de Jorge et al., NeurIPS 2022) at
the same cost, then several smaller steps, which cannot be cheated that way and are no longer watched. The task itself
is left out: on the same images and noise it would collapse once more."""


@dataclass(frozen=True)
class SentinelProbe:
    """Signals of one probe, on ``n`` held-out images at ``step``; accuracies in [0, 1]."""

    step: int
    n: int
    fgsm: float
    pgd10: float
    alignment: float
    """Mean cosine of the input gradients at the image and at a random point of the ball; it falls before a collapse
    (Andriushchenko and Flammarion, NeurIPS 2020)."""
    interior: float
    """Share of the images that are right at the end of the FGSM step and wrong somewhere on the way (Kim, Lee and Lee,
    AAAI 2021)."""
    pgd10_of_probe: float
    """``pgd10`` on the first PROBE images alone, on which every probe can be compared with any other."""

    @property
    def gap(self) -> float:
        """Accuracy that the single step does not find to be false: a few points in a healthy training."""
        return self.fgsm - self.pgd10


def vital_signs(net: nn.Module, plan: Plan, n: int, step: int) -> SentinelProbe:
    """Attack the first ``n`` held-out images and return the signals. The net is in eval mode meanwhile."""
    threat = plan.threat

    def judge(pixels: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        single = Fgsm()(net, pixels, labels, threat, noise)
        several = Pgd(steps=10)(net, pixels, labels, threat, noise)
        right = CLASSIFICATION.right(net(single), labels)
        inside = torch.zeros_like(right)
        # Three points on the way, since each costs a forward pass.
        for part in (0.25, 0.5, 0.75):
            inside |= ~CLASSIFICATION.right(net(pixels + part * (single - pixels)), labels)
        standing = CLASSIFICATION.right(net(several), labels)
        aligned = _alignment(net, pixels, labels, threat, noise)
        return torch.stack([right.float(), standing.float(), aligned, (right & inside).float()], 1)

    with evaluating(net), torch.no_grad():
        rows = in_batches(judge, plan.validation.first(n), key(plan.seed, "probe"), plan.options.batch_size)
    # Processes may round differently, and one that alone saw a collapse would leave the others waiting.
    signals = ranks.from_first(torch.cat([rows.mean(0), rows[:PROBE, 1].mean(0, keepdim=True)]))
    return SentinelProbe(step, len(rows), *signals.tolist())


def _alignment(net: nn.Module, pixels: Tensor, labels: Tensor, threat: Threat, noise: Noise) -> Tensor:
    # Step 1 of the noise, since PGD's own random start above has used step 0.
    moved = (pixels + threat.eps * (2 * noise.uniform(1, tuple(pixels.shape[1:])) - 1)).clamp(0, 1)
    here, there = (_directions(input_gradient(net, points, labels)[0]) for points in (pixels, moved))
    return nn.functional.cosine_similarity(here, there)


def _directions(gradients: Tensor) -> Tensor:
    """Return each image's gradient with a largest value of 1: a sure net's is so small that its square would be 0."""
    flat = gradients.flatten(1).float()
    return flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def suspicious(now: SentinelProbe, before: Sequence[SentinelProbe]) -> bool:
    """Whether a probe's signals call for a look at more images. Cheap to be wrong about."""
    # A median of five, as single values on 64 images jump.
    recent = [probes.alignment for probes in before[-5:]]
    misaligned = len(recent) == 5 and now.alignment < 0.5 * median(recent)
    # Far inside what counts as a collapse: a false suspicion costs one larger probe, a missed one the training.
    return now.gap > 0.15 or _drop(now, before) > 0.15 or now.interior > 0.1 or misaligned


def collapse(now: SentinelProbe, before: Sequence[SentinelProbe]) -> str | None:
    """Say why the training counts as collapsed on the images that were to confirm it, or None.

    A healthy net's gap is 3 to 10 points, and a drop alone may be a large learning rate.
    """
    if now.gap > 0.2:
        return f"FGSM leaves {now.fgsm:.1%} of {now.n} held-out images right, PGD-10 only {now.pgd10:.1%}"
    # Both together, as each alone has a harmless cause.
    if (drop := _drop(now, before)) > 0.1 and now.gap > 0.12:
        fell = f"accuracy under PGD-10 fell by {drop:.1%} on the {min(PROBE, now.n)} images of a probe"
        return f"{fell}; of {now.n}, PGD-10 leaves {now.pgd10:.1%} right and FGSM {now.fgsm:.1%}"
    return None


def _drop(now: SentinelProbe, before: Sequence[SentinelProbe]) -> float:
    # On the same images each time: accuracies on 64 and on 512 images differ by chance alone.
    return max((probes.pgd10_of_probe for probes in before), default=now.pgd10_of_probe) - now.pgd10_of_probe


def sound(now: SentinelProbe, before: Sequence[SentinelProbe]) -> bool:
    """Whether the state is one to go back to: no signal has begun to give way, though none is suspicious yet.

    A collapse may take epochs to come; going on with a safer task from half-way into one may lead into it all the same.
    """
    if not (recent := before[-5:]):
        return now.gap <= SOUND_GAP
    gap, alignment = median(v.gap for v in recent), median(v.alignment for v in recent)
    # Relative to its own past: how large a healthy gap is depends on net, eps and data.
    return now.gap <= max(SOUND_GAP, gap) and now.alignment >= 0.75 * alignment


def watches(task: Task | Replaying) -> bool:
    """Whether ``task`` can collapse: it trains against a single step."""
    return bool(getattr(task, "single_step", False))


def task_after(task: Task | Replaying, collapses: int, eps: float) -> Task | Replaying:
    """Return the task to train with after ``collapses`` of them; it keeps what both have a word for."""
    if not collapses:
        return task
    ladder = LADDER if eps <= STRONG_NOISE_EPS else LADDER[1:]
    same = {option: getattr(task, option, 0.0) for option in ("clean", "l1")}
    tasks = [TASKS.build(name, {**options, **same}) for name, options in ladder]
    safer: list[Task] = [other for other in tasks if type(other) is not type(task)]
    # After the last rung its task stays; several small steps are not watched, so no further collapse is counted.
    return safer[min(collapses, len(safer)) - 1]
