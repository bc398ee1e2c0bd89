"""Outcomes: every test image, every adversarial image found for it, and what each model said to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.data.replay_set import Belonging
from robustdeploy.evaluate.parts import npz_from
from robustdeploy.onboard.types import Bytes, Labels, Scores

Kind = Literal["transfer", "query", "substitute", "straight-through", "divergence", "replay"]
"""How images were found: by gradients of a net in torch, by asking for scores, on a net that learnt from labels, by a
net's gradients at what the engine says, where the two differ, or by an earlier run.

All but the first and the last ask what is deployed."""
Bits = npt.NDArray[np.bool_]


def scores_told(scores: Scores, labels: Labels) -> Scores:
    """Return of each row of ``scores`` the highest one and that of the true class, N×2."""
    told: Scores = np.stack([scores.max(1), scores[np.arange(len(labels)), labels]], axis=1)
    return told


@dataclass(frozen=True)
class Substituted:
    """What is known of the net that an attack trained in place of the attacked one."""

    queries: int
    """Labels that it was told, over all of its training."""
    seed_images: int
    """Held-out images that it began with."""
    agreement: float
    """Share of the test images, as they are, that both label alike."""


@dataclass(frozen=True)
class AttackOutcome:
    """One attack's images and how each model labelled them."""

    label: str
    kind: Kind
    images: Bytes
    board: Labels
    """Predictions of what runs on the board."""
    host: Labels
    """Predictions of the net that was exported."""
    queries: Labels | None = None
    spent_ns: Labels | None = None
    """Time that the engine took for the first `MARKS` queries of each image, N×marks; −1 where it is not known."""
    moved: int = 0
    """Labels that the board did not give again in batches of another size."""
    restless: int = 0
    """Those of them that it did not give again in batches of the same size either."""
    substituted: Substituted | None = None
    ensemble: str = ""
    """Label of the ensemble that it is a part of."""
    ahead: AttackOutcome | None = None
    """What the part before it gave; of the first part the images as they are."""
    lost: Bits | None = None
    """Images that the attack had made wrong for the host before they were rounded to 8 bits; None if nobody looked."""
    by_chance: Bits | None = None
    """Images near which the two differ on random images, of as many as were asked for; of a divergence attack alone."""

    host_images: Bytes | None = None
    """What ``host`` are the labels of, where these are not ``images``: of several replays the worst one in torch."""
    belongs: Belonging | None = None
    """Which replays there are of the images."""
    scores: Scores | None = None
    """What the board gave its own answer and the true class, N×2; None where nobody kept it."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What of its rows' conditions is known only afterwards."""
        told = {} if self.substituted is None else dict(vars(self.substituted))
        if self.belongs is not None:
            told |= {"replays": len(self.belongs.rows), "left_out_of_other_images": self.belongs.of_others}
            told |= {"left_out_outside_the_box": self.belongs.outside}
        return told

    def right(self, where: str, labels: Labels) -> Bits:
        """Return one bit per image: right under it, and under the parts of its ensemble before it."""
        bits: Bits = (self.board if where == "board" else self.host) == labels
        return bits if self.ahead is None else bits & self.ahead.right(where, labels)


@dataclass(frozen=True)
class Outcomes:
    """The evidence behind every accuracy of a report."""

    ids: Labels
    """Position of each image in the data set's test order."""
    images: Bytes
    labels: Labels
    board_clean: Labels
    host_clean: Labels
    attacks: tuple[AttackOutcome, ...]
    moved: int = 0
    """Clean images to which the board did not give its label again in batches of another size."""
    restless: int = 0
    """Those of them to which it did not give it again in batches of the same size either."""
    batch: int = 1
    """Images that the board was given at a time when it was judged."""
    scores: Scores | None = None
    """As those of an attack, of the images as they are."""
    dense_clean: Labels | None = None
    dense_attacks: tuple[AttackOutcome, ...] = ()
    """Attacks on the dense net itself, on the host; ``board`` and ``host`` are both its own predictions."""

    def standing(self, predictions: Labels) -> Bits:
        """Return one bit per image: labelled right."""
        bits: Bits = predictions == self.labels
        return bits

    def robust(self, attack: AttackOutcome, where: str) -> Bits:
        """Return one bit per image: right as it is, and right under ``attack`` and what its ensemble tried before."""
        # Both must be right: an attack that happens to mend a wrong image must not raise the accuracy.
        return self.clean(where) & attack.right(where, self.labels)

    def before(self, attack: AttackOutcome, where: str) -> Bits:
        """Return one bit per image: it stood when ``attack`` set out."""
        return self.clean(where) if attack.ahead is None else self.robust(attack.ahead, where)

    def clean(self, where: str) -> Bits:
        """Return one bit per image: right as it is."""
        return self.standing(self.board_clean if where == "board" else self.host_clean)

    def worst(self, where: str) -> Bits:
        """Return one bit per image: right under every attack."""
        bits = [self.robust(attack, where) for attack in self.attacks]
        clean = self.clean(where)
        # Worst case per image, as Carlini et al. (2019) ask: the smallest of the accuracies would be above it.
        worst: Bits = np.logical_and.reduce([clean, *bits])
        return worst

    @property
    def dense_worst(self) -> Bits | None:
        """Return one bit per image: the dense net is right under every attack on it; None where there is none."""
        if self.dense_clean is None:
            return None
        bits = [attack.right("host", self.labels) for attack in self.dense_attacks]
        worst: Bits = np.logical_and.reduce([self.standing(self.dense_clean), *bits])
        return worst

    def save(self, path: Path, more: Mapping[str, npt.NDArray[Any]] = {}) -> None:
        """Write all of it to an npz file; per attack there are ``<attack>/images`` and ``<attack>/predictions``.

        ``more`` are arrays of other kinds of evidence, by names of their own.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": self.ids,
            "images": self.images,
            "labels": self.labels,
            "predictions": self.board_clean,
            "host/predictions": self.host_clean,
        }
        for attack in self.attacks:
            arrays[f"{attack.label}/images"] = attack.images
            arrays[f"{attack.label}/predictions"] = attack.board
            arrays[f"{attack.label}/host_predictions"] = attack.host
            if attack.host_images is not None:
                arrays[f"{attack.label}/host_images"] = attack.host_images
            if attack.queries is not None:
                arrays[f"{attack.label}/queries"] = attack.queries
        if self.dense_clean is not None:
            arrays["dense/predictions"] = self.dense_clean
        for attack in self.dense_attacks:
            arrays[f"dense/{attack.label}/images"] = attack.images
            arrays[f"dense/{attack.label}/predictions"] = attack.host
        atomic_write_bytes(path, npz_from({**arrays, **more}))
