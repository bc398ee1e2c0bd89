"""Rules with stable ids, and the verdict they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robustdeploy.core.limit import BUDGET, Limit, LimitOrBudget, with_units
from robustdeploy.core.model import Noun


class Outcome(StrEnum):
    """PASS, FAIL, or INCONCLUSIVE, which never counts as a pass."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """Exit code of ``robustdeploy gate``: 0, 1 or 3."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.value]


class Rule(Noun):
    """One requirement on one row of the report, judged on the bound of its interval that is worse for us."""

    id: str = Field(pattern=r"^[A-Z][A-Z0-9]*(-[A-Z0-9]+)+$")
    """Stable identifier, e.g. ``RD-ROB-01``; requirements and tests refer to it."""
    metric: str
    """Metric of the row, e.g. ``robust_accuracy`` or ``latency_ms.p99``; ``robustdeploy ls metrics`` lists all."""
    attack: str | None = None
    """Attack label of the row, e.g. ``pgd-50-10``; ``worst`` is the worst case over all attacks."""
    class_name: Annotated[str, Field(coerce_numbers_to_str=True)] | None = None
    """Class of the row, for metrics that are measured class by class; unset: every class must meet the rule."""
    where: Literal["host", "board"] = "board"
    at_least: Limit | None = None
    at_most: LimitOrBudget | None = None
    """``budget`` is what the recipe's budget allows of this cost; a number, ``95 %`` and ``20 ms`` are accepted."""
    on: Literal["bound", "value"] = "bound"
    """``bound`` judges the interval's bound (lower for at_least, upper for at_most); ``value`` the estimate alone."""
    n_at_least: int = Field(default=0, ge=0)
    """Fewest samples that may support the row."""
    reason: str = ""
    """Why the rule exists, for whoever reads the verdict."""

    @model_validator(mode="before")
    @classmethod
    def _limits_in_units(cls, given: Any) -> Any:
        return with_units(given)

    @property
    def by_budget(self) -> bool:
        """Whether the limit is the budget's own."""
        return self.at_most == BUDGET

    @model_validator(mode="after")
    def _one_limit(self) -> Rule:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"rule {self.id} needs exactly one of at_least and at_most")
        return self


class Gate(Noun):
    """Rules that judge any report, whatever rules the report carries itself; a gate file holds one."""

    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rule_ids_differ(self) -> Gate:
        check_ids(self.rules)
        return self


def check_ids(rules: Sequence[Rule]) -> None:
    """Raise ValueError when two rules share an id."""
    ids = [rule.id for rule in rules]
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"two rules share the id {twice[0]}")


class RuleVerdict(Noun):
    """The outcome of one rule and the evidence behind it."""

    rule: str
    outcome: Outcome
    text: str
    """One sentence: what was required, what was measured, with n and interval."""


class Verdict(Noun):
    """The outcome of all rules together."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    """What made the evaluation itself unsound; non-empty only for INCONCLUSIVE."""
    rules: tuple[RuleVerdict, ...] = ()
    warnings: tuple[str, ...] = ()
    """What the checks of the evaluation found that a reader must weigh, though it decides nothing."""
    unchecked: tuple[str, ...] = ()
    """What the evaluation left out and what no rule asks for."""

    @property
    def headline(self) -> str:
        """The outcome, never without how many warnings stand beside it: ``PASS, with 2 warnings``."""
        warned, left_out = len(self.warnings), len(self.unchecked)
        told = f", with {warned} warning{'' if warned == 1 else 's'}" if warned else ""
        told += f"; {left_out} thing{' was' if left_out == 1 else 's were'} not checked" if left_out else ""
        return f"{self.outcome}{told}"
