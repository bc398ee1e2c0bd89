from xml.etree import ElementTree

import pytest
from junitparser import Error, Failure, JUnitXml

from robustdeploy.core.gate import Rule
from robustdeploy.core.report import Diagnostic
from robustdeploy.report.formats.junit import Junit


def cases(report):
    suites = JUnitXml.fromstring(Junit()(report).encode())
    (suite,) = suites
    return suite, {case.name: case for case in suite}


def rule(name, limit):
    return Rule(id=name, metric="robust_accuracy", attack="worst", at_least=limit)


def test_one_case_per_rule_with_its_result_and_evidence(make_report):
    report = make_report((rule("RD-A-1", 0.4), rule("RD-B-1", 0.9), rule("RD-C-1", 0.5)), ())
    _, found = cases(report)
    assert list(found) == ["RD-A-1", "RD-B-1", "RD-C-1"]
    assert [type(r) for case in found.values() for r in case.result] == [Failure, Error]
    assert found["RD-A-1"].is_passed
    assert found["RD-B-1"].result[0].message == report.verdict.rules[1].text
    assert found["RD-C-1"].result[0].type == "INCONCLUSIVE"
    for element in ElementTree.fromstring(Junit()(report)).iter():
        if element.tag in ("testsuites", "testsuite"):
            counts = [element.get(name) for name in ("tests", "failures", "errors", "skipped")]
            assert counts == ["3", "1", "1", "0"]
    assert found["RD-A-1"].classname == "gate.pruned/fp32@jetson-orin.robust_accuracy"


def test_a_blocking_diagnostic_is_an_error_of_its_own(make_report):
    blocks = Diagnostic(id="throttled", level="block", text="the clocks fell")
    warns = Diagnostic(id="warm", level="warn", text="it is warm")
    suite, found = cases(make_report((rule("RD-A-1", 0.4),), (blocks, warns)))
    assert list(found) == ["RD-A-1", "throttled"]
    assert found["RD-A-1"].is_passed
    assert isinstance(found["throttled"].result[0], Error)
    assert suite.errors == 1


def test_a_gate_without_rules_is_not_green(make_report):
    suite, found = cases(make_report((), ()))
    assert isinstance(found["verdict"].result[0], Error)
    assert (suite.tests, suite.errors) == (1, 1)


@pytest.mark.parametrize("hostile", ["<script>&\"'", "a\x00b\x1b[31m", "\ud800", "]]>", "日本"])
def test_any_text_makes_valid_xml(make_report, hostile):
    report = make_report((rule("RD-A-1", 0.4),), ())
    odd = Diagnostic.model_construct(id=hostile, level="block", text=hostile, value=None, threshold=None)
    changed = report.model_copy(update={"diagnostics": (odd,), "name": hostile, "sha256": {hostile: hostile}})
    text = Junit()(changed)
    text.encode()
    assert len(cases(changed)[1]) == 2


def test_properties_name_what_was_judged(report):
    suite, _ = cases(report)
    held = {prop.name: prop.value for prop in suite.properties()}
    assert held["verdict"] == "INCONCLUSIVE"
    assert held["verdict.pruned/fp32@jetson-orin"] == "INCONCLUSIVE"
    assert held["sha256.net"] == report.sha256["net"]
    (evidence,) = (each for each in report.subjects if each.subject == "pruned/fp32@jetson-orin")
    onnx = evidence.sha256["onnx"]
    assert held["sha256.pruned/fp32@jetson-orin.onnx"] == onnx
