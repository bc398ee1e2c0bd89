import json

import pytest

from robustdeploy.core.files import atomic_write_text
from robustdeploy.errors import ArtifactError, RecipeError
from robustdeploy.report.load import load_report, load_rules


def test_a_report_survives_the_disk(report, tmp_path):
    path = tmp_path / "report.json"
    atomic_write_text(path, report.model_dump_json(indent=2))
    assert load_report(path) == report


def refusal(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArtifactError) as caught:
        load_report(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_a_report_cut_anywhere_is_refused(make_report, tmp_path):
    text = make_report().model_copy(update={"figures": {}}).model_dump_json(indent=1, warnings=False)
    for end in range(0, len(text), max(1, len(text) // 150)):
        refusal(tmp_path / "report.json", text[:end])
    assert "truncated" in refusal(tmp_path / "report.json", text[: len(text) // 2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["verdict"].update(outcome="PASS"), "edited"),
        (lambda d: d["measurements"][0].update(low=0.9, value=0.92, high=0.94), "edited"),
        (lambda d: d["rules"].pop(), "edited"),
        (lambda d: d["measurements"][0].update(value="high"), "measurements.0.value must be a number"),
        (lambda d: d["budget"].update(maccs=3), "budget.maccs unknown key"),
        (lambda d: d.pop("subjects"), "subjects is required and missing"),
        (lambda d: d.update(schema_version=3), "has schema_version 3"),
        (lambda d: d.pop("measurements"), "no report"),
    ],
)
def test_an_edited_report_is_refused_with_its_place(report, tmp_path, change, words):
    data = json.loads(report.model_dump_json())
    change(data)
    assert words in refusal(tmp_path / "report.json", json.dumps(data))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "truncated"),
        ("[]", "no report"),
        ('{"measurements": NaN}', "NaN"),
        ('{"name": 1, "name": 2}', "'name' stands twice"),
        ("[" * 100_000, "nests too deeply"),
        ('{"board": ' + "[" * 500 + "]" * 500 + "}", "nests too deeply"),
        ('{"measurements": [1e999]}', "1e999"),
        ('{"measurements": [' + "9" * 4000 + "]}", "4,000 digits"),
        (b"\xff\xfe\x00", "UTF-8"),
        ("# not json", "is not JSON at line 1"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, words):
    assert words in refusal(tmp_path / "report.json", content)


def test_a_missing_report_says_how_to_make_one(tmp_path):
    with pytest.raises(ArtifactError, match="no such file; put it back, or write it again"):
        load_report(tmp_path / "report.json")


def test_rules_are_read_from_a_gate_file(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text(
        "rules:\n"
        "  - {id: RD-ROB-01, metric: robust_accuracy, attack: worst, at_least: 45/100, n_at_least: 1000}\n"
        "  - {id: RD-LAT-01, metric: latency_ms.p99, at_most: 10}\n"
    )
    first, second = load_rules(path)
    assert (first.at_least, first.n_at_least, second.at_most) == (0.45, 1000, 10)


def test_all_problems_of_a_gate_file_come_at_once_with_their_lines(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text("rules:\n  - {id: RD-A-1, metric: m, at_leest: 1}\n  - {id: rd, metric: m, at_least: x}\n")
    with pytest.raises(RecipeError) as caught:
        load_rules(path)
    lines = str(caught.value).splitlines()
    assert any(f"{path}:2:" in line and "did you mean 'at_least'" in line for line in lines)
    assert any(f"{path}:3:" in line and "rules[1].id" in line for line in lines)
    assert any(f"{path}:3:" in line and "rules[1].at_least" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: []\n", "at least one rule"),
        ("gates: []\n", "unknown key"),
        (
            "rules:\n  - {id: A-1, metric: m, at_least: 1}\n  - {id: A-1, metric: m, at_least: 2}\n",
            "two rules share the id A-1",
        ),
        ("rules:\n  - {id: A-1, metric: m}\n", "exactly one of at_least, at_most and no_worse_than_baseline"),
    ],
)
def test_a_gate_file_that_could_pass_nothing_is_refused(tmp_path, text, words):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_rules(path)
