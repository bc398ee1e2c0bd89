"""What became of a limit on latency in the training, as a diagnostic of the report."""

from __future__ import annotations

from robustdeploy.core.records import LatencyBudgeted
from robustdeploy.core.report import Diagnostic


def latency_budget_diagnostics(found: LatencyBudgeted | None) -> tuple[Diagnostic, ...]:
    """Hold what the profile foretold against what the device measured before the masks froze; nothing without a limit.

    What the deployed net takes is told by `latency_fraction` and by rules, not here.
    """
    if found is None:
        return ()
    limit = f"budget.latency asks for at most {found.limit:.1%} of the dense net's time on {found.target}"
    if not found.trials:
        text = f"{limit}; the profile foretells {found.foretold:.1%}, and the device was not asked"
        return (Diagnostic(id="latency-budget", level="warn", text=text),)
    told = ", then ".join(f"{each.measured:.1%} measured of {each.foretold:.1%} foretold" for each in found.trials)
    least = min(each.measured for each in found.trials)
    missed = "" if least <= found.limit else "; no choice of channels that was measured meets it"
    return (
        Diagnostic(
            id="latency-budget",
            level="warn" if missed else "ok",
            text=f"{limit}: {told}, in turns with the dense net before the masks froze{missed}",
            value=least,
        ),
    )
