"""Regressions: how often a gate against a baseline finds a planted loss, and how often it alarms at none.

    python benchmarks/regressions.py

Two evaluations of the same images are drawn again and again. An image is right for both, wrong for both, lost or
gained, by chances that differ by the planted loss. What is drawn goes the gate's whole way: from outcomes.npz to the
verdict.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustdeploy.core.gate import Outcome, Rule, Verdict
from robustdeploy.core.recipe import Threat
from robustdeploy.core.report import BudgetLine, Report, SubjectEvidence
from robustdeploy.core.subject import Subject
from robustdeploy.evaluate.rows import share_row
from robustdeploy.report.against import held_against
from robustdeploy.report.judge import judged_by
from robustdeploy.report.sides import Side

Bits = npt.NDArray[np.bool_]
SUBJECT = Subject("pruned", "fp32", "board")
ATTACK = "pgd-50-10"
RIGHT = 0.5
"""Share of the images that both are right on, before those that flip are taken out."""


def main(words: Sequence[str] | None = None) -> int:
    """Draw all cases and print how many ended in FAIL, PASS and INCONCLUSIVE."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--loss", type=float, default=0.02, help="planted, as a share")
    parser.add_argument(
        "--flips", type=float, nargs="+", default=[0.03, 0.05, 0.1, 0.2], help="share of images, both ways"
    )
    parser.add_argument("--margins", nargs="+", default=["0 pp", "1 pp"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    if any(not options.loss <= flips <= RIGHT for flips in options.flips):
        print(f"error: --flips must be between the loss, {options.loss:g}, and {RIGHT:g}", file=sys.stderr)
        return 2
    rows = [
        {
            "flips": flips,
            "loss": loss,
            **counted(options.images, options.cases, loss, flips, options.margins, options.seed),
        }
        for flips in options.flips
        for loss in (options.loss, 0.0)
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{options.cases} cases each, {options.images:,} shared images; FAIL / INCONCLUSIVE / PASS")
    print("flip   lost  gained  " + "  ".join(f"margin {margin:>6}" for margin in options.margins))
    for row in rows:
        lost, gained = (round(options.images * (row["flips"] + sign * row["loss"]) / 2) for sign in (1, -1))
        told = "  ".join("{:>4} /{:>4} /{:>4}".format(*row["outcomes"][margin]) for margin in options.margins)
        print(f"{row['flips']:5.1%} {lost:>5} {gained:>7}  {told}")
    return 0


def counted(images: int, cases: int, loss: float, flips: float, margins: Sequence[str], seed: int) -> dict[str, Any]:
    """Return for each margin how many of the cases ended in FAIL, INCONCLUSIVE and PASS."""
    rules = [
        Rule(id=f"RG-ROB-{n}", metric="robust_accuracy", attack="worst", no_worse_than_baseline=margin)
        for n, margin in enumerate(margins)
    ]
    rng = np.random.default_rng([seed, round(1e6 * loss), round(1e6 * flips)])
    seen = {margin: Counter[Outcome]() for margin in margins}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(cases):
            before, after = drawn(rng, images, loss, flips)
            sides = [side(Path(folder) / name, name, bits) for name, bits in (("before", before), ("after", after))]
            baseline = held_against(sides[1], sides[0], rules)
            verdict = judged_by(sides[1].report.model_copy(update={"baseline": baseline}), rules).verdict
            for margin, line in zip(margins, verdict.rules, strict=True):
                seen[margin][line.outcome] += 1
    order = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
    return {"outcomes": {margin: [found[each] for each in order] for margin, found in seen.items()}}


def drawn(rng: np.random.Generator, images: int, loss: float, flips: float) -> tuple[Bits, Bits]:
    """Return which images are right before and after: a share of ``flips`` changes, ``loss`` more lost than gained."""
    chance = rng.random(images)
    lost, gained = (flips + loss) / 2, (flips - loss) / 2
    both = chance < RIGHT - lost
    is_lost = (chance >= RIGHT - lost) & (chance < RIGHT)
    is_gained = (chance >= RIGHT) & (chance < RIGHT + gained)
    return both | is_lost, both | is_gained


def side(root: Path, name: str, robust: Bits) -> Side:
    """Write the outcomes of one evaluation, in which every image is right as it is, and return its report."""
    labels, wrong = np.zeros(len(robust), np.int64), (~robust).astype(np.int64)
    place = f"boards/{SUBJECT.net}/{SUBJECT.precision}@{SUBJECT.place}"
    (root / place).mkdir(parents=True, exist_ok=True)
    np.savez(
        root / place / "outcomes.npz",
        ids=np.arange(len(robust)),
        images=np.zeros((len(robust), 1, 1, 1), np.uint8),
        labels=labels,
        predictions=labels,
        **{f"{ATTACK}/predictions": wrong},
    )
    rows = (
        share_row("clean_accuracy", SUBJECT, labels == 0),
        share_row("robust_accuracy", SUBJECT, robust, {"steps": 50}, attack=ATTACK, kind="transfer"),
        share_row("robust_accuracy", SUBJECT, robust, {"attacks": [ATTACK]}, attack="worst", kind="worst"),
    )
    report = Report(
        name=name,
        subjects=(SubjectEvidence(subject=str(SUBJECT), evaluation=place),),
        created="2026-01-01T00:00:00Z",
        producer="planted",
        data={"name": "planted", "classes": ["0", "1"]},
        threat=Threat(),
        budget=BudgetLine(ops_target=1, dense_macs=1, macs=1, params=1, dense_params=1),
        measurements=rows,
        verdict=Verdict(outcome=Outcome.PASS),
    )
    return Side(report, root=root, sha256="0" * 64)


if __name__ == "__main__":
    sys.exit(main())
