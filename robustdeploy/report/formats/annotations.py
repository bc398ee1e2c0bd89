"""Annotations: workflow commands, one per rule that is missed or undecided, which GitHub shows beside the job."""

from __future__ import annotations

from dataclasses import dataclass

from robustdeploy.core.gate import Outcome
from robustdeploy.core.report import Report
from robustdeploy.foreign import sentence
from robustdeploy.report.findings import findings


@dataclass(frozen=True)
class Annotations:
    """Lines for a job to print: ``cat annotations.txt``."""

    filename: str = "annotations.txt"

    def __call__(self, report: Report) -> str:
        """Return one line per finding, and a last one with the verdict where all is well."""
        lines = [
            f"::{'error' if each.outcome is Outcome.FAIL else 'warning'} "
            f"title={_property(f'{each.outcome} {each.rule}')}::{_data(each.text)}"
            for each in findings(report)
        ]
        passed = f"::notice title=robustdeploy::{_data(sentence(f'{report.verdict.headline}: {report.title}'))}"
        return "\n".join(lines or [passed]) + "\n"


def _data(text: str) -> str:
    # As GitHub's own toolkit escapes them; a bare line end would begin another command.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


plugin = Annotations
