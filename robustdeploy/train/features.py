"""Features: the latent maps of a net, taken as the inputs of its convolutions and linear layers but the first.

Whatever a net calls its activations, what a later layer reads is what has come through them, functional ones and
pooling included. So this needs no knowledge of the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustdeploy.errors import TrainingError
from robustdeploy.nets.normalised import kind_of
from robustdeploy.nets.size import WEIGHTED


@dataclass
class Maps:
    """What the layers of one pass through a net have read, in the order of the pass."""

    net: str
    """What the net is called, for an error."""
    named: dict[str, Tensor] = field(default_factory=dict)
    """The maps, by the layer that read them first; N×… each, and a gradient flows through them."""
    _first: Tensor | None = None

    def note(self, name: str, read: Tensor) -> None:
        """Keep ``read``, unless it is the image or a map that is kept already."""
        if self._first is None:
            self._first = read
        # By identity: a shortcut reads the very map that its block does, and would else count twice.
        elif all(read is not known for known in (self._first, *self.named.values())):
            again = sum(known.partition("#")[0] == name for known in self.named)
            self.named[f"{name}#{again + 1}" if again else name] = read

    @property
    def values(self) -> list[Tensor]:
        """The maps. Raises TrainingError where the net has none."""
        if self.named:
            return list(self.named.values())
        raise TrainingError(
            f"this {self.net} has no latent features: no convolution or linear layer reads what another one has made"
        )


@contextmanager
def latent(net: nn.Module) -> Iterator[Maps]:
    """Keep the latent maps of the one pass through ``net`` that is made inside the block."""
    maps = Maps(kind_of(net))

    def keeping(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                maps.note(name, inputs[0])

        return hook

    layers = [(name, module) for name, module in net.named_modules() if isinstance(module, WEIGHTED)]
    handles = [module.register_forward_pre_hook(keeping(name)) for name, module in layers]
    try:
        # A compiled net calls no hook that was not there when it was compiled.
        with torch.compiler.set_stance("force_eager"):
            yield maps
    finally:
        for handle in handles:
            handle.remove()


def magnitude(maps: Maps) -> Tensor:
    """Return the mean magnitude of the features of a layer, averaged over the layers.

    It is the ℓ1 norm of Guo et al. ("Sparse DNNs with improved adversarial robustness", NeurIPS 2018) over the number
    of features, so that one weight of it suits nets of any size.
    """
    return _mean([value.float().abs().mean() for value in maps.values])


def vulnerability(maps: Maps) -> Tensor:
    """Return how far an attack moves a feature, on average over a layer's, and then over the layers.

    It is V of Madaan et al. ("Adversarial neural pruning with latent vulnerability suppression", ICML 2020). The first
    half of the images must be attacked ones and the second half the same as they are (see ``mixing.both``).
    """
    return _mean([_distance(value.float()) for value in maps.values])


def moves(maps: Maps, images: int) -> dict[str, Tensor]:
    """Return by layer how far an attack moves the features of each of ``images`` on average: a number per image.

    As for ``vulnerability`` the attacked images come first. Raises TrainingError where the net mixes images.
    """
    found = {}
    for name, value in zip(maps.named, maps.values, strict=True):
        attacked, clean = value.float().chunk(2)
        if len(clean) % images:
            raise TrainingError(f"at {name}, {images} images become {len(clean)}: whose those are is not known")
        found[name] = (attacked - clean).abs().reshape(images, -1).mean(1)
    return found


def _distance(both: Tensor) -> Tensor:
    attacked, clean = both.chunk(2)
    return (attacked - clean).abs().mean()


def _mean(numbers: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(numbers)).mean()
