from __future__ import annotations

from robustdeploy.core.records import Collapse
from robustdeploy.report.collapse import collapse_diagnostics

EVENT = {
    "event": "catastrophic overfitting",
    "step": 704,
    "back_to_step": 616,
    "reason": "FGSM leaves 61.0% of 512 held-out images right, PGD-10 only 0.4%",
    "task": "FastAt(alpha=0.06, clean=0.0)",
    "task_from_here": "NFgsm(noise=2.0, alpha=None, clean=0.0)",
}


def test_a_healthy_training_is_not_spoken_of():
    assert collapse_diagnostics(()) == ()


def test_a_collapse_is_a_warning_that_says_what_was_done():
    events = [Collapse(**each) for each in (EVENT, {**EVENT, "step": 900, "back_to_step": 880})]
    (found,) = collapse_diagnostics(events)
    assert (found.id, found.level, found.value, found.threshold) == ("training-collapse", "warn", 2, 0)
    for part in ("2 times", "step 704", "back to step 616", "NFgsm", "PGD-10 only 0.4%", "step 900"):
        assert part in found.text
