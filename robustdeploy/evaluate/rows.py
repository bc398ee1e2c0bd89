"""Rows: measurements made from outcomes, each with its sample count, interval and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from robustdeploy.core.report import Measurement
from robustdeploy.evaluate.intervals import clopper_pearson
from robustdeploy.evaluate.outcomes import Bits, Outcomes

_CLOPPER_PEARSON = "Clopper-Pearson, 95 %"


def share_row(
    metric: str, where: Literal["host", "board"], bits: Bits, conditions: Mapping[str, Any] = {}, **more: Any
) -> Measurement:
    """Return the share of true bits with its Clopper-Pearson interval."""
    low, high = clopper_pearson(int(bits.sum()), len(bits))
    return Measurement(
        metric=metric,
        where=where,
        value=float(bits.mean()),
        unit="fraction",
        n=len(bits),
        low=low,
        high=high,
        conditions={"interval": _CLOPPER_PEARSON, **conditions},
        **more,
    )


def accuracy_rows(outcomes: Outcomes, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[Measurement]:
    """Return clean and robust accuracy, on the host and on the board, per attack and in the worst case.

    ``settings`` says per attack label how it was run.
    """
    for where, clean in (("host", outcomes.host_clean), ("board", outcomes.board_clean)):
        place: Any = where
        # Query attacks may search in larger batches; what they found is judged like everything else.
        judged = {"judged_in_batches_of": outcomes.batch} if where == "board" else {}
        yield share_row("clean_accuracy", place, outcomes.standing(clean), judged)
        for attack in outcomes.attacks:
            # An image found by querying the board reaches the host as a stored one.
            kind = "replay" if where == "host" and attack.kind == "query" else attack.kind
            bits = outcomes.robust(attack, where)
            how = {**settings[attack.label], **judged}
            yield share_row("robust_accuracy", place, bits, how, attack=attack.label, kind=kind)
        worst = {"attacks": [attack.label for attack in outcomes.attacks], "per": "image", **judged}
        yield share_row("robust_accuracy", place, outcomes.worst(where), worst, attack="worst", kind="worst")
    yield from _dense_rows(outcomes, settings)
    yield from _agreement_rows(outcomes)
    yield from _query_rows(outcomes)


def _dense_rows(outcomes: Outcomes, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[Measurement]:
    if outcomes.dense_clean is None:
        return
    standing = outcomes.standing(outcomes.dense_clean)
    yield share_row("dense_clean_accuracy", "host", standing)
    worst = standing
    for attack in outcomes.dense_attacks:
        bits = standing & outcomes.standing(attack.host)
        worst = worst & bits
        conditions = settings[attack.label]
        yield share_row("dense_robust_accuracy", "host", bits, conditions, attack=attack.label, kind=attack.kind)
    labels = {"attacks": [attack.label for attack in outcomes.dense_attacks], "per": "image"}
    yield share_row("dense_robust_accuracy", "host", worst, labels, attack="worst", kind="worst")


def _agreement_rows(outcomes: Outcomes) -> Iterator[Measurement]:
    yield share_row("top1_agreement", "board", outcomes.board_clean == outcomes.host_clean)
    for attack in outcomes.attacks:
        yield share_row("top1_agreement", "board", attack.board == attack.host, attack=attack.label, kind=attack.kind)


def _query_rows(outcomes: Outcomes) -> Iterator[Measurement]:
    for attack in outcomes.attacks:
        if attack.queries is None or (attack.queries < 0).any():
            continue
        yield Measurement(
            metric="attack_queries",
            where="board",
            attack=attack.label,
            kind=attack.kind,
            value=float(attack.queries.mean()),
            unit="queries per image",
            n=len(attack.queries),
            conditions={"total": int(attack.queries.sum()), "median": float(np.median(attack.queries))},
        )
