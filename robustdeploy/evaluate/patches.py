"""Patches: what a square that may look like anything does to each image, found in torch and replayed where nets run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustdeploy.attacks.patches.protocol import PatchAttack
from robustdeploy.core.archive import Arrays
from robustdeploy.core.patches import RANDOM, listed_patches
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.registry import PATCHES
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.devices.board import Board
from robustdeploy.devices.fleet import Fleet
from robustdeploy.engine.lineage import remedy
from robustdeploy.errors import ArtifactError
from robustdeploy.evaluate.attack import BLOCK, Bench, Images, gathered, shared
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.intervals import paired
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.evaluate.rows import kind_of_gradients, share_row
from robustdeploy.evaluate.workers import Job, in_turn
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Bytes, Labels, Pixels

_METRIC = "patch_accuracy"
_CHANCE = 0.01
"""Chance of a false alarm that noise breaks more than an attack does."""


@dataclass(frozen=True)
class PatchAsked:
    """One patch attack of a recipe, built, for images of one size."""

    label: str
    choice: Choice
    attack: PatchAttack
    side: int
    """Of its square, in pixels."""

    @property
    def conditions(self) -> dict[str, Any]:
        """How it was run."""
        return {"patch": self.choice.name, "side": self.side, **{n: plain(v) for n, v in vars(self.attack).items()}}


@dataclass(frozen=True)
class PatchFound:
    """What one patch attack found in torch, for all test images."""

    images: Bytes
    predictions: Labels
    """By the attacked net in torch."""
    places: Labels
    """N×2: top row and left column of each square."""


def patches_asked(recipe: Recipe, shape: tuple[int, ...]) -> tuple[PatchAsked, ...]:
    """Return the patch attacks of a recipe for images of shape C×H×W; one that does not fit is a UsageError."""
    asked = []
    for label, choice in listed_patches(recipe.evaluate.patches):
        attack: PatchAttack = PATCHES.build(choice.name, choice.options)
        asked.append(PatchAsked(label, choice, attack, attack.size.side(*shape[1:])))
    return tuple(asked)


def find_patches(
    bench: Bench, host: HostNet, recipe: Recipe, held_out: Callable[[], tuple[Bytes, Labels]]
) -> dict[str, PatchFound]:
    """Attack a net in torch by every patch attack of the recipe. Sealed parts of an interrupted call are used again.

    ``held_out`` gives validation images, which a patch for all images is learnt on.
    """
    share, found = bench.share or partial(in_turn, host), {}
    for asked in patches_asked(recipe, bench.images.images.shape[1:]):
        learnt = _learnt(bench, host, asked, held_out) if getattr(asked.attack, "LEARNS", False) else None

        def job(block: Images, number: int, asked: PatchAsked = asked, learnt: Pixels | None = learnt) -> Job:
            return partial(_patched, asked, block, key(bench.seed, asked.label), learnt)

        found[asked.label] = PatchFound(**gathered(bench, asked.label, job, share))
    return found


def _learnt(bench: Bench, host: HostNet, asked: PatchAsked, held_out: Callable[[], tuple[Bytes, Labels]]) -> Pixels:
    def make() -> dict[str, npt.NDArray[Any]]:
        bench.progress(f"{asked.label}, learning", 0, 1)
        images, labels = held_out()
        return {"patch": host.learnt(asked.attack, images, labels, asked.side, key(bench.seed, asked.label, "learn"))}

    return bench.parts.get(f"{asked.label}-learnt", make)["patch"]


def _patched(asked: PatchAsked, block: Images, noise_key: int, learnt: Pixels | None, host: HostNet) -> Arrays:
    proposed, places = host.patched(
        asked.attack, block.images, block.labels, asked.side, (noise_key, block.ids), learnt
    )
    found = confined(block.images, proposed, places, asked.side)
    return {"images": found, "predictions": CLASSIFICATION.predictions(host.score(found)), "places": places}


def confined(images: Bytes, proposed: Bytes, places: Labels, side: int) -> Bytes:
    """Return ``images`` with the square of each taken from ``proposed``; a place beyond the image is an ArtifactError.

    An attack is a plug-in, and is not trusted to leave the rest alone.
    """
    room = np.array(images.shape[2:]) - side
    if ((places < 0) | (places > room)).any():
        raise ArtifactError("a patch attack named a place outside of its image; it is at fault, so nothing is told")
    found = np.where(_squares(places, side, images.shape), proposed, images)
    if outside := beside_the_square(images, found, places, side):
        raise ArtifactError(f"{outside} images changed outside of their patch; the evaluation cannot be trusted")
    return found


def beside_the_square(images: Bytes, patched: Bytes, places: Labels, side: int) -> int:
    """Count images of which any pixel outside of the square differs, in whole grey levels."""
    changed = (images != patched) & ~_squares(places, side, images.shape)
    return int(changed.any((1, 2, 3)).sum())


def _squares(places: Labels, side: int, shape: tuple[int, ...]) -> Bits:
    """Return N×1×H×W bits: inside the square."""
    rows, columns = (np.arange(length) - places[:, axis, None] for axis, length in enumerate(shape[2:]))
    inside = [(lines >= 0) & (lines < side) for lines in (rows, columns)]
    bits: Bits = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    return bits


def patch_arrays(found: Mapping[str, PatchFound], prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    """Return what was found as arrays by name."""
    return {f"{prefix}{label}/{part}": array for label, each in found.items() for part, array in vars(each).items()}


def patch_shapes(asked: PatchAsked, images: Images) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the arrays that a patch attack leaves, by name with dtype and shape of one image."""
    its: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("uint8", images.images.shape[1:]),
        "predictions": ("int64", ()),
        "places": ("int64", (2,)),
    }
    return {f"{asked.label}/{part}": shape for part, shape in its.items()}


def patch_in(arrays: Arrays, asked: PatchAsked, images: Images, path: Path) -> PatchFound:
    """Take what was found out of ``arrays``; images that changed outside of their square are an ArtifactError."""
    found = PatchFound(*(arrays[f"{asked.label}/{part}"] for part in ("images", "predictions", "places")))
    if outside := beside_the_square(images.images, found.images, found.places, asked.side):
        told = f"{path}: {outside:,} images of '{asked.label}' differ outside of their patch"
        raise ArtifactError(f"{told}, so it was edited; {remedy(path)}")
    return found


def patches_on_boards(bench: Bench, fleet: Fleet, found: Mapping[str, PatchFound]) -> dict[str, Labels]:
    """Replay what was found on the boards; return how they label it, by the attack's label."""
    labelled = {}
    for label, each in found.items():

        def one(board: Board, block: Images, number: int, tell: Any, each: PatchFound = each) -> Arrays:
            images = each.images[number * BLOCK : (number + 1) * BLOCK]
            return {"board": CLASSIFICATION.predictions(board.score(images, bench.batch))}

        labelled[label] = shared(bench, fleet, label, one)["board"]
    return labelled


def patch_outcomes(
    found: Mapping[str, PatchFound], board: Mapping[str, Labels], dense: Mapping[str, PatchFound]
) -> dict[str, npt.NDArray[Any]]:
    """Return the evidence by its name in ``outcomes.npz``, where ``predictions`` are the board's."""
    arrays = {**patch_arrays(found), **patch_arrays(dense, "dense/")}
    for label, labels in board.items():
        arrays |= {f"{label}/predictions": labels, f"{label}/host_predictions": found[label].predictions}
    return arrays


@dataclass(frozen=True)
class UnderPatches:
    """How the nets of one evaluation label images with patches."""

    labels: Labels
    asked: tuple[PatchAsked, ...]
    batch: int
    clean: Mapping[Subject, Labels]
    """How each net labels the images as they are."""
    patched: Mapping[Subject, Mapping[str, Labels]]
    """And with each attack's patch."""

    def right(self, subject: Subject, label: str) -> Bits:
        """Return one bit per image: right as it is, and with the patch."""
        right: Bits = (self.clean[subject] == self.labels) & (self.patched[subject][label] == self.labels)
        return right

    def rows(self, subject: Subject, reference: Subject) -> Iterator[Measurement]:
        """Return the accuracy of each net under each patch attack."""
        for its in self.patched:
            gradients = kind_of_gradients(subject, reference) if its in (subject, reference) else "transfer"
            judged = {"judged_in_batches_of": self.batch} if its == subject else {}
            for asked in self.asked:
                kind = None if asked.choice.name == RANDOM else gradients
                told = {**asked.conditions, **judged}
                yield share_row(_METRIC, its, self.right(its, asked.label), told, attack=asked.label, kind=kind)

    def diagnostic(self, subject: Subject) -> Iterator[Diagnostic]:
        """Hold each attack against noise of its size: an attack that breaks less does not work."""
        noise = {each.side: each.label for each in self.asked if each.choice.name == RANDOM}
        worse, least, told = [], 1.0, []
        for asked in self.asked:
            if asked.choice.name == RANDOM or asked.side not in noise:
                continue
            change = paired(self.right(subject, noise[asked.side]), self.right(subject, asked.label))
            told.append(asked.label)
            if change.difference > 0:
                least = min(least, change.p)
                worse += [asked.label] if change.p < _CHANCE else []
        if not told:
            return
        level: Literal["ok", "block"] = "block" if worse else "ok"
        text = (
            f"noise in a square breaks more images than {', '.join(worse)} does: the attack does not work here"
            if worse
            else f"noise in a square of the same size breaks no more images than {', '.join(told)}"
        )
        yield Diagnostic(
            id="patch-beats-noise",
            level=level,
            text=text,
            value=least,
            threshold=0.01,
            metrics=(_METRIC,),
            flatters=True,
        )
