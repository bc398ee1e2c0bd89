"""The curve of robustness over eps: it must fall as eps grows, or the attack does not work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Measurement
from robustdeploy.core.subject import Subject
from robustdeploy.devices.board import Board
from robustdeploy.devices.fleet import Fleet
from robustdeploy.evaluate.attack import Bench, Found, Images, found_in, worse_of
from robustdeploy.evaluate.box import project
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.rows import kind_of_gradients, share_row
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Labels, Threat

ATTACK = Pgd(steps=10)


def radii(recipe: Recipe) -> Iterator[tuple[float, Threat]]:
    """Yield each multiple of the threat's eps with the ball it gives; one below a grey level is left out."""
    for multiple in sorted(recipe.evaluate.eps_curve):
        threat = recipe.attacked_within.scaled(multiple)
        # In 8 bits such a ball holds the image alone: no attack can do anything, and the curve would seem to begin
        # high.
        if threat.holds_more:
            yield multiple, threat


def first_images(images: Images, recipe: Recipe) -> Images:
    """Return the images that the curve is measured on."""
    some = slice(0, recipe.evaluate.curve_limit)
    return Images(images.ids[some], images.images[some], images.labels[some])


def curve_found(bench: Bench, host: HostNet, recipe: Recipe, before: Mapping[float, Found] = {}) -> dict[float, Found]:
    """Attack a net in torch by PGD-10 at each multiple of the threat's eps, on the first images.

    ``before`` is what was found on another precision of it, as for ``attack_host``.
    """
    few, found = first_images(bench.images, recipe), {}
    for multiple, threat in radii(recipe):
        stop_if_interrupted()
        bench.progress(f"eps × {multiple:g}", 0, len(few.ids))

        def make(multiple: float = multiple, threat: Threat = threat) -> dict[str, np.ndarray]:
            # Other noise at each radius, or the same unlucky starts would repeat along the curve.
            noise = key(bench.seed, "curve", str(multiple))
            images = project(few.images, host.attack(ATTACK, few.images, few.labels, threat, noise, few.ids), threat)
            if multiple in before:
                images = worse_of(host, images, before[multiple].images, few.labels)
            return {"images": images, "predictions": CLASSIFICATION.predictions(host.score(images))}

        found[multiple] = found_in(bench.parts.get(f"curve-{multiple:g}", make))
    return found


def curve_rows(
    bench: Bench, replayed: Mapping[float, Found], fleet: Fleet, recipe: Recipe, subjects: tuple[Subject, Subject]
) -> tuple[Measurement, ...]:
    """Replay what was found at each radius on the boards, and return both nets' accuracies: its and the reference's.

    The values are raw: a success at a smaller eps does not count at a larger one, so that a broken attack shows.
    """
    few, rows, (subject, reference) = first_images(bench.images, recipe), [], subjects
    kind = kind_of_gradients(subject, reference)
    steps = dict(radii(recipe))

    def replay(multiple: float, board: Board) -> Labels:
        stop_if_interrupted()
        with fleet.lock:
            bench.progress(f"eps × {multiple:g}", 0, len(few.ids))
        images = replayed[multiple].images

        def make() -> dict[str, np.ndarray]:
            return {"board": CLASSIFICATION.predictions(board.score(images, bench.batch))}

        return bench.parts.get(f"curve-{multiple:g}", make)["board"]

    on_board = fleet.share([partial(replay, multiple) for multiple in steps], lambda finished: None)
    for (multiple, threat), labels_there in zip(steps.items(), on_board, strict=True):
        conditions = {"eps": threat.eps, "multiple": multiple, "attack": "pgd", "steps": 10}
        for its, labels in ((reference, replayed[multiple].predictions), (subject, labels_there)):
            bits = labels == few.labels
            rows.append(share_row("robust_accuracy_at_eps", its, bits, conditions, attack=ATTACK.label, kind=kind))
    return tuple(rows)
