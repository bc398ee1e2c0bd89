"""Warnings and omissions stand beside the verdict wherever the verdict is told."""

import json
import re
from xml.etree import ElementTree

import pytest

from robustdeploy.cli.result import verdict_document, verdict_lines
from robustdeploy.core.gate import Rule
from robustdeploy.core.report import Diagnostic, Omission
from robustdeploy.report.formats.html import Html
from robustdeploy.report.formats.junit import Junit
from robustdeploy.report.formats.md import Markdown

PASSES = Rule(id="RD-A-1", metric="robust_accuracy", attack="worst", at_least=0.4)
WARNINGS = (
    Diagnostic(id="latency-valid", level="warn", text="latency varied by 84.0 % over the window"),
    Diagnostic(id="lost-gradient", level="warn", text="the loss has no gradient at 12 of 256 images"),
)
OMISSIONS = (Omission(id="eps-curve", text="robustness over eps was not measured"),)
HEADLINE = "PASS, with 2 warnings; 3 things were not checked"  # two of them because no rule asks


@pytest.fixture(name="report")
def _report(make_report):
    return make_report((PASSES,), WARNINGS, omissions=OMISSIONS)


def everything(report):
    return [*report.verdict.warnings, *report.verdict.unchecked]


def test_in_the_terminal(report):
    lines = verdict_lines(report.verdict)
    assert lines[0] == HEADLINE
    assert [line.split(maxsplit=1)[0] for line in lines[1:]] == [
        "CREDIBLE",
        "PASS",
        "warning",
        "warning",
        "not",
        "not",
        "not",
    ]
    assert all(any(text in line for line in lines) for text in everything(report))


def test_in_json(report):
    document = json.loads(json.dumps(verdict_document(report.verdict)))
    assert document["outcome"] == "PASS"
    assert document["warnings"] == [warning.text for warning in WARNINGS]
    assert document["unchecked"][0] == OMISSIONS[0].text
    assert report.model_dump(mode="json")["verdict"] == document


def test_in_the_box_of_the_page(report):
    page = Html()(report)
    box = page.partition('<div class="verdict')[2].partition('<ul class="plain tiles"')[0]
    assert f"{HEADLINE}</h2>" in box
    assert page.partition("<title>")[2].startswith(HEADLINE)
    assert [len(re.findall(word, box)) for word in ("Warning</span>", "Not checked</span>")] == [2, 3]
    assert all(text in box for text in everything(report))


def test_in_markdown_above_everything_else(report):
    text = Markdown()(report).replace("\\", "")
    assert text.startswith(f"# ✅ {HEADLINE}: ")
    assert all(told in text.partition("## ")[0] for told in everything(report))


def test_in_junit_where_a_green_suite_shows_it(report):
    suite = ElementTree.fromstring(Junit()(report)).find("testsuite")
    told = suite.find("system-out").text.splitlines()
    assert told[0] == HEADLINE
    assert told[1].startswith("CREDIBLE robustness of pruned/fp32@jetson-orin: ")
    assert told[2:4] == [f"warning: {warning.text}" for warning in WARNINGS]
    assert told[4] == f"not checked: {OMISSIONS[0].text}"
    held = {each.get("name"): each.get("value") for each in suite.find("properties")}
    assert (held["verdict"], held["warning.2"], held["unchecked.1"]) == ("PASS", WARNINGS[1].text, OMISSIONS[0].text)


def test_a_clean_pass_says_nothing_more(make_report):
    rules = (
        PASSES,
        Rule(id="RD-A-2", metric="clean_accuracy", at_least=0.5),
        Rule(id="RD-A-3", metric="latency_ms.p99", at_most=10),
    )
    report = make_report(rules, ())
    assert report.verdict.headline == "PASS"
    page = Html()(report)
    assert "Not checked" not in page
    assert "Warning</span>" not in page
