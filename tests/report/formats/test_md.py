import re

import pytest

from robustdeploy.core.report import Diagnostic, Figures
from robustdeploy.report.formats.md import Markdown, escaped
from robustdeploy.report.quantity import quantity


def cells(line):
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def tables(text):
    """Blocks of lines that start with a bar, each with its header, its rule and its rows."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def test_the_verdict_comes_first(report):
    text = Markdown()(report)
    assert text.startswith("# ⚠️ INCONCLUSIVE, with 1 warning: ")
    for line in report.verdict.rules:
        assert f"| {line.rule} |" in text.replace("\\", "")
        assert line.text in text.replace("\\", "")


def test_every_table_is_rectangular_and_every_value_present(report):
    text = Markdown()(report)
    found = tables(text)
    assert len(found) >= 8
    for table in found:
        assert len({len(cells(line)) for line in table}) == 1
    for row in report.measurements:
        shown = f"{row.value:,.0f}" if row.metric == "attack_queries" else quantity(row.value, row.unit)
        assert shown in text
    for digest in [*report.sha256.values(), *(d for each in report.deployed for d in each.sha256.values())]:
        assert digest in text
    assert "upper bound on true robustness" in text
    assert "contract-tested" in text.replace("\\", "")


@pytest.mark.parametrize("hostile", ["a|b", "<script>alert(1)</script>", "x\n# heading", "[l](javascript:1)", "`c`"])
def test_hostile_names_stay_text(make_report, hostile):
    text = Markdown()(make_report(diagnostics=(Diagnostic(id=hostile, level="warn", text=hostile),), name=hostile))
    assert "<script" not in text
    assert "\n# heading" not in text
    assert re.search(r"(?<!\\)\[l", text) is None
    for table in tables(text):
        assert len({len(cells(line)) for line in table}) == 1


def test_escaping_leaves_plain_words_alone():
    assert escaped("robust accuracy, 45.0 %: (n = 3)") == "robust accuracy, 45.0 %: (n = 3)"
    assert escaped("a\tb\n c") == "a b c"


def test_a_report_of_any_length_fits_a_step_summary(make_report):
    many = tuple(Diagnostic(id=f"check-{i}", level="ok", text="é" * 300) for i in range(4000))
    text = Markdown()(make_report(diagnostics=many, figures=Figures()))
    assert len(text.encode()) <= 1024 * 1024
    assert text.startswith("# ⚠️ INCONCLUSIVE")
    assert text.endswith("_Cut to fit; the whole is in report.json and report.html._\n")


def test_every_cost_stands_beside_the_dense_nets_with_its_limit(make_report, report):
    assert "| MACs | 12,088,320 | 40,550,000 | 29.8 % | 30.0 % |" in Markdown()(report)
    assert "Activation memory" not in Markdown()(report)  # a net that cannot be traced has no figure
    known = {"params_target": 0.31, "memory_target": 0.5, "memory_bytes": 98_304, "dense_memory_bytes": 196_608}
    text = Markdown()(make_report(budget=report.budget.model_copy(update=known)))
    assert "| Parameters | 81,234 | 269,722 | 30.1 % | 31.0 % |" in text
    assert "| Activation memory, bytes | 98,304 | 196,608 | 50.0 % | 50.0 % |" in text


def test_an_empty_report_is_still_a_summary(make_report):
    text = Markdown()(make_report((), (), (), figures=Figures(), board={}, data={}))
    assert "no rule was given" in text
