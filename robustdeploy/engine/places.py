"""Places: which folder of a run holds what, by the net, its precision and its target."""

from __future__ import annotations

from typing import Final

from robustdeploy.core.subject import Subject
from robustdeploy.core.target import OPSET

NETS: Final = "nets"
ONNX: Final = "onnx"
ATTACKS: Final = "attacks"
ENGINES: Final = "engines"
BOARDS: Final = "boards"
KINDS: Final = (NETS, ONNX, ATTACKS, ENGINES, BOARDS)
"""Folders at the top of a run, in the order in which they are made."""


SERIES: Final = "base.yaml"
"""The recipe that several runs in one folder have in common. No `recipe.yaml`: that would make the folder a run."""


def net_place(net: str) -> str:
    """Return where a trained net lies, e.g. ``nets/pruned``."""
    return f"{NETS}/{net}"


def onnx_place(net: str, precision: str, opset: int = OPSET, form: str = "") -> str:
    """Return where an exported net lies, e.g. ``onnx/pruned/fp32``.

    One for another opset than the usual stands beside, ``onnx/pruned/fp32.opset18``, and so does one in a form of its
    precision that a target asks for: ``onnx/pruned/int8.s8s8``. No precision has a dot in it.
    """
    return f"{ONNX}/{net}/{precision}" + (f".{form}" if form else "") + ("" if opset == OPSET else f".opset{opset}")


def attacks_place(onnx: str, label: str = "") -> str:
    """Return where what was found in torch on the net of an ONNX file's place lies; ``label`` marks other settings."""
    return f"{ATTACKS}/{onnx.partition('/')[2]}{f'@{label}' if label else ''}"


def precision_of(place: str) -> str:
    """Return the precision of what lies in a place; nothing for a trained net, which has none yet."""
    return "" if kind_of(place) == NETS else place.split("/")[2].partition("@")[0].partition(".")[0]


def engine_place(subject: Subject) -> str:
    """Return where a compiled net lies, e.g. ``engines/pruned/fp32@host-cpu``."""
    return f"{ENGINES}/{_deployed(subject)}"


def board_place(subject: Subject, label: str = "") -> str:
    """Return where what was measured on a target lies; ``label`` marks other settings than the recipe's."""
    return f"{BOARDS}/{_deployed(subject)}{f'@{label}' if label else ''}"


def _deployed(subject: Subject) -> str:
    return f"{subject.net}/{subject.precision}@{subject.place}"


def kind_of(place: str) -> str:
    """Return the folder at the top that a place is in."""
    return place.partition("/")[0]


def place_of(path: str) -> str:
    """Return the place that a file of a run lies in, by its path in the run; nothing for a file at the top."""
    parts = path.split("/")
    # A trained net has no precision yet, so its folder is one level higher than all others.
    depth = 2 if parts[0] == NETS else 3
    return "/".join(parts[:depth]) if parts[0] in KINDS and len(parts) > depth else ""


def evaluation_of(place: str) -> str:
    """Return the target of a place on one, with the label of other settings: ``host-cpu``, ``host-cpu@3fa9c2d1``."""
    return place.rpartition("/")[2].partition("@")[2]


def is_own(place: str) -> bool:
    """Whether what lies in a place was made under the recipe's own settings."""
    # A target is written with an @ too, so on a board only the second one begins a label.
    return place.count("@") < {ATTACKS: 1, BOARDS: 2}.get(kind_of(place), 3)


def subject_of(place: str) -> Subject:
    """Return the subject that a place on a target is of."""
    _, net, last = place.split("/")
    precision, target, *_ = last.split("@")
    return Subject(net, precision, target)
