"""The profile: how long each layer of a net takes on a device, over its input and output channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from robustdeploy.core.model import Noun
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice

NEARLY = 1.05
"""A multiple is as good as another one of which nets take so much longer."""
Channels = Annotated[int, Field(ge=1, le=1 << 20)]


class LayerKind(Noun):
    """All layers of a net that do the same work but for their channels."""

    name: str
    """Such as ``conv 3×3 on 32×32 + add``."""
    inputs: tuple[Channels, ...]
    """Input channels of the table's rows, rising to the dense net's."""
    outputs: tuple[Channels, ...]
    """Output channels of its columns."""
    us: tuple[tuple[float, ...], ...]
    """Microseconds. Two layers may share time in more than one way; only sums over a whole net were measured."""
    input_quantum: int = 1
    """Rounding the input channels up to multiples of this costs nothing."""
    input_gain: float = 0.0
    """Share of the dense net's time that it saves in all layers of the kind together, on average over other counts."""
    output_quantum: int = 1
    output_gain: float = 0.0


class ProfiledLayer(Noun):
    """One layer of the dense net."""

    name: str
    kind: str
    inputs: Channels
    outputs: Channels


class Device(Noun):
    """What a profile was measured on, and with what; another one has other times."""

    backend: str
    version: str
    options: dict[str, Any] = {}
    """Threads and the like, as the target has them."""
    identity: dict[str, str]
    """Processor, board and what the toolchain's engines are tied to."""


class ProfiledNet(Noun):
    """The dense net that a profile is of."""

    net: Choice
    classes: int
    image_shape: tuple[int, int, int]
    """C, H, W."""
    preprocess: tuple[Choice, ...] = ()
    """Steps in front of it, whose time is a part of the net's."""

    def described(self) -> dict[str, Any]:
        """Return its plain values; steps came later, so without them these are what they were before."""
        content: dict[str, Any] = plain(self)
        return {name: value for name, value in content.items() if value or name != "preprocess"}


class MultipleTime(Noun):
    """How long pruned nets take whose channels are kept in multiples of a number."""

    multiple: Channels
    time: float
    """As a share of the dense net's, foretold, on average over nets of 0.7, 0.5 and 0.3 of its operations."""


class Profile(Noun):
    """Measured latency of nets like one, taken apart into its layers; batch 1."""

    schema_version: Literal[1] = 1
    target: str
    precision: str
    device: Device
    net: ProfiledNet
    kinds: tuple[LayerKind, ...]
    layers: tuple[ProfiledLayer, ...]
    overhead_us: float
    """What no layer's channels change."""
    dense_us: float
    """Quickest calls of the dense net, as all times here: what anything else on the device adds is left out."""
    measured: int
    """Nets with other channel counts that were measured."""
    turns: int
    multiples: tuple[MultipleTime, ...] = ()
    """From 1 on; none where older versions measured it."""
    error_median: float
    """Of a prediction for a net that was left out of the fit, as a share of its time."""
    error_worst: float
    """The largest of those."""
    seconds: float

    @property
    def good_multiples(self) -> list[int]:
        """The multiples to keep channels in, the smallest first; none where that is not known."""
        quickest = min((each.time for each in self.multiples), default=0.0)
        return [each.multiple for each in self.multiples if each.time <= NEARLY * quickest]

    @property
    def best_multiple(self) -> int | None:
        """The one of them that leaves most to choose from, so that a net keeps more of its worth."""
        return min(self.good_multiples, default=None)
