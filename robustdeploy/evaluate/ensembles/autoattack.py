"""AutoAttack: APGD by cross-entropy and by targeted DLR, FAB, then Square on the board (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeploy.core.bounds import Count
from robustdeploy.core.recipe import Choice


@dataclass(frozen=True)
class AutoAttack:
    """The standard ensemble; its defaults are the published settings."""

    steps: Count = 100
    """Gradient steps of the first three parts, per start."""
    targets: Count = 9
    """Classes to be taken for, the likeliest first; a net of fewer classes has fewer."""
    queries: Count = 5000
    """Most queries of Square, per image."""

    @property
    def label(self) -> str:
        """``autoattack``; ``autoattack-20-t3-500`` where the settings are not the published ones."""
        return "autoattack" if self == AutoAttack() else f"autoattack-{self.steps}-t{self.targets}-{self.queries}"

    @property
    def parts(self) -> tuple[Choice, ...]:
        """The attacks, in order."""
        return (
            Choice(name="apgd", options={"steps": self.steps}),
            Choice(name="apgd", options={"steps": self.steps, "loss": "dlr", "targets": self.targets}),
            Choice(name="fab", options={"steps": self.steps, "targets": self.targets}),
            Choice(name="square", options={"queries": self.queries}),
        )


plugin = AutoAttack
