"""Findings: what of a verdict is not PASS, for formats that list what is wrong and leave out what is well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from robustdeploy.core.files import sha256_of_text
from robustdeploy.core.gate import Outcome
from robustdeploy.core.report import Report
from robustdeploy.foreign import sentence


@dataclass(frozen=True)
class Finding:
    """One thing that is missed or undecided."""

    rule: str
    """Id of the rule, or ``verdict`` for what stops the whole evaluation."""
    outcome: Outcome
    """FAIL or INCONCLUSIVE."""
    text: str
    subject: str = ""

    @property
    def fingerprint(self) -> str:
        """The same from one run to the next, so that a CI system knows the finding again."""
        return sha256_of_text(f"{self.rule}\n{self.subject}")


def findings(report: Report) -> Iterator[Finding]:
    """Yield what of the verdict is not PASS; a verdict that is not PASS has at least one."""
    red = [line for line in report.verdict.rules if line.outcome is not Outcome.PASS]
    for line in red:
        yield Finding(sentence(line.rule), line.outcome, sentence(line.text), line.subject or "")
    stops = "; ".join(report.verdict.reasons)
    # A verdict that no rule explains must not look green.
    if stops or (report.verdict.outcome is not Outcome.PASS and not red):
        text = stops or f"the verdict is {report.verdict.outcome}"
        yield Finding("verdict", report.verdict.outcome, sentence(text))
