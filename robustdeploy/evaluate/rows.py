"""Rows: measurements made from outcomes, each with its sample count, interval and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from robustdeploy.core.metrics import AFTER_QUERIES
from robustdeploy.core.report import Measurement
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject
from robustdeploy.evaluate.intervals import clopper_pearson
from robustdeploy.evaluate.outcomes import AttackOutcome, Bits, Outcomes
from robustdeploy.onboard.queries import MARKS

_CLOPPER_PEARSON = "Clopper-Pearson, 95 %"


def share_row(
    metric: str, subject: Subject, bits: Bits, conditions: Mapping[str, Any] = {}, **more: Any
) -> Measurement:
    """Return the share of true bits with its Clopper-Pearson interval."""
    low, high = clopper_pearson(int(bits.sum()), len(bits))
    return Measurement(
        metric=metric,
        subject=str(subject),
        value=float(bits.mean()),
        unit="fraction",
        n=len(bits),
        low=low,
        high=high,
        conditions={"interval": _CLOPPER_PEARSON, **conditions},
        **more,
    )


def kind_of_gradients(subject: Subject, reference: Subject) -> str:
    """Say whose gradients found an attack on ``subject``: the exported net's, or those of its own precision's twin."""
    return "transfer" if reference.precision == FP32 else "twin"


def accuracy_rows(
    outcomes: Outcomes, settings: Mapping[str, Mapping[str, Any]], subject: Subject, reference: Subject | None = None
) -> Iterator[Measurement]:
    """Return clean and robust accuracy of ``subject`` and of its ``reference``, per attack and in the worst case.

    ``settings`` says per attack label how it was run. Without a ``reference`` it is the same precision in torch.
    """
    reference = reference or subject.reference
    kinds = {attack.kind for attack in outcomes.attacks}
    for where, clean in (("host", outcomes.host_clean), ("board", outcomes.board_clean)):
        its = subject if where == "board" else reference
        # Query attacks may search in larger batches; what they found is judged like everything else.
        judged = {"judged_in_batches_of": outcomes.batch} if where == "board" else {}
        yield share_row("clean_accuracy", its, outcomes.standing(clean), judged)
        for attack in outcomes.attacks:
            # An image found by querying the board reaches the host as a stored one.
            by_gradients = kind_of_gradients(subject, reference) if attack.kind == "transfer" else attack.kind
            kind = "replay" if where == "host" and attack.kind != "transfer" else by_gradients
            # The same attack finds other images on another target, so the reference's row says which were replayed.
            elsewhere = kind == "replay" and attack.kind != "replay"
            how = {**judged, **({"found_on": subject.place} if elsewhere else {})}
            how |= {"gradients_of": str(reference)} if attack.kind in ("straight-through", "divergence") else {}
            yield from _attack_rows(outcomes, attack, settings, (its, where, kind), how)
        worst = {"attacks": [attack.label for attack in outcomes.attacks], "per": "image", **judged}
        worst |= {"found_on": subject.place} if where == "host" and kinds - {"transfer", "replay"} else {}
        yield share_row("robust_accuracy", its, outcomes.worst(where), worst, attack="worst", kind="worst")
    yield from _divergence_rows(outcomes, settings, subject, reference)
    yield from _dense_rows(outcomes, settings, Subject(DENSE, FP32, TORCH))
    yield from _agreement_rows(outcomes, subject)
    yield from _query_rows(outcomes, settings, subject)


def _dense_rows(outcomes: Outcomes, settings: Mapping[str, Mapping[str, Any]], dense: Subject) -> Iterator[Measurement]:
    if outcomes.dense_clean is None:
        return
    # Its own labels in place of the others', so that all is counted alike.
    clean = outcomes.dense_clean
    own = replace(outcomes, board_clean=clean, host_clean=clean, attacks=outcomes.dense_attacks)
    yield share_row("clean_accuracy", dense, own.clean("host"))
    for attack in own.attacks:
        yield from _attack_rows(own, attack, settings, (dense, "host", attack.kind), {})
    labels = {"attacks": [attack.label for attack in outcomes.dense_attacks], "per": "image"}
    yield share_row("robust_accuracy", dense, own.worst("host"), labels, attack="worst", kind="worst")


def _attack_rows(
    outcomes: Outcomes,
    attack: AttackOutcome,
    settings: Mapping[str, Mapping[str, Any]],
    judged: tuple[Subject, str, str],
    how: Mapping[str, Any],
) -> Iterator[Measurement]:
    """Return the row of one attack; behind the last part of an ensemble also that of all its parts together.

    ``judged`` is whose row it is, which labels count, and how the images were found.
    """
    its, where, kind = judged
    bits = outcomes.robust(attack, where)
    if not attack.ensemble:
        conditions = {**settings[attack.label], **attack.conditions, **how}
        yield share_row("robust_accuracy", its, bits, conditions, attack=attack.label, kind=kind)
        if attack.belongs is not None and len(attack.belongs.of):
            its_own = bits[np.unique(attack.belongs.of)]
            yield share_row("replayed_accuracy", its, its_own, conditions, attack=attack.label, kind=kind)
        return
    parts = [each.label for each in outcomes.attacks if each.ensemble == attack.ensemble]
    so_far = parts[: parts.index(attack.label) + 1]
    stood = int(outcomes.before(attack, where).sum())
    # Of all images, as every accuracy is; what the part itself was given and did is told beside it.
    told = {"stood_before": stood, "fell": stood - int(bits.sum()), "worst_of": so_far}
    conditions = {**settings[attack.label], **attack.conditions, **how, **told}
    yield share_row("robust_accuracy", its, bits, conditions, attack=attack.label, kind=kind)
    if so_far == parts:
        conditions = {**settings[attack.ensemble], **how, "worst_of": parts}
        yield share_row("robust_accuracy", its, bits, conditions, attack=attack.ensemble, kind="worst")


def _agreement_rows(outcomes: Outcomes, subject: Subject) -> Iterator[Measurement]:
    yield share_row("top1_agreement", subject, outcomes.board_clean == outcomes.host_clean)
    for attack in outcomes.attacks:
        # Of several replays the worst one is another in torch than here, so the labels are not of one image.
        if attack.host_images is not None:
            continue
        yield share_row("top1_agreement", subject, attack.board == attack.host, attack=attack.label, kind=attack.kind)


def _divergence_rows(
    outcomes: Outcomes, settings: Mapping[str, Mapping[str, Any]], subject: Subject, reference: Subject
) -> Iterator[Measurement]:
    """Return near how many images the attack found one that the reference labels right and the subject wrong."""
    for attack in outcomes.attacks:
        if attack.by_chance is None:
            continue
        low, high = clopper_pearson(int(attack.by_chance.sum()), len(attack.by_chance))
        random: dict[str, Any] = {"random_found": int(attack.by_chance.sum()), "random_low": low, "random_high": high}
        asked = {} if attack.queries is None else {"queries": int(attack.queries.sum())}
        random["random"] = "as many images as queries, in the same box"
        told = {"gradients_of": str(reference), **asked, **random}
        # By the labels that were given when all was judged, and not by what the attack saw.
        divided = (attack.host == outcomes.labels) & (attack.board != outcomes.labels)
        conditions = {**settings[attack.label], **told, "judged_in_batches_of": outcomes.batch}
        yield share_row("divergence", subject, divided, conditions, attack=attack.label, kind=attack.kind)


def _query_rows(
    outcomes: Outcomes, settings: Mapping[str, Mapping[str, Any]], subject: Subject
) -> Iterator[Measurement]:
    for attack in outcomes.attacks:
        if attack.substituted is not None:
            total, n = attack.substituted.queries, len(attack.board)
            shared = {"total": total, "for": "training one substitute, which serves all images"}
            yield _queries(subject, attack, total / n, n, shared)
        # A mean over the images that were counted would be of others than those that were attacked.
        if attack.queries is None or (attack.queries < 0).any():
            continue
        asked = attack.queries[outcomes.before(attack, "board")] if attack.ensemble else attack.queries
        if not len(asked):
            continue
        told = {"total": int(asked.sum()), "median": float(np.median(asked))}
        yield _queries(subject, attack, float(asked.mean()), len(asked), told)
        if attack.spent_ns is not None:
            yield from _after_queries(outcomes, attack, settings[attack.label], subject)


def _after_queries(
    outcomes: Outcomes, attack: AttackOutcome, how: Mapping[str, Any], subject: Subject
) -> Iterator[Measurement]:
    """Return what stood after 10, 30, 100 … queries per image, up to all that the attack may spend."""
    assert attack.queries is not None
    assert attack.spent_ns is not None
    right, held = outcomes.before(attack, "board"), outcomes.robust(attack, "board")
    most = how.get("queries")
    most = most if type(most) is int else int(attack.queries.max())
    for column, mark in enumerate(MARKS):
        asked = min(mark, most)
        # An image falls with the last query that was spent on it; one that fell later was right until then.
        bits = right & (held | (attack.queries > asked))
        spent_s = float(attack.spent_ns[:, column].sum()) * 1e-9
        conditions = {"queries": asked, "device_s": spent_s, "needs": how.get("needs", "scores")}
        yield share_row(AFTER_QUERIES, subject, bits, conditions, attack=attack.label, kind=attack.kind)
        if asked == most:
            return


def _queries(
    subject: Subject, attack: AttackOutcome, value: float, n: int, conditions: Mapping[str, Any]
) -> Measurement:
    return Measurement(
        metric="attack_queries",
        subject=str(subject),
        attack=attack.label,
        kind=attack.kind,
        value=value,
        unit="queries per image",
        n=n,
        conditions=dict(conditions),
    )
