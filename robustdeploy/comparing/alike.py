"""Alike: what all rows of a table must have in common, and how a row that has not differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from robustdeploy.comparing.found import Found
from robustdeploy.core.files import canonical_json
from robustdeploy.core.plain import plain
from robustdeploy.report.quantity import eps_text
from robustdeploy.report.words import conditions_text

TOLERANCE = 0.02
"""Share by which image passes may differ: batches and epochs come in whole numbers."""


def differences(found: Sequence[Found]) -> dict[str, tuple[str, ...]]:
    """Return, by the run's name, how a row differs from what most of ``found`` have in common.

    Of equals the first row's counts as what is common. Rows without a difference are left out.
    """
    told: dict[str, list[str]] = {}
    for name, text in _CONDITIONS.items():
        values = [text(each) for each in found]
        usual = max(values, key=values.count, default="")
        for each, value in zip(found, values, strict=True):
            if value != usual:
                told.setdefault(each.run.name, []).append(f"{name}: {value}, the others {usual}")
    for each, text_ in _passes_apart(found):
        told.setdefault(each.run.name, []).append(text_)
    return {name: tuple(texts) for name, texts in told.items()}


def _passes_apart(found: Sequence[Found]) -> list[tuple[Found, str]]:
    known = [each.spent.passes for each in found if each.spent.passes is not None]
    usual = max(known, key=lambda passes: sum(_near(other, passes) for other in known), default=0.0)
    told = []
    for each in found:
        passes = each.spent.passes
        if passes is None:
            told.append((each, "image passes: not recorded; it was trained by an older version"))
        elif not _near(passes, usual):
            told.append((each, f"image passes: {passes:,.0f}, the others {usual:,.0f}, {passes / usual - 1:+.1%}"))
    return told


def _near(passes: float, usual: float) -> bool:
    return abs(passes - usual) <= TOLERANCE * usual


def _images(each: Found) -> str:
    data = each.record.data
    split = str(data.get("split_sha256", ""))[:12]
    return f"{data.get('name')}, {data.get('train')} + {data.get('validation')} images, split {split}"


def _test_images(each: Found) -> str:
    return f"{len(each.right['clean']):,}, {each.test_images[:12]}"


def _net(each: Found) -> str:
    record, net = each.record, plain(each.run.recipe.net)
    told = net if isinstance(net, str) else canonical_json(net)
    if each.run.recipe.preprocess:
        told += f" behind {canonical_json(plain(list(each.run.recipe.preprocess)))}"
    return f"{told}, {record.dense_macs:,} MACs, {record.dense_params:,} parameters"


def _threat(each: Found) -> str:
    threat = each.report.threat
    return f"{threat.norm} {eps_text(threat.eps)}"


def _attacks(each: Found) -> str:
    return ", ".join(_attack(name, each.measured[name].conditions) for name in each.attacks) or "none"


def _attack(name: str, conditions: Mapping[str, Any]) -> str:
    # Other conditions say what came out, such as how many images were left to attack.
    told = {
        key: conditions[key]
        for key in ("steps", "restarts", "alpha", "loss", "targets", "eps", "queries")
        if key in conditions
    }
    return f"{name} ({conditions_text(told)})" if told else name


def _target(each: Found) -> str:
    return each.subject.partition("@")[2]


_CONDITIONS: Mapping[str, Callable[[Found], str]] = {
    "images": _images,
    "test images": _test_images,
    "net": _net,
    "threat": _threat,
    "attacks": _attacks,
    "target": _target,
}
