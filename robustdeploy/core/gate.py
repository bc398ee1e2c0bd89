"""Rules with stable ids, and the verdict they lead to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robustdeploy.core.limit import BUDGET, Limit, LimitOrBudget, with_units
from robustdeploy.core.margin import Margin
from robustdeploy.core.model import Noun
from robustdeploy.core.subject import SubjectName, SubjectPattern


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
    subject: SubjectPattern | None = None
    """Subjects it speaks of, as ``net/precision@place`` with ``*`` for any, e.g. ``dense/fp32@torch``. Unset: the run's
    own net (``pruned/*@*`` where it was pruned), on every target and in every precision."""
    at_least: Limit | None = None
    at_most: LimitOrBudget | None = None
    """``budget`` is what the recipe's budget allows of this cost; a number, ``95 %`` and ``20 ms`` are accepted."""
    no_worse_than_baseline: Margin | None = None
    """How much worse than an earlier run's it may be: ``1 pp`` of a share, ``5 %`` of a time or a count, ``0``."""
    on: Literal["bound", "value"] = "bound"
    """``bound`` judges the interval's bound (lower for at_least, upper for at_most); ``value`` the estimate alone."""
    n_at_least: int = Field(default=0, ge=0)
    """Fewest samples that may support the row."""
    reason: str = ""
    """Why the rule exists, for whoever reads the verdict."""

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        return with_units(_in_subjects(given))

    @property
    def by_budget(self) -> bool:
        """Whether the limit is the budget's own."""
        return self.at_most == BUDGET

    @model_validator(mode="after")
    def _one_limit(self) -> Rule:
        limits = (self.at_least, self.at_most, self.no_worse_than_baseline)
        if sum(limit is not None for limit in limits) != 1:
            raise ValueError(f"rule {self.id} needs exactly one of at_least, at_most and no_worse_than_baseline")
        return self


def _in_subjects(given: Any) -> Any:
    """Return a rule of the first schema, which said ``where`` and had ``dense_`` metrics, in the words of this one."""
    # Gate files of users outlive a schema; this one had no subjects.
    if not isinstance(given, Mapping) or given.get("where") not in ("host", "board"):
        return given
    rule = {name: value for name, value in given.items() if name != "where"}
    if given["where"] == "host":
        net = "dense" if str(rule.get("metric")).startswith("dense_") else "pruned"
        rule |= {"metric": str(rule.get("metric")).removeprefix("dense_"), "subject": f"{net}/fp32@torch"}
    return rule


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
    """The outcome of one rule for one subject, and the evidence behind it."""

    rule: str
    subject: SubjectName | None = None
    """None where the rule selects no subject of the report."""
    outcome: Outcome
    text: str
    """One sentence: what was required, what was measured, with n and interval."""


class SubjectVerdict(Noun):
    """The outcome of all rules on one subject."""

    subject: SubjectName
    outcome: Outcome


class Credibility(StrEnum):
    """How far what was found of a subject's robustness can be believed."""

    CREDIBLE = "CREDIBLE"
    """No check of the evaluation speaks against it."""
    SUSPECT = "SUSPECT"
    """The attacks may have been too weak, or nobody looked."""
    VOID = "VOID"
    """The evaluation says nothing of its robustness."""


class Doubt(Noun):
    """What a check of the evaluation found against a subject's robust accuracies."""

    check: str
    """Id of the diagnostic, which tells in its text what was found."""
    level: Credibility
    next: str
    """One sentence: what to try next."""


class SubjectCredibility(Noun):
    """How far a subject's robust accuracies can be believed, and why not further."""

    subject: SubjectName
    credibility: Credibility
    doubts: tuple[Doubt, ...] = ()
    """What speaks against them, the worst first; of a CREDIBLE one, what was found and does not matter."""

    @property
    def text(self) -> str:
        """One line: ``pruned/fp32@host-cpu: zero-gradient (VOID): look for …``."""
        if self.credibility is Credibility.CREDIBLE:
            beside = ", ".join(each.check for each in self.doubts)
            why = f"so little of it is left that {beside} cannot flatter it" if beside else "no check speaks against it"
            return f"{self.subject}: {why}"
        return f"{self.subject}: " + "; ".join(f"{each.check} ({each.level}): {each.next}" for each in self.doubts)


class Verdict(Noun):
    """The outcome of all rules together: that of the subject for which it is worst."""

    outcome: Outcome
    subjects: tuple[SubjectVerdict, ...] = ()
    """One outcome for each subject that a rule speaks of."""
    robustness: tuple[SubjectCredibility, ...] = ()
    """How far the robust accuracies of each subject on a target can be believed."""
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
        # Counted in the headline itself, since it is what people copy.
        told += f"; {left_out} thing{' was' if left_out == 1 else 's were'} not checked" if left_out else ""
        return f"{self.outcome}{told}"
