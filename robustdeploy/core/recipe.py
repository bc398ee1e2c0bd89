"""The recipe: what to train and prune, how hard to attack it, and what it must meet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.dataclasses import dataclass

from robustdeploy.core.amount import Amount, Bytes, Latency, microseconds
from robustdeploy.core.bounds import Count
from robustdeploy.core.gate import Rule, check_ids
from robustdeploy.core.kinds import Of
from robustdeploy.core.model import Noun, Number
from robustdeploy.onboard import types as onboard


def check_radius(norm: str, eps: float) -> None:
    """Refuse a radius in ℓ∞ that is larger than the range of a pixel."""
    if norm == "linf" and eps > 1:
        # Grey levels, and the lengths of other norms, are what is mostly meant by a larger number.
        meant = f"did you mean {eps:g}/255, or norm: l2 or l1?" if eps <= 255 else "lengths in norm: l2 or l1 can"
        raise ValueError(f"eps is {eps:g}, but no pixel of [0, 1] can move by more than 1; {meant}")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Threat(onboard.Threat):
    """A ball of radius ``eps``, in pixels of [0, 1]; ``8/255`` is accepted.

    ``norm`` is ``linf``, the largest change of a pixel, or ``l2`` or ``l1``, lengths over all pixels and channels.
    """

    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Number, Field(ge=1 / 255, le=10_000)] = 8 / 255

    @model_validator(mode="before")
    @classmethod
    def _radius_is_given(cls, values: Any) -> Any:
        given = values if isinstance(values, dict) else getattr(values, "kwargs", None) or {}
        # The default is of an ℓ∞ ball: as a length over all pixels it would be next to nothing.
        if given.get("norm") in ("l2", "l1") and "eps" not in given:
            raise ValueError(f"norm {given['norm']} needs an eps of its own: {{norm: l2, eps: 0.5}}")
        return values

    @model_validator(mode="after")
    def _radius_suits_the_norm(self) -> Threat:
        check_radius(self.norm, self.eps)
        return self


class Choice(Noun):
    """A plug-in by name, with its options: ``fastat`` or ``{name: fastat, alpha: 10/255}``."""

    name: str
    options: dict[str, Any] = {}


def check_names(choices: Iterable[Choice], field: str) -> None:
    """Refuse two plug-ins of one name, where results would stand in one place."""
    names = [choice.name for choice in choices]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{field} holds '{twice[0]}' twice; keep one")


def _choice(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    # Both ways of writing are read; a plug-in with an option called `options` needs the second one.
    if isinstance(value, dict) and "name" in value and "options" not in value:
        return {"name": value["name"], "options": {k: v for k, v in value.items() if k != "name"}}
    return value


PlugIn = Annotated[Choice, BeforeValidator(_choice)]
AnyAttack = Annotated[PlugIn, Of("attacks", "query-attacks", "substitutes", "engine-attacks", "ensembles")]
"""Whatever may stand in a list of attacks."""
ONE, SEVERAL = "<one>", "<several>"
"""How pydantic calls the two in the place of an error; no key is written so."""
OneOrSeveral = Annotated[
    Annotated[PlugIn, Tag(ONE)] | Annotated[tuple[PlugIn, ...], Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list | tuple) else ONE),
]


class Data(Noun):
    """Which images. The test set is read by ``evaluate`` only; validation is cut from the training set."""

    name: str = "digits"
    options: dict[str, Any] = {}
    """Those of the data set itself; of the shipped ones none has any."""
    path: Path | None = None
    """Folder that holds the data set; the embedded default needs none."""
    size: int | None = Field(default=None, ge=4, le=1024)
    """Side in pixels that images of an image folder are resized to; needed only where they differ in size."""
    skip_unreadable: bool = False
    """Leave image files out that cannot be read, and say how many; otherwise one of them ends the work."""
    validation: Number = Field(default=0.1, gt=0, lt=0.5)
    """Share of the training set held out for validation."""
    augment: bool = True
    """Random shift, with zeros coming in, and mirroring where a mirrored image still shows its class."""


class Phase(Noun):
    """One phase of a training; what is not set is as ``train`` has it for all."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: Literal["weights", "scores", "both"] = "both"
    """``weights``: the net's own, its masks stay; ``scores``: what the pruner learns, the weights stay; or both."""
    epochs: int | None = Field(default=None, ge=1)
    objective: Annotated[PlugIn, Of("tasks")] | None = None
    lr: Number | None = Field(default=None, gt=0)
    """Peak of the schedule."""
    schedule: Annotated[PlugIn, Of("schedules")] | None = None
    select: Literal["best", "last"] | None = None
    """Which epoch the next phase begins with; unset: the last. For the last phase see ``train.select``."""


class Train(Noun):
    """One loop for every objective, in one phase or several."""

    start: Path | None = None
    """Folder of a trained dense net, or a run, whose weights the training begins with; unset: fresh weights."""
    task: Annotated[PlugIn, Of("tasks")] = Choice(name="fastat")
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: Number = Field(default=0.2, gt=0)
    """Peak of the schedule."""
    schedule: Annotated[PlugIn, Of("schedules")] = Choice(name="one-cycle")
    """How the rate moves through a phase. ``one-cycle``: linear from 0 to the peak and back."""
    phases: tuple[Phase, ...] = ()
    """What is trained one after the other; unset: one phase that trains weights and masks together."""
    optimiser: Literal["sgd", "adam", "rmsprop"] = "sgd"
    """Rule by which the weights, and scores without a rate of their own, are moved; masks always move by ``sgd``."""
    momentum: Number = Field(default=0.9, ge=0, lt=1)
    """Of ``sgd``; the others average by themselves."""
    weight_decay: Number = Field(default=5e-4, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast precision of the training passes; weights stay in float32. ``auto``: bf16 where the hardware has it."""
    compile: bool = False
    """Compile the net with torch.compile; it pays where launching many small kernels is what takes the time."""
    ema: Number | None = Field(default=None, gt=0, lt=1)
    """Decay per step of averaged weights, which are then what is validated and delivered; unset: no averages."""
    select: Literal["best", "last"] = "best"
    """Which epoch is delivered. ``best``: the one of highest robust validation accuracy if a paired test finds it
    better than the last, else the last. Both are kept."""
    sentinel: bool = True
    """Watch single-step training for catastrophic overfitting; on a collapse go back and on with a safer task."""
    device: str = "auto"
    """``auto`` takes CUDA when it is there, else the CPU."""
    checkpoint_every_s: Number = Field(default=60.0, ge=0)
    """Seconds between checkpoints inside an epoch; one is always written at an epoch's end."""

    @model_validator(mode="after")
    def _phases_make_sense(self) -> Train:
        names = [phase.name for phase in self.phases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two phases are named '{twice[0]}'; give each a name of its own")
        if self.phases and self.start is None and all(phase.train == "scores" for phase in self.phases):
            raise ValueError("no phase trains weights, and there is no trained net to start with; give one of the two")
        return self

    @model_validator(mode="after")
    def _rate_suits_the_optimiser(self) -> Train:
        rates = {"lr": self.lr, **{f"lr of phase '{phase.name}'": phase.lr for phase in self.phases if phase.lr}}
        # Their steps are about as long as the rate itself, whatever the gradient: 0.2 would undo the net at once.
        if self.optimiser != "sgd" and (high := {name: rate for name, rate in rates.items() if rate > 0.1}):
            name, rate = next(iter(high.items()))
            raise ValueError(f"{name} is {rate:g}, a rate for sgd; {self.optimiser} takes 0.1 at most, mostly 0.001")
        return self


DEPLOY: Final = "deploy"
_BUDGETED = {"ops": "operations", "params": "parameters", "memory": "bytes of activation memory"}


def _amount_text(amount: float) -> str:
    return f"{amount:.6g}" if amount <= 1 else f"{amount:,.0f}"


class LatencyLimit(Noun):
    """How long one image may take on a device; what a profile foretells is what pruning follows."""

    target: str = "host-cpu"
    """Target by name or YAML file. Its profile must be there, see ``robustdeploy profile``."""
    at_most: Latency
    """Fraction of the dense net's time, or a time of undisturbed calls: ``0.5``, ``50%`` or ``5ms``."""

    def limit_us(self, dense_us: float) -> float:
        """Return the limit in microseconds where the dense net takes ``dense_us``."""
        return microseconds(self.at_most) if isinstance(self.at_most, str) else self.at_most * dense_us

    def __str__(self) -> str:
        amount = self.at_most if isinstance(self.at_most, str) else _amount_text(self.at_most)
        return f"latency {amount} on {self.target}"


class Budget(Noun):
    """What the compact net may cost: any of four limits, each a fraction of the dense net or a number; all are met."""

    ops: Amount | None = None
    """Operations, the MACs of all convolutions and matrix products for one image: ``0.3``, ``30%`` or ``12.2M``."""
    params: Amount | None = None
    """Parameters of the net: ``0.3``, ``30%`` or ``64k``."""
    memory: Bytes | None = None
    """Bytes of the feature maps that exist at once, in float32 for one image: ``0.3``, ``30%`` or ``64KiB``."""
    latency: LatencyLimit | None = None
    """Time of one image on a target: ``{target: host-cpu, at_most: 0.5}``. Channels are then kept in the multiples that
    the target's profile shows."""
    channel_multiple: Annotated[int, Field(ge=1, le=64)] | None = None
    """Channels of a layer are kept in multiples of this, or all of them; 1 leaves every number open."""
    preferred_multiple: Count | None = None
    """The multiple where neither ``channel_multiple`` nor the budget speaks against it, and at most half of a small
    layer. Where neither is given, that which the targets run best is put in."""

    @property
    def names_multiple(self) -> bool:
        """Whether the multiple is settled, so that no target has a say in it."""
        return self.channel_multiple is not None or self.preferred_multiple is not None

    @property
    def amounts(self) -> dict[str, float]:
        """The limits on what is counted, by name, as they were given; one of at most 1 is a fraction."""
        given = {"ops": self.ops, "params": self.params, "memory": self.memory}
        return {name: amount for name, amount in given.items() if amount is not None}

    @property
    def is_set(self) -> bool:
        """Whether anything is limited."""
        return bool(self.amounts) or self.latency is not None

    def __str__(self) -> str:
        told = [f"{_BUDGETED[name]} {_amount_text(amount)}" for name, amount in self.amounts.items()]
        told += [] if self.latency is None else [str(self.latency)]
        return ", ".join(told) or "everything"


class Evaluate(Noun):
    """How what runs on the board is attacked."""

    threat: Threat | None = None
    """Ball in which images are attacked, where that is not the recipe's ``threat``, inside which nets are trained."""
    limit: int | None = Field(default=None, ge=1)
    """Test images to use, the first of a fixed shuffle; all of them when unset."""
    attacks: tuple[AnyAttack, ...] = (
        Choice(name="fgsm"),
        Choice(name="pgd", options={"steps": 10}),
        Choice(name="pgd", options={"steps": 50, "restarts": 10}),
        Choice(name="autoattack"),
    )
    """What attacks each image: cheap ones that must not beat the dear ones after them, then the standard ensemble."""
    eps_curve: tuple[Number, ...] = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
    """Multiples of the threat's eps at which the curve of robustness over eps is measured with PGD-10."""
    curve_limit: int = Field(default=200, ge=1)
    """Test images used for that curve."""
    distances: tuple[Annotated[PlugIn, Of("distances")], ...] = ()
    """What measures, in torch, how far an image must be moved to be labelled wrong; each says on how many images."""
    vulnerability: bool = False
    """Also measure, in torch, by how much each attack that follows gradients moves the net's latent features."""
    patches: tuple[Annotated[PlugIn, Of("patches")], ...] = ()
    """Attacks that fill a square of an image and leave all else; a threat of their own, beside the ℓ∞ ball."""
    corruptions: tuple[Annotated[PlugIn, Of("corruptions")], ...] = ()
    """What weather, optics, sensors and storage do to the test images, to judge them so too; ``all`` is fifteen."""


class Recipe(Noun):
    """What to make and what it must meet; one YAML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    data: Annotated[Data, Of("data")] = Data()
    preprocess: tuple[Annotated[PlugIn, Of("preprocess")], ...] = ()
    """What is done to a camera's image in front of the net, in this order; it is a part of the deployed file."""
    net: Annotated[PlugIn, Of("nets")] = Choice(name="resnet8")
    threat: Threat = Threat()
    train: Train = Train()
    prune: Annotated[PlugIn, Of("pruners")] = Choice(name="masks")
    budget: Budget = Budget()
    baseline: bool | Literal["deploy"] = True
    """Also train the dense net on the same schedule, so that the report shows what pruning cost; with ``deploy``, also
    compile it and measure it on every target, so that it shows what pruning bought there."""
    precisions: tuple[Annotated[PlugIn, Of("precisions")], ...] = ()
    """What the nets are computed in where they are deployed, each on every target; none: each target's own first."""
    evaluate: Evaluate = Evaluate()
    gate: tuple[Rule, ...] = ()
    gate_baseline: Path | None = None
    """Run or ``report.json`` that rules with ``no_worse_than_baseline`` hold this one against."""

    @property
    def attacked_within(self) -> Threat:
        """The ball that the evaluation attacks in."""
        return self.evaluate.threat or self.threat

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        check_ids(self.gate)
        check_names(self.precisions, "precisions")
        return self
