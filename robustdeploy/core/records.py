"""Records: what each stage found, typed. A record is part of the seal, and what later stages and the report read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from robustdeploy.core.model import Noun

Count = Annotated[int, Field(ge=0, le=2**63)]
Some = Annotated[int, Field(ge=1, le=2**63)]


class Record(Noun):
    """What a stage found. Values come from JSON that may have been edited, so none is converted."""

    model_config = ConfigDict(strict=True)


class ChannelCount(Record):
    """Channels kept in one layer."""

    layer: str
    kept: Count
    dense: Count


class Proof(Record):
    """How far the masked and the compact net's scores are apart."""

    n: Some
    clean: float
    adversarial: float
    precision: str
    float32: float
    tolerance: float


class Collapse(Record):
    """What the sentinel did about a training that fell into catastrophic overfitting."""

    event: str
    step: Count
    back_to_step: Count
    reason: str
    task: str
    """The objective until then."""
    task_from_here: str


class Conditions(Record):
    """From which step on a training ran under which conditions."""

    from_step: Count
    precision: str
    processes: Some


class Epochs(Record):
    """Which epoch of a training is delivered, and which there were to choose from; 0 where there was none."""

    delivered: Count
    best: Count
    last: Count


class Passes(Record):
    """How often the steps of a training sent an image through the net, and a gradient back; attacks included."""

    forward: Count
    backward: Count


class Searched(Record):
    """What a pruner searched or measured before it trained scores."""

    what: str
    items: Count
    passes: Passes
    """Beside those of the steps."""
    seconds: float
    """Part of the training's."""
    numbers: dict[str, float] = {}
    """The last item's, by name."""


class Codes(Record):
    """Bytes of a net's parameters where weights that are not 0 are codes of few values, layer by layer."""

    bits: Some
    """Of a code."""
    layers: Count
    """Layers whose weights are codes."""
    most_values: Count
    """Of one layer's codebook, 0 left out."""
    codes_bytes: Count
    indices_bytes: Count
    """Where the weights are that are not 0: one bit for each weight, or each one's number, whichever is less."""
    codebooks_bytes: Count
    others_bytes: Count
    """All other parameters, as floats."""
    dense_bytes: Some
    """All parameters as floats."""

    @property
    def total_bytes(self) -> int:
        """Codes, where they are, what they mean, and all other parameters as floats."""
        return self.codes_bytes + self.indices_bytes + self.codebooks_bytes + self.others_bytes


class LatencyTrial(Record):
    """A choice of channels that was measured before the masks were frozen, as shares of the dense net's time."""

    foretold: float
    measured: float


class LatencyBudgeted(Record):
    """How a limit on latency was kept."""

    target: str
    limit: float
    """As a share of the dense net's time."""
    dense_us: float
    """By the profile."""
    foretold: float
    """What the profile says of the net that was made, as a share of the dense net's time."""
    trials: tuple[LatencyTrial, ...] = ()
    """Empty where the target was not asked; the last but not always the best one is the net's own."""


class NetRecord(Record):
    """A net that was trained or taken over: what it costs, beside the dense net, and how it came about."""

    macs: Count
    repeated_macs: Count = 0
    params: Count
    memory_bytes: int | None
    layer_macs: dict[str, int] = {}
    uncounted: str = ""
    """Why the operations of a net that others gave cannot be counted; its MACs are 0 then."""
    dense_macs: Count
    dense_params: Count
    dense_memory_bytes: int | None
    ops_target: float = 1.0
    params_target: float = 1.0
    memory_target: float = 1.0
    latency: LatencyBudgeted | None = None
    """Only where the budget limits latency."""
    counts: dict[str, int] = {}
    """The same MACs counted independently, by how they were counted."""
    channels: tuple[ChannelCount, ...] = ()
    """Empty for a net of which nothing was removed."""
    whole: dict[str, str] = {}
    """Layers that stay whole, each with the reason."""
    proof: Proof | None = None
    nonzero_macs: Count | None = None
    """Only where weights are masked one by one."""
    codes: Codes | None = None
    """Only where the weights were put onto few values."""
    data: dict[str, Any]
    epochs: Epochs | None = None
    events: tuple[Collapse, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    passes: Passes | None = None
    """None where it was trained by an older version, or elsewhere."""
    search: Searched | None = None
    """Only where the pruner prepares."""
    seconds: float | None = None
    """How long the training took; what an interruption made vain is left out."""

    @field_validator("dense_macs", "dense_params")
    @classmethod
    def _is_counted(cls, count: int, info: ValidationInfo) -> int:
        # Shares are of it, so nothing may be divided by a 0 that nobody accounts for.
        if count < 1 and not info.data.get("uncounted"):
            raise ValueError("must be at least 1 where the operations were counted")
        return count

    @property
    def removes_channels(self) -> bool:
        """Whether what the pruner took away is gone; otherwise it is zeros."""
        return self.nonzero_macs is None


class Parity(Record):
    """The largest gap between the two runtimes' scores, and the share of images with the same label."""

    runtime: str
    n: Some
    max_abs_clean: float
    max_abs_adversarial: float
    agreement_clean: float
    agreement_adversarial: float


class Zeros(Record):
    """What of an exported net is beside its zeros."""

    macs: Count
    """Of the graph, as a dense runtime executes them."""
    nonzero_macs: Count
    """Those of the graph that are by weights other than 0."""
    nonzero_params: Count
    """Parameters of the net beside the zeros among its layers' weights."""
    two_of_four: tuple[str, ...]
    """Layers that have at most 2 weights other than 0 among any 4 consecutive inputs."""

    @property
    def note(self) -> str:
        """What a user of the exported net must know, as one sentence."""
        text = (
            f"{1 - self.nonzero_macs / self.macs:.1%} of the {self.macs:,} MACs are by weights that are 0, but a dense "
            "runtime executes all of them: these zeros save no time and no operation there"
        )
        if not self.two_of_four:
            return text
        return (
            f"{text}. {len(self.two_of_four)} layers are 2:4 sparse, for which TensorRT has kernels that it may choose "
            "when its builder allows sparse weights; that has not been run on hardware"
        )


class Lowered(Record):
    """A net in another precision than it was exported in, beside the file in float32."""

    precision: str
    options: dict[str, Any] = {}
    n: Some
    """Held-out images that both files scored, once clean and once attacked."""
    agreement_clean: float
    agreement_adversarial: float
    """Share of them that both label alike."""
    max_abs_clean: float
    """Largest difference of a score, where scores span ``span``."""
    span: float
    calibration: dict[str, Any] = {}
    """Which images the ranges of activations were measured on; empty where none were."""
    tuned_epochs: Count = 0
    """Epochs of fine-tuning in this precision; its weights are then others than those of the file in float32."""
    twin_problem: str = ""
    """Why what gradients find on the torch twin says nothing about the file; empty where it does."""


class Given(Record):
    """An ONNX file that others made, as it is deployed."""

    file: str
    unchanged: bool
    """Whether it is their very file; otherwise its graph stands between nodes that adapt images and scores."""
    computes_in: str
    scores: str
    """``logits``, ``probabilities`` or ``labels``."""
    twin_problem: str = ""
    """Why no gradient of it can be followed in torch; empty where one can."""


class OnnxRecord(Record):
    """An exported net, in the precision that it was exported in or in another."""

    parity: Parity | None
    """With the net in torch, or with the torch twin of a lowered one; None where that has no twin."""
    counts: dict[str, int]
    opset: int
    zeros: Zeros | None = None
    lowered: Lowered | None = None
    given: Given | None = None
    """Only of a net that others gave as an ONNX file."""
    notes: tuple[str, ...] = ()
    """What a user of the file must know, one sentence each."""


class AttackRecord(Record):
    """What was found on a net in torch."""

    n: Some
    """Test images."""


class BoardRecord(Record):
    """What was measured on a target."""

    engine: str
    """SHA-256 over the names and hashes of its files."""
    n: Some
    """Test images."""
    reading: dict[str, Any] = {}
    """What became of the test set's files."""
