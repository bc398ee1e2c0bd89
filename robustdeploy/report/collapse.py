"""What the training's sentinel had to do, as a diagnostic of the report."""

from __future__ import annotations

from collections.abc import Sequence

from robustdeploy.core.records import Collapse
from robustdeploy.core.report import Diagnostic


def collapse_diagnostics(events: Sequence[Collapse]) -> tuple[Diagnostic, ...]:
    """Return a warning when the training of the deployed net collapsed and went on from a healthy state."""
    if not events:
        return ()
    told = "; ".join(
        f"at step {event.step} {event.reason}, so it went back to step {event.back_to_step} and on with "
        f"{event.task_from_here}"
        for event in events
    )
    return (
        Diagnostic(
            id="training-collapse",
            level="warn",
            text=f"The training fell into catastrophic overfitting {len(events)} times and was brought back: {told}.",
            value=len(events),
            threshold=0,
        ),
    )
