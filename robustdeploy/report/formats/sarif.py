"""SARIF 2.1.0: the gate's findings for code scanning and for whatever else reads the OASIS standard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robustdeploy.core.gate import Outcome
from robustdeploy.core.report import Report
from robustdeploy.foreign import json_text, sentence
from robustdeploy.report.findings import Finding, findings

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True)
class Sarif:
    """One run with a result for each rule that is missed or undecided; FAIL is an error, INCONCLUSIVE a warning."""

    filename: str = "robustdeploy.sarif"
    file: str = "recipe.yaml"
    """File of the repository that the findings are shown at; code scanning asks for one."""

    def __call__(self, report: Report) -> str:
        """Return the log; it names the verdict, the hashes and the baseline among the run's properties."""
        found = list(findings(report))
        reasons = {rule.id: rule.reason for rule in report.rules}
        ids = list(dict.fromkeys([*reasons, *(each.rule for each in found)]))
        rules = [_rule(each, reasons.get(each, "")) for each in ids]
        driver = {"name": "robustdeploy", "version": report.producer.rpartition(" ")[2], "rules": rules}
        properties: dict[str, Any] = {"run": report.name, "verdict": report.verdict.headline, "sha256": report.sha256}
        if report.baseline is not None:
            properties |= {"baseline": {"run": report.baseline.run, "sha256": report.baseline.sha256}}
        run = {
            "tool": {"driver": driver},
            # The tool worked; what it found is in the results.
            "invocations": [{"executionSuccessful": True}],
            "results": [self._result(each, ids.index(each.rule)) for each in found],
            "properties": properties,
        }
        return json_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"

    def _result(self, found: Finding, index: int) -> dict[str, Any]:
        place: dict[str, Any] = {
            "physicalLocation": {"artifactLocation": {"uri": self.file}, "region": {"startLine": 1}}
        }
        if found.subject:
            place["logicalLocations"] = [{"fullyQualifiedName": found.subject}]
        return {
            "ruleId": found.rule,
            "ruleIndex": index,
            "kind": "fail",
            "level": "error" if found.outcome is Outcome.FAIL else "warning",
            "message": {"text": f"{found.outcome} {found.text}"},
            "locations": [place],
            "partialFingerprints": {"robustdeploy/v1": found.fingerprint},
        }


def _rule(name: str, reason: str) -> dict[str, Any]:
    told = {"id": name, "shortDescription": {"text": f"Rule {name} of the gate"}}
    return told | ({"fullDescription": {"text": sentence(reason)}} if reason else {})


plugin = Sarif
