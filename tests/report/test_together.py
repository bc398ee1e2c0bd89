"""What is told of several subjects in the same words stands once."""

from robustdeploy.core.gate import Verdict
from robustdeploy.report.formats.html import Html
from robustdeploy.report.steps import Step
from robustdeploy.report.together import FEW, steps_of, together, verdict_lines
from tests.report.formats.test_html import Page

A, B, C = "pruned/fp32@a", "pruned/fp32@b", "pruned/int8@b"


def test_lines_of_the_same_words_are_merged_and_others_are_not():
    lines = (f"{A}: few images", "no rule asks for latency", f"{B}: few images", f"{C}: no board")
    assert together(lines, (A, B, C)) == (f"{A}, {B}: few images", "no rule asks for latency", f"{C}: no board")
    many = [f"pruned/fp32@{name}" for name in "abcd"]
    assert together((f"{each}: few images" for each in many), many) == ("all 4 subjects on targets: few images",)
    # A colon alone makes no subject, and words that begin alike are other words.
    assert together(("note: x", "note: x", f"{A}: x"), (A,)) == ("note: x", f"{A}: x")


def test_outcomes_and_belief_are_told_by_word():
    verdict = Verdict(
        outcome="FAIL",
        subjects=[
            {"subject": A, "outcome": "FAIL"},
            {"subject": B, "outcome": "PASS"},
            {"subject": C, "outcome": "PASS"},
        ],
        robustness=[{"subject": each, "credibility": "CREDIBLE"} for each in (A, B)]
        + [
            {
                "subject": C,
                "credibility": "VOID",
                "doubts": [{"check": "constant-scores", "level": "VOID", "next": "look"}],
            }
        ],
    )
    told = verdict_lines(verdict, (A, B, C))
    assert told["outcomes"] == [("FAIL", A), ("PASS", f"{B}, {C}")]
    assert [word for word, _ in told["believed"]] == ["CREDIBLE", "VOID"]
    assert told["believed"][0][1].startswith(f"{A}, {B}: ")


def test_chains_share_their_steps_in_torch():
    dense, pruned, a, b = (Step(name, name, None, None) for name in ("dense", "pruned", "a", "b"))
    assert steps_of({A: (dense, pruned, a), B: (dense, pruned, b)}) == (dense, pruned, a, b)
    assert steps_of({}) == ()


def test_many_warnings_are_folded_so_that_the_figures_stay_in_sight(report):
    few, many = (
        report.model_copy(
            update={
                "verdict": report.verdict.model_copy(update={"warnings": tuple(f"w{i}. More of it" for i in range(n))})
            }
        )
        for n in (FEW, FEW + 1)
    )
    assert Html()(few).count("<summary>w") == FEW
    page = Page(Html()(many)).text
    assert f"{FEW + 1} warnings, of the checks" in page
    assert all(f"w{i}. More of it" in page for i in range(FEW + 1))
