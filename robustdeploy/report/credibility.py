"""Credibility: may a subject's robust accuracies be believed? CREDIBLE, SUSPECT or VOID, from the report alone.

A check that blocks shows that an accuracy says nothing (VOID); one that warns, or that could not be made, leaves it
open (SUSPECT). Checks of anything else, such as latency, have no say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from robustdeploy.core.gate import Credibility, Doubt, SubjectCredibility
from robustdeploy.core.report import Diagnostic, Measurement
from robustdeploy.core.subject import subject_from

NEAR_CHANCE = 0.02
"""Above the share of the largest class: as low as this, a robust accuracy claims nothing."""


@dataclass(frozen=True)
class _Meaning:
    """What a check says of robust accuracies: where it blocks, and whether a warning of it matters."""

    next: str
    blocks: Credibility = Credibility.VOID
    warns: bool = False


_WEAK, _VOID = Credibility.SUSPECT, Credibility.VOID
_MEANINGS = {
    "repeatable": _Meaning("change the layer that the check names, or turn off what picks kernels at run time"),
    "challenge-images": _Meaning("find out what answers on the board: it is not the engine that was sent"),
    "golden-scores": _Meaning("compare the toolchain's options, or evaluate with a backend that computes the net"),
    "inside-box": _Meaning("report it with outcomes.npz; an attack or its projection is at fault"),
    "host-board-agreement": _Meaning("compare precision and preprocessing of board and host"),
    "zero-gradient": _Meaning(
        "remove the rounding or the cut that stops the gradient, or attack around it", warns=True
    ),
    "lost-gradient": _Meaning("remove the scale behind the last layer, or attack the margin instead", warns=True),
    "finite-gradient": _Meaning(
        "find the operation whose derivative is not finite, such as a root or a log at 0", warns=True
    ),
    "faithful-gradient": _Meaning(
        "remove the custom backward pass or the staircase that bends the gradient", warns=True
    ),
    "loss-rises": _Meaning("follow the loss along one image's steps to the layer that bends its gradient", warns=True),
    "scores-respond": _Meaning(
        "export the logits without rounding or softmax behind them, or add an attack by labels alone (rays)"
    ),
    "raw-scores": _Meaning("export the net without its softmax", warns=True),
    "query-beats-transfer": _Meaning(
        "give gradient attacks more steps and restarts; else find what hides the gradient"
    ),
    "falls-with-eps": _Meaning(
        "let the curve reach four times eps; if it still does not fall, find what hides the gradient"
    ),
    "one-class": _Meaning("hold the net to balanced accuracy or to each class"),
    "stored-images": _Meaning("train a net that has not seen the test images"),
    "train-test-overlap": _Meaning("remove the copies from the training set, or take another test set"),
    "suspicious-gain": _Meaning(
        "attack what runs on the board by queries, and compare precision and preprocessing", _WEAK
    ),
    "twin-fidelity": _Meaning("deploy in fp32, or ask for the operator that the check names", _WEAK),
    "least-strength": _Meaning("add what the check names to `evaluate`", _WEAK),
    "iterative-beats-single-step": _Meaning("more steps, a smaller step, more restarts", _WEAK),
    "attack-ladder": _Meaning(
        "more restarts and other losses, until the stronger attack breaks what the weaker did", warns=True
    ),
    "interior-points": _Meaning("add an attack of many small steps, and do not judge by FGSM", warns=True),
    "lost-to-rounding": _Meaning("let the attack round to whole grey levels before it judges an image", warns=True),
}
"""Checks that have a say, by id; all of them together are the sanity ladder."""


def credibility_of(
    subject: str, rows: Sequence[Measurement], diagnostics: Sequence[Diagnostic]
) -> SubjectCredibility | None:
    """Return how far the robust accuracies of one subject can be believed; None where it has none.

    Weak or blinded attacks can only flatter. So where the worst case is near chance, what flatters speaks against
    nothing: a net without robustness hides none.
    """
    here = [row for row in rows if row.subject == subject]
    worst = next((row for row in here if row.metric == "robust_accuracy" and row.attack == "worst"), None)
    if worst is None:
        return None
    found = [(each, doubt) for each in diagnostics if (doubt := doubt_of(each, subject))]
    against = [each for each, _ in found if not (each.flatters and _hides_nothing(worst, here))]
    doubts = tuple(sorted((doubt for _, doubt in found), key=lambda each: each.level is not _VOID))
    level = max((doubt.level for each, doubt in found if each in against), key=(_WEAK, _VOID).index, default=None)
    return SubjectCredibility(subject=subject, credibility=level or Credibility.CREDIBLE, doubts=doubts)


def credibilities(
    subjects: Sequence[str], rows: Sequence[Measurement], diagnostics: Sequence[Diagnostic]
) -> Iterator[SubjectCredibility]:
    """Yield that of each subject on a target."""
    for each in subjects:
        if subject_from(each).deployed and (found := credibility_of(each, rows, diagnostics)):
            yield found


def doubt_of(diagnostic: Diagnostic, subject: str) -> Doubt | None:
    """Return what a check says against the robust accuracies of a subject; None where that is nothing."""
    meaning = _MEANINGS.get(diagnostic.id)
    if meaning is None or diagnostic.level == "ok" or diagnostic.subject not in (None, subject):
        return None
    # A check that could not be made shows nothing, neither for the net nor against it.
    unmade = diagnostic.value is None
    if diagnostic.level == "warn":
        return None if unmade or not meaning.warns else Doubt(check=diagnostic.id, level=_WEAK, next=meaning.next)
    return Doubt(check=diagnostic.id, level=_WEAK if unmade else meaning.blocks, next=meaning.next)


def _hides_nothing(worst: Measurement, rows: Sequence[Measurement]) -> bool:
    """Whether the worst case is shown to be no better than about a constant answer."""
    chance = next((row.value for row in rows if row.metric == "majority_baseline"), None)
    return chance is not None and worst.high is not None and worst.high <= chance + NEAR_CHANCE
