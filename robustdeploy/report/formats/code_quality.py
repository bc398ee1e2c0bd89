"""Code Quality: the gate's findings as GitLab's merge requests show them."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeploy.core.gate import Outcome
from robustdeploy.core.report import Report
from robustdeploy.foreign import json_text
from robustdeploy.report.findings import findings


@dataclass(frozen=True)
class CodeQuality:
    """A JSON list with one issue for each rule that is missed or undecided; an empty one where all is well."""

    filename: str = "gl-code-quality-report.json"
    file: str = "recipe.yaml"
    """File of the repository that the findings are shown at, without a leading ``./``."""

    def __call__(self, report: Report) -> str:
        """Return the list; FAIL is ``critical`` and INCONCLUSIVE ``major``."""
        issues = [
            {
                "description": f"{each.outcome} {each.rule}: {each.text}",
                "check_name": each.rule,
                "fingerprint": each.fingerprint,
                "severity": "critical" if each.outcome is Outcome.FAIL else "major",
                "location": {"path": self.file, "lines": {"begin": 1}},
            }
            for each in findings(report)
        ]
        return json_text(issues, indent=2) + "\n"


plugin = CodeQuality
