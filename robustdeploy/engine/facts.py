"""What the facts of a stage must hold for later stages: a manifest may have been edited and sealed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustdeploy.core.complaint import complaint
from robustdeploy.core.subject import DENSE, IMPORTED, PRUNED
from robustdeploy.errors import ArtifactError

_Count = Annotated[int, Field(ge=0, le=2**63)]
_Some = Annotated[int, Field(ge=1, le=2**63)]


class _Facts(BaseModel):
    """Fields that are read; others may stand beside them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Channels(_Facts):
    layer: str
    kept: _Count
    dense: _Count


class _Event(_Facts):
    step: int
    reason: str
    back_to_step: int
    task_from_here: str


class _Dense(_Facts):
    dense_macs: _Some
    dense_params: _Some
    data: dict[str, Any]


class _Train(_Dense):
    macs: _Count
    params: _Count
    memory_bytes: int | None
    dense_memory_bytes: int | None
    ops_target: float
    params_target: float
    memory_target: float
    channels: list[_Channels]
    counts: dict[str, int] = {}
    events: list[_Event] = []


class _Parity(_Facts):
    runtime: str
    n: _Some
    max_abs_clean: float
    max_abs_adversarial: float


class _Zeros(_Facts):
    nonzero_macs: _Count
    nonzero_params: _Count


class _Export(_Facts):
    parity: _Parity
    counts: dict[str, int]
    notes: list[str]
    zeros: _Zeros | None = None


class _Device(_Facts):
    engine: str
    n: _Some
    reading: dict[str, Any] = {}


_KINDS: Mapping[str, type[_Facts]] = {"dense": _Dense, "train": _Train, "export": _Export, "device": _Device}


def check_facts(place: str, facts: Mapping[str, Any], where: str) -> None:
    """Raise an ArtifactError where the facts of the stage in ``place`` lack what is read; ``where`` holds them."""
    kind = _KINDS.get(place.partition("/")[0])
    try:
        if kind is not None:
            kind.model_validate(dict(facts))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, ("facts", *first["loc"])))
        raise ArtifactError(f"{where}: {name} {complaint(first, kind)}, so it was edited") from error


def own_net(training: Mapping[str, Any]) -> str:
    """Return what subjects call the net that a run trained or took over, by the facts of its manifest."""
    if "adopted" in training.get("data", {}):
        return IMPORTED
    return PRUNED if training.get("channels") else DENSE
