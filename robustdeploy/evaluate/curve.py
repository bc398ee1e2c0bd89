"""The curve of robustness over eps: it must fall as eps grows, or the attack does not work."""

from __future__ import annotations

from typing import Any

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.interrupts import stop_if_interrupted
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.report import Measurement
from robustdeploy.devices.board import Board
from robustdeploy.evaluate.attack import Bench, Images
from robustdeploy.evaluate.box import project
from robustdeploy.evaluate.host import HostNet
from robustdeploy.evaluate.rows import share_row
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat


def curve_rows(bench: Bench, host: HostNet, board: Board, recipe: Recipe) -> tuple[Measurement, ...]:
    """Measure accuracy under PGD-10 at each multiple of the threat's eps, on the first images.

    The values are raw: a success at a smaller eps does not count at a larger one, so that a broken attack shows.
    """
    some = slice(0, recipe.evaluate.curve_limit)
    few = Images(bench.images.ids[some], bench.images.images[some], bench.images.labels[some])
    attack, rows = Pgd(steps=10), []
    for multiple in sorted(recipe.evaluate.eps_curve):
        eps = min(1.0, multiple * recipe.threat.eps)
        if (threat := Threat("linf", eps)).levels < 1:
            continue
        stop_if_interrupted()
        bench.progress(f"eps × {multiple:g}", 0, len(few.ids))

        def make(threat: Threat = threat, multiple: float = multiple) -> dict[str, Any]:
            found = host.attack(
                attack, few.images, few.labels, threat, key(bench.seed, "curve", str(multiple)), few.ids
            )
            found = project(few.images, found, threat)
            return {"board": board.score(found, bench.batch).argmax(1), "host": host.score(found).argmax(1)}

        part = bench.parts.get(f"curve-{multiple:g}", make)
        conditions = {"eps": eps, "multiple": multiple, "attack": "pgd", "steps": 10}
        for where in ("host", "board"):
            bits = part[where] == few.labels
            place: Any = where
            rows.append(
                share_row("robust_accuracy_at_eps", place, bits, conditions, attack=attack.label, kind="transfer")
            )
    return tuple(rows)
