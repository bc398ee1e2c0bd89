"""The target: where a net goes, which toolchain runs it there, and how it is timed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from robustdeploy.core.kinds import Of
from robustdeploy.core.model import Noun, Number
from robustdeploy.core.recipe import Choice, OneOrSeveral, PlugIn, check_names
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


Scenario = Literal["single-stream", "paced", "offline"]


class LatencyPlan(Noun):
    """How long to measure, over all runs. A percentile is reported only where the sample count supports it."""

    batch: int = Field(default=1, ge=1)
    scenarios: Annotated[tuple[Scenario, ...], Field(min_length=1)] = ("single-stream",)
    """``single-stream``: each batch follows the one before at once. ``paced``: one comes every ``period_ms``, as from a
    sensor, and times count from the moment it is due. ``offline``: images per second."""
    period_ms: Annotated[Number, Field(ge=0.1, le=3_600_000)] | None = None
    """Of the sensor, for ``paced``."""
    deadline_ms: Annotated[Number, Field(gt=0, le=3_600_000)] | None = None
    """How long after it is due a batch may be done, for ``paced``; the period, if not given."""
    runs: int = Field(default=10, ge=10, le=1000)
    """Separate runs of each scenario, spread over the evaluation, each in a fresh process on the board. The interval of
    a figure holds what differs between runs at 95 % confidence."""
    warmup_s: Number = Field(default=0.2, ge=0, le=3600)
    """Warm-up before each run's samples, at least; it goes on, to five times that, while calls still get quicker."""
    min_s: Number = Field(default=3.0, gt=0)
    max_s: Number = Field(default=60.0, gt=0, le=3600)
    min_samples: int = Field(default=7000, ge=1)
    """6,636 samples support p99.9, 662 support p99 and 64 support p90 at 99 % confidence."""

    @model_validator(mode="after")
    def _makes_sense(self) -> LatencyPlan:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s is {self.min_s:g} and max_s is {self.max_s:g}; min_s must not be above max_s")
        if twice := next((name for name in self.scenarios if self.scenarios.count(name) > 1), None):
            raise ValueError(f"scenarios holds '{twice}' twice; each is taken once")
        paced = "paced" in self.scenarios
        if paced and self.period_ms is None:
            raise ValueError("scenarios holds 'paced', and no period is given; set period_ms, e.g. 33.3")
        for name in ("period_ms", "deadline_ms"):
            if not paced and getattr(self, name) is not None:
                raise ValueError(f"{name} is for the scenario 'paced'; add that to scenarios, or leave {name} out")
        return self

    @property
    def due_ms(self) -> float | None:
        """How long after it is due a batch may be done; None where nothing is due."""
        return self.deadline_ms or self.period_ms


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
    link: Annotated[OneOrSeveral, Of("links")] = Choice(name="local")
    """The way to the board; a list of them where several alike share the work, each a machine of its own."""
    build_on: Literal["board", "host"] = "board"
    """Where the engine is built. Most are tied to the device and the toolchain's version; a backend that can build on
    the host says so."""
    precisions: Annotated[tuple[Annotated[PlugIn, Of("precisions")], ...], Field(min_length=1)] = (Choice(name=FP32),)
    """What nets can be computed in there, with the options that its toolchain asks for; the first is what is taken
    where nobody asks for another."""
    channel_multiple: int = Field(default=1, ge=1)
    """Channels per layer are kept in multiples of this; the pruner respects it during training."""
    opset: int = Field(default=OPSET, ge=18, le=23)
    clocks: Literal["observe", "locked"] = "observe"
    """Clocks are read while the engine is timed, never set. ``locked``: no latency counts where they are not fixed."""
    memory_limit_mib: Annotated[int, Field(ge=1)] | None = None
    """The most that the engine's process may hold at its peak. An engine that is larger by itself is not even sent."""
    emulated: bool = False
    """An emulated board's latency says nothing; it is refused, not reported."""
    latency: LatencyPlan = LatencyPlan()

    @model_validator(mode="after")
    def _names_differ(self) -> Target:
        check_names(self.precisions, "precisions")
        if not self.links:
            raise ValueError("link is an empty list; name the way to one board at least")
        if twice := next((each for index, each in enumerate(self.links) if each in self.links[:index]), None):
            raise ValueError(f"link holds the same '{twice.name}' link twice; name each board once")
        # Its rows would be taken for those of the reference.
        if self.name == TORCH:
            raise ValueError(f"name is '{TORCH}', which is the place of the host's reference; give the target another")
        return self

    @property
    def links(self) -> tuple[Choice, ...]:
        """The ways to its boards, of which there is usually one."""
        return (self.link,) if isinstance(self.link, Choice) else self.link
