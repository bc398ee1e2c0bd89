"""Notes: what is said of a net before its training, because it is not what one would expect."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from robustdeploy.cost.module import copied
from robustdeploy.errors import TrainingError
from robustdeploy.nets.normalised import Normalised, main_output
from robustdeploy.prune.groups import told_whole
from robustdeploy.prune.protocol import Pruning


def notes(net: Normalised, pruning: Pruning | None, image_shape: tuple[int, int, int]) -> Iterator[str]:
    """Yield what the training leaves out: outputs of auxiliary heads, and layers that stay whole.

    Raises TrainingError when the first of several outputs comes from another layer than the scores do.
    """
    if _has_auxiliary_outputs(net, image_shape):
        yield "the net gives several outputs while it trains; the loss is that of its scores alone, not of the others"
    if whole := told_whole(getattr(pruning, "whole", {})):
        yield f"pruning leaves layers as they are{whole.replace('; what stays whole', '', 1)}"


def _has_auxiliary_outputs(net: Normalised, image_shape: tuple[int, int, int]) -> bool:
    """Whether the net gives more than one tensor in training mode, the scores first or by name."""
    # The net inside, since ``Normalised`` already takes the scores out of several outputs.
    inner, device = cast(nn.Module, copied(net).net), next(net.parameters()).device
    makers: dict[int, str] = {}
    held: list[Any] = []  # so that no two tensors share an address by chance

    def note(module: nn.Module, inputs: Any, output: Any, name: str) -> None:
        held.append(output)
        if isinstance(output, Tensor):
            # The innermost module, which is done first, is the one that made a tensor; those around it only pass it on.
            makers.setdefault(id(output), name)

    for name, module in inner.named_modules():
        if name:
            module.register_forward_hook(lambda m, i, o, name=name: note(m, i, o, name))
    images = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.no_grad():
        warnings.simplefilter("ignore")
        several = inner.train()(images)
        if isinstance(several, Tensor):
            return False
        scores = inner.eval()(images)
    wanted, main = makers.get(id(scores)), makers.get(id(main_output(several)))
    others = [makers.get(id(leaf)) for leaf in tree_leaves(several) if isinstance(leaf, Tensor)]
    # Only where both makers are known: outputs made between modules prove nothing.
    if wanted is not None and main != wanted and wanted in others:
        raise TrainingError(
            f"while it trains this {type(inner).__name__} gives the output of {main} first, and its scores come from "
            f"{wanted}; give the scores first, or a mapping with the name logits or out"
        )
    return len(others) > 1
