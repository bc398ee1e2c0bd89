"""JUnit XML: one test case per rule, so that a CI system lists the gate among its tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from robustdeploy.core.gate import Outcome, Rule, RuleVerdict
from robustdeploy.core.report import Diagnostic, Report
from robustdeploy.foreign import printable, sentence


@dataclass(frozen=True)
class Junit:
    """The gate as test cases. Nothing is ever skipped: CI systems count a skipped test as green."""

    filename: str = "junit.xml"

    def __call__(self, report: Report) -> str:
        """Return the XML: FAIL is a failure, INCONCLUSIVE an error, and so is every diagnostic that blocks a rule."""
        suite = ElementTree.Element("testsuite", name=sentence(f"robustdeploy.{report.name}"))
        suite.set("timestamp", sentence(report.created.removesuffix("Z")))
        suite.append(_properties(report))
        metrics = {rule.id: rule.metric for rule in report.rules}
        for line in report.verdict.rules:
            suite.append(_rule_case(line, f"gate.{_classname(line.subject)}.{metrics.get(line.rule, 'rule')}"))
        for diagnostic in report.diagnostics:
            # As cases of their own: otherwise every rule is red and none says why.
            if diagnostic.level == "block" and _concerns(diagnostic, report.rules):
                suite.append(
                    _case(diagnostic.id, f"diagnostic.{_classname(diagnostic.subject)}", "error", diagnostic.text)
                )
        _account_for_verdict(suite, report)
        _count(suite)
        ElementTree.SubElement(suite, "system-out").text = printable("\n".join(_beside(report)))
        suites = ElementTree.Element("testsuites", {k: v for k, v in suite.attrib.items() if k != "timestamp"})
        suites.append(suite)
        ElementTree.indent(suites)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _concerns(diagnostic: Diagnostic, rules: Sequence[Rule]) -> bool:
    """Whether a check that blocks touches this gate: one that names metrics touches the rules on these alone."""
    return not diagnostic.metrics or any(rule.metric in diagnostic.metrics for rule in rules)


def _classname(subject: str | None) -> str:
    """Name a subject in a test's class, where CI systems take a dot for a package."""
    return (subject or "all").replace(".", "_")


def _case(name: str, group: str, result: str | None, text: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", name=sentence(name), classname=sentence(group), time="0")
    if result:
        kind = {"failure": "FAIL", "error": "INCONCLUSIVE"}[result]
        ElementTree.SubElement(case, result, message=sentence(text), type=kind).text = sentence(text)
    else:
        ElementTree.SubElement(case, "system-out").text = sentence(text)
    return case


def _rule_case(line: RuleVerdict, group: str) -> ElementTree.Element:
    result = {Outcome.PASS: None, Outcome.FAIL: "failure", Outcome.INCONCLUSIVE: "error"}[line.outcome]
    return _case(line.rule, group, result, line.text)


def _account_for_verdict(suite: ElementTree.Element, report: Report) -> None:
    """A verdict that no test case explains, such as a gate without rules, must not look green."""
    red = suite.findall("testcase/failure") + suite.findall("testcase/error")
    if report.verdict.outcome is not Outcome.PASS and not red:
        text = "; ".join(report.verdict.reasons) or f"the verdict is {report.verdict.outcome}"
        suite.append(_case("verdict", "gate", "error", text))


def _beside(report: Report) -> Iterator[str]:
    """What the verdict is never told without, for whoever reads the log of a green suite."""
    yield report.verdict.headline
    yield from (sentence(f"{each.credibility} robustness of {each.text}") for each in report.verdict.robustness)
    yield from (sentence(f"warning: {warning}") for warning in report.verdict.warnings)
    yield from (sentence(f"not checked: {unchecked}") for unchecked in report.verdict.unchecked)


def _properties(report: Report) -> ElementTree.Element:
    held = ElementTree.Element("properties")
    facts = {"verdict": report.verdict.outcome.value, "targets": ", ".join(report.targets), "producer": report.producer}
    if report.baseline:
        facts |= {"baseline.run": report.baseline.run, "baseline.sha256": report.baseline.sha256}
    facts |= {f"warning.{n}": text for n, text in enumerate(report.verdict.warnings, start=1)}
    facts |= {f"unchecked.{n}": text for n, text in enumerate(report.verdict.unchecked, start=1)}
    facts |= {f"verdict.{each.subject}": each.outcome.value for each in report.verdict.subjects}
    facts |= {f"robustness.{each.subject}": each.credibility.value for each in report.verdict.robustness}
    facts |= {f"sha256.{name}": digest for name, digest in report.sha256.items()}
    for each in report.deployed:
        facts |= {f"sha256.{each.subject}.{name}": digest for name, digest in each.sha256.items()}
    for name, value in facts.items():
        ElementTree.SubElement(held, "property", name=sentence(name), value=sentence(value))
    return held


def _count(suite: ElementTree.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")
    suite.set("time", "0")


plugin = Junit
