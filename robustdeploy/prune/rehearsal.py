"""Rehearsal: before any training, every channel group is tried out by removing some of its channels.

What is followed through a forward pass (``follow``) may be wrong: the code may name a number of channels, or take some
by their places. So the masked and the smaller net must give the same scores here, as strictly as in the proof that
ends the training: in float64, on random images, with several random choices of channels. A group with which they do
not keeps all its channels; the others are pruned.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustdeploy.cost.module import copied, evaluating
from robustdeploy.errors import TrainingError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.prune.compact import PROOF_TOLERANCE, compact_net
from robustdeploy.prune.folding import Folding
from robustdeploy.prune.groups import ChannelGroup, Coupling, traced_groups
from robustdeploy.prune.information import Carrier

IMAGES = 4
DRAWS = 3
"""Random choices of channels that each group is tried with."""


def find_groups(net: nn.Module, image_shape: tuple[int, int, int]) -> Coupling:
    """Return the channel groups of ``net`` that can be pruned, each of them tried out, and what stays whole and why.

    Raises TrainingError when the net cannot be run, or gives other scores each time.
    """
    traced = traced_groups(net, image_shape)
    trial = _Trial(net, image_shape)
    # First, since these groups may be safe to remove, and what their channels are worth could still not be told.
    left = trial.of_no_image(traced.groups)
    left |= trial.unsafe([group for group in traced.groups if group.name not in left])
    groups = tuple(group for group in traced.groups if group.name not in left)
    return replace(traced, groups=groups, whole={**traced.whole, **left})


def rehearse(pruning: nn.Module, net: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Go forward and back under masks as the training will, so that a net which cannot do that fails before it.

    ``pruning`` is thrown away; ``net`` is the net in it. No process waits for another here: they do not all come by at
    one time.
    """
    device = next(net.parameters()).device
    # No random numbers: the caller's generator must stay where it is, and only whether a step runs matters.
    images = torch.linspace(0, 1, 2 * math.prod(image_shape), device=device).view(2, *image_shape)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
            warnings.simplefilter("ignore")
            # A loss of the scores' own: labels or an objective would add faults that have nothing to do with masks.
            pruning.train()(images).square().mean().backward()
    except Exception as problem:  # foreign code may raise anything
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise TrainingError(
            f"this {kind_of(net)} cannot be trained under masks: a step on two images fails ({first}); is activation "
            "checkpointing on, or an activation overwritten that the pass back needs?"
        ) from problem


class _Trial:
    """A copy of a net in float64, whose parameters are such as a training may lead to, and random images."""

    def __init__(self, net: nn.Module, image_shape: tuple[int, int, int]) -> None:
        self._generator = torch.Generator().manual_seed(0)
        device = next(net.parameters()).device
        self._images = torch.rand(IMAGES, *image_shape, generator=self._generator).to(device)
        # Noise may drive an odd net to infinity; then it is tried as it is, which proves less.
        for make in (shaken, copied):
            self._net = make(net)
            first = self._first_scores()
            if bool(first.isfinite().all()):
                break
        else:
            raise TrainingError(f"this {kind_of(net)} gives scores that are not finite, on random images")
        single = self._images.dtype == torch.float32
        scale = float(first.abs().max())
        # Fresh nets often give tiny scores, and 1e-5 would then pass any fault; so the tolerance shrinks with them in
        # float64.
        self._tolerance = PROOF_TOLERANCE * (max(1.0, scale) if single else min(1.0, scale))
        if not bool((self._scores(self._net) - first).abs().max() <= self._tolerance):
            raise TrainingError(
                f"this {kind_of(net)} gives other scores each time it sees the same images, in eval mode too, so "
                "nothing can be proved of a smaller one; is there dropout that is always on?"
            )

    def _first_scores(self) -> Tensor:
        """Run the net in float64, or in float32 where it runs in nothing else."""
        try:
            self._net, self._images = self._net.double(), self._images.double()
            return self._scores(self._net)
        except Exception:  # foreign code may raise anything; in float32 it did run when it was built
            self._net, self._images = self._net.float(), self._images.float()
            return self._scores(self._net)

    def of_no_image(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Return the groups with a layer whose maps are not so many for each image, with the reason.

        A layer may be computed once for all images, as one on a table of positions is. What each image's loss knows of
        its channels cannot be told, and that is what they are chosen by.
        """
        carriers = Folding(self._net, groups).carriers
        few, more = (self._batches(carriers, images) for images in (IMAGES - 1, IMAGES))
        pairs = zip(carriers, few, more, strict=True)
        odd = {
            at.group for at, small, large in pairs if [IMAGES * n for n in small] != [(IMAGES - 1) * n for n in large]
        }
        return {groups[number].name: "it is not computed for each image by itself" for number in sorted(odd)}

    def _batches(self, carriers: Sequence[Carrier], images: int) -> list[list[int]]:
        """Return for each carrier how long the batches are that it gives, or reads, for so many images."""
        modules, found, handles = dict(self._net.named_modules()), [], []
        for at in carriers:
            lengths: list[int] = []
            found.append(lengths)

            def note(_: nn.Module, read: Any, given: Any, at: Carrier = at, lengths: list[int] = lengths) -> None:
                lengths.append(len(given if at.side == "out" else read[0]))

            handles.append(modules[at.layer].register_forward_hook(note))
        try:
            with evaluating(self._net), torch.no_grad():
                self._net(self._images[:images])
        finally:
            for handle in handles:
                handle.remove()
        return found

    def unsafe(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Return the groups that cannot be pruned, with the reason; the others can be, all together."""
        found = self._bad(groups)
        left = [group for group in groups if group.name not in found]
        if not (found and left) or self._tried(left) is None:
            return found
        together: list[ChannelGroup] = []  # some are safe alone but not beside those before them
        for group in left:
            if (reason := self._tried([*together, group])) is None:
                together.append(group)
            else:
                found[group.name] = reason
        return found

    def _bad(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Return the groups that fail by themselves, found by halving."""
        if not groups or (reason := self._tried(groups)) is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: reason}
        # Halving asks about log₂(n) times for each bad group. Most nets have none, and one trial of all groups settles
        # them.
        half = len(groups) // 2
        found = {**self._bad(groups[:half]), **self._bad(groups[half:])}
        return found or {groups[-1].name: reason}  # each half is safe, and both together are not

    def _tried(self, groups: Sequence[ChannelGroup]) -> str | None:
        """Remove channels of ``groups`` alone; return what goes wrong, or None."""
        folding = Folding(self._net, groups)
        for draw in range(DRAWS):
            kept = {group.name: self._choice(group.size, draw) for group in groups}
            masks = [torch.zeros(group.size, dtype=self._images.dtype) for group in groups]
            for mask, group in zip(masks, groups, strict=True):
                mask[kept[group.name]] = 1
            folded = folding.folded([mask.to(self._images.device) for mask in masks])
            expected = self._scores(self._net, folded)
            try:
                small = compact_net(self._net, groups, kept)
                found = self._scores(small)
                # Once is enough: whether a smaller net can train does not hang on which of its channels stay.
                if draw == 0:
                    self._train(small)
            # What a forward pass raises when a size that it names no longer holds.
            except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as problem:
                first = (str(problem).splitlines() or [type(problem).__name__])[0]
                return (
                    f"with fewer of its channels the forward pass fails ({first}): does it name a number of channels?"
                )
            if found.shape != expected.shape or not bool((found - expected).abs().max() <= self._tolerance):
                return "without its masked channels the scores are others: the forward pass takes channels by number"
        return None

    def _choice(self, size: int, draw: int) -> Tensor:
        """Return some of ``size`` channels, in order: many in the first draw, then any number."""
        fewest = (size + 1) // 2 if draw == 0 else 1
        count = int(torch.randint(fewest, max(fewest + 1, size), (1,), generator=self._generator))
        return torch.randperm(size, generator=self._generator)[:count].sort().values

    def _scores(self, net: nn.Module, folded: Mapping[str, Tensor] | None = None) -> Tensor:
        with warnings.catch_warnings(), evaluating(net), torch.no_grad():
            warnings.simplefilter("ignore")
            scores: Tensor = functional_call(net, dict(folded or {}), (self._images,), tie_weights=False)
        return scores

    def _train(self, net: nn.Module) -> None:
        """Run a smaller net as the training will; only whether it can run matters."""
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
            warnings.simplefilter("ignore")
            net.train()(self._images)


def shaken(net: nn.Module) -> nn.Module:
    """Return a copy of ``net`` in which no parameter or running statistic is the same number all along.

    Fresh ones often are, zero or one, which would hide what a masked channel leaves behind.
    """
    other, generator = copied(net), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*other.named_parameters(), *other.named_buffers()]:
            moves = isinstance(value, nn.Parameter) or name.endswith(("running_mean", "running_var"))
            if (
                not moves
                or not value.is_floating_point()
                or value.numel() < 2
                or bool((value != value.flatten()[0]).any())
            ):
                continue
            # Drawn on the CPU, so that the same groups are found whatever the device.
            noise = torch.rand(value.shape, generator=generator) - 0.5
            # Scaled by fan-in, so that activations stay in the range of a trained net.
            value.add_((noise / max(1, value[0].numel()) ** 0.5).to(value))
    return other
