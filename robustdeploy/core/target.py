"""The target: where a net goes, which toolchain runs it there, and how it is timed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from robustdeploy.core.kinds import Of
from robustdeploy.core.model import Noun, Number
from robustdeploy.core.recipe import Choice, PlugIn, check_names
from robustdeploy.core.subject import FP32, TORCH

OPSET = 20
"""Of ONNX, where a target asks for no other."""
ARCHITECTURES = {"arm64": "aarch64", "aarch64": "aarch64", "amd64": "x86_64", "x86-64": "x86_64", "x86_64": "x86_64"}
"""What systems call an architecture, and the one name that it has here."""


def _one_name(arch: str) -> str:
    return ARCHITECTURES.get(arch, arch)


class Toolchain(Noun):
    """A backend, the versions that are supported and the options it compiles with."""

    name: str
    version: str = ""
    """Comma-separated bounds such as ``>=10.3,<12``; empty accepts any."""
    options: dict[str, Any] = {}


class LatencyPlan(Noun):
    """How long to measure, over all windows. A percentile is reported only where the sample count supports it."""

    batch: int = Field(default=1, ge=1)
    windows: int = Field(default=10, ge=6, le=1000)
    """Separate windows, spread over the evaluation, each with the engine loaded anew. With 6 or more, the interval of a
    figure holds what differs between windows at 95 % confidence."""
    warmup_s: Number = Field(default=0.2, ge=0, le=3600)
    """Warm-up before each window."""
    min_s: Number = Field(default=3.0, gt=0)
    max_s: Number = Field(default=60.0, gt=0, le=3600)
    min_samples: int = Field(default=7000, ge=1)
    """6,636 samples support p99.9, 662 support p99 and 64 support p90 at 99 % confidence."""

    @model_validator(mode="after")
    def _longest_last(self) -> LatencyPlan:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s is {self.min_s:g} and max_s is {self.max_s:g}; min_s must not be above max_s")
        return self


class Target(Noun):
    """One YAML file per board; ``extends: other`` takes another target's fields as defaults."""

    # It becomes a folder's name, also on file systems that ignore case, and `@` marks other settings there.
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    status: Literal["tested", "contract-tested"] = "tested"
    """``contract-tested``: checked against the toolchain's API, not run on hardware."""
    arch: Annotated[Literal["any", "x86_64", "aarch64", "amd64", "arm64"], AfterValidator(_one_name)] = "any"
    """Of the board, which is refused where it is of another one. ``amd64`` is ``x86_64``, ``arm64`` is ``aarch64``."""
    backend: Annotated[Toolchain, Of("backends")] = Toolchain(name="onnxruntime")
    link: Annotated[PlugIn, Of("links")] = Choice(name="local")
    build_on: Literal["board", "host"] = "board"
    """Where the engine is built. Most are tied to the device and the toolchain's version; a backend that can build on
    the host says so."""
    precisions: Annotated[tuple[Annotated[PlugIn, Of("precisions")], ...], Field(min_length=1)] = (Choice(name=FP32),)
    """What nets can be computed in there, with the options that its toolchain asks for; the first is what is taken
    where nobody asks for another."""
    channel_multiple: int = Field(default=1, ge=1)
    """Channels per layer are kept in multiples of this; the pruner respects it during training."""
    opset: int = Field(default=OPSET, ge=18, le=23)
    clocks: Literal["observe"] = "observe"
    """The clocks are read before and after timing and never changed."""
    emulated: bool = False
    """An emulated board's latency says nothing; it is refused, not reported."""
    latency: LatencyPlan = LatencyPlan()

    @model_validator(mode="after")
    def _names_differ(self) -> Target:
        check_names(self.precisions, "precisions")
        # Its rows would be taken for those of the reference.
        if self.name == TORCH:
            raise ValueError(f"name is '{TORCH}', which is the place of the host's reference; give the target another")
        return self
