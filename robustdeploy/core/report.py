"""What ``report.json`` holds. Every rendering and every verdict is made from it alone."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from robustdeploy.core.baseline import Baseline
from robustdeploy.core.figures import Answers, Course, Making, Past
from robustdeploy.core.gate import Rule, Verdict
from robustdeploy.core.model import Noun
from robustdeploy.core.recipe import Threat
from robustdeploy.core.records import ChannelCount
from robustdeploy.core.subject import PRUNED, SubjectName, places_of

SCHEMA_VERSION: Final = 2


class Measurement(Noun):
    """One measured number with the sample count, interval and conditions that make it evidence."""

    metric: str
    subject: SubjectName
    """What the number is about, e.g. ``pruned/fp32@host-cpu``; the place ``torch`` is the host's reference."""
    attack: str | None = None
    """Attack label, e.g. ``pgd-50-10``; ``worst`` is the worst case over attacks per image; None for clean rows."""
    kind: (
        Literal["replay", "transfer", "twin", "straight-through", "query", "substitute", "divergence", "worst"] | None
    ) = None
    """How the adversarial images were found."""
    value: float
    unit: str
    n: int = Field(ge=0)
    low: float | None = None
    high: float | None = None
    conditions: dict[str, Any] = {}


class Diagnostic(Noun):
    """A check of the evaluation itself."""

    id: str
    """Stable identifier, e.g. ``query-beats-transfer``."""
    level: Literal["ok", "warn", "block"]
    """``block`` makes the verdict INCONCLUSIVE, or the rules on ``metrics`` alone where it names any."""
    text: str
    """One sentence: what was checked, what was found, what it means."""
    value: float | None = None
    threshold: float | None = None
    metrics: tuple[str, ...] = ()
    """Metrics that the check speaks of; none means the whole evaluation."""
    flatters: bool = False
    """Whether what was found can only make those metrics look better than they are, so that a rule that they miss is
    missed all the same."""
    subject: SubjectName | None = None
    """Whose evaluation was checked; None where the check is about the net itself, in all places."""


class Override(Noun):
    """A setting in which an evaluation differs from the run's own recipe."""

    field: str
    """Where it stands in a recipe, e.g. ``evaluate.limit``."""
    recipe: Any
    used: Any

    def __str__(self) -> str:
        return f"{self.field} is {_short(self.used)}, in the recipe {_short(self.recipe)}"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        named = (each.get("name") if isinstance(each, dict) else each for each in value)
        return ", ".join(map(str, named)) or "empty"
    return "unset" if value is None else str(value)


class Omission(Noun):
    """A check that the evaluation did not make."""

    id: str
    """Stable identifier, e.g. ``eps-curve``."""
    text: str
    """One sentence: what was left out, why, and what that hides."""
    subject: SubjectName | None = None
    """In whose evaluation; None where it is about all of them."""


class BudgetLine(Noun):
    """The budget and what became of it. Operations are MACs of all products that add up.

    A target is the limit as a fraction of the dense net's cost, also where the recipe gives a number; no limit is 1.
    """

    ops_target: float
    params_target: float = 1.0
    memory_target: float = 1.0
    dense_macs: int
    macs: int
    params: int
    dense_params: int
    memory_bytes: int | None = None
    """Most bytes of feature maps that exist at once, in float32 for one image; None where the net cannot be traced."""
    dense_memory_bytes: int | None = None
    counts: dict[str, int] = {}
    """The same MACs counted independently: ``masks``, ``module``, ``onnx``, ``flop_counter``."""


class Histogram(Noun):
    """Counts between edges; ``edges`` has one value more than ``counts``."""

    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Sample(Noun):
    """One test image before and after an attack, as base64 PNG."""

    attack: str
    label: str
    clean_prediction: str
    adversarial_prediction: str
    clean_png: str
    adversarial_png: str
    difference_png: str
    """The perturbation, scaled so that ±eps spans black to white around mid-grey."""
    why: str = ""
    """By which rule it was chosen."""
    change: float | None = None
    """Length of the perturbation in l2, in pixels of [0, 1]."""
    clean_scores: tuple[float, float] | None = None
    """What the net gave its answer to the image as it is, and the true class."""
    adversarial_scores: tuple[float, float] | None = None
    """The same after the attack."""


class LayerTime(Noun):
    """A layer of a deployed net by its target's profile, beside the dense net's."""

    layer: str
    kind: str
    inputs: int
    outputs: int
    dense_inputs: int
    dense_outputs: int
    ops_kept: float
    us: float
    """Microseconds that the profile foretells; only sums over whole nets were measured."""
    dense_us: float
    why: str = ""
    """Why it keeps more of its time than of its operations; empty where it does not."""


class Figures(Noun):
    """What the page draws besides the rows."""

    channels: tuple[ChannelCount, ...] = ()
    latency: dict[str, Histogram] = {}
    """By subject."""
    dense_latency: dict[str, Histogram] = {}
    """Of the dense net in turns with a subject, by that subject."""
    answers: dict[str, Answers] = {}
    """By subject."""
    course: Course | None = None
    """Of the training of the run's own net; None where it was trained elsewhere."""
    samples: tuple[Sample, ...] = ()
    layer_times: dict[str, tuple[LayerTime, ...]] = {}
    """By subject whose target has a profile."""


class SubjectEvidence(Noun):
    """A subject of a report, and what its numbers rest on."""

    subject: SubjectName
    lost: str = ""
    """Why there are no numbers of it, e.g. that its board did not answer; empty where there are."""
    evaluation: str = ""
    """Folder of its evaluation in the run, e.g. ``device/host-cpu``; empty for the host's reference."""
    sha256: dict[str, str] = {}
    """SHA-256 of everything its numbers are about: net, onnx, engine, agent, outcomes and the manifests."""
    board: dict[str, Any] = {}
    """Facts the board gave: system, toolchain version, clocks, throttling."""


class Report(Noun):
    """The whole evidence of one run, on every target that it was evaluated on."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    net: str = PRUNED
    """The run's own net, as subjects call it; rules that name no subject are about this one."""
    subjects: tuple[SubjectEvidence, ...]
    """All subjects, those that were to be measured and were not among them."""
    label: str = ""
    """What marks an evaluation under other settings than the recipe's; nothing marks the recipe's own."""
    overrides: tuple[Override, ...] = ()
    """Settings that are not those of the run's own recipe; none in the report that the gate judges."""
    created: str
    """UTC, ISO 8601."""
    producer: str
    """Tool and version."""
    making: Making | None = None
    """None in reports of older versions."""
    history: tuple[Past, ...] = ()
    """Earlier runs of the same recipe on the same targets, the oldest first."""
    data: dict[str, Any] = {}
    """Which data set, where from, split hash, and how many images."""
    sha256: dict[str, str] = {}
    """SHA-256 of what all subjects have in common, the recipe among it."""
    threat: Threat
    """The ball that images were attacked in."""
    trained_within: Threat | None = None
    """The ball that the net was trained for, where that is another."""
    budget: BudgetLine
    measurements: tuple[Measurement, ...]
    diagnostics: tuple[Diagnostic, ...] = ()
    omissions: tuple[Omission, ...] = ()
    figures: Figures = Figures()
    rules: tuple[Rule, ...] = ()
    baseline: Baseline | None = None
    """The earlier run that rules hold it against; None where no rule does."""
    verdict: Verdict

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, those among them that were lost."""
        return tuple(places_of(each.subject for each in self.subjects))

    @property
    def title(self) -> str:
        """Name of the run and where its net is: ``digits-resnet8 on host-cpu``."""
        return f"{self.name} on {', '.join(self.targets) or 'no target'}"

    @property
    def deployed(self) -> tuple[SubjectEvidence, ...]:
        """What is known of the subjects on targets."""
        return tuple(each for each in self.subjects if each.evaluation or each.lost)
