"""``robustdeploy table``: rows are ordinary runs, side by side, and one that fails is a line with its error."""

import json

import pytest

PLAN = """\
name: tiny
recipe: tiny.yaml
target: quick.yaml
set: [train.epochs=3]
budget: {ops: 0.4}
pretrain: {epochs: 2}
against: [in-train]
rows:
  - {name: in-train, prune: masks}
  - {name: tuned, prune: masks, after: pretrain, train: {epochs: 2}}
  - {name: nothing-left, prune: masks, budget: {ops: 0.001}}
"""


@pytest.fixture
def bench(tmp_path, chain):
    """A folder with a plan of the tiny recipe, and no run."""
    for name in ("tiny.yaml", "quick.yaml"):
        (tmp_path / name).write_bytes((chain / name).read_bytes())
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("table", "digits"), "unknown comparison 'digits'"),
        (("table", "tiny.yaml"), "tiny.yaml is a recipe, not a comparison"),
        (("table", "plan.yaml", "--only", "in-trian"), "there is no such row; did you mean 'in-train'?"),
        (("table", "plan.yaml", "--set", "train.epoch=1"), "train.epoch: unknown key"),
        (("table", "plan.yaml", "--jobs", "2", "--on", "ray://head:1"), "--jobs 2 is for runs made here"),
        (("table", "plan.yaml", "--on", "there"), "runs are made 'here', or on a Ray cluster"),
    ],
)
def test_a_mistake_is_told_before_the_first_run(bench, command, words, told):
    done = command(bench, *words)
    assert done.code == 2
    assert told in done.err
    assert not (bench / "runs").exists()


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("{name: a, prune: masks, after: b}", "{name: b, prune: masks}", "begins only with one that is above it"),
        ("{name: a, prune: masks}", "{name: b, prune: weights, after: a}", "row 'b' is after 'a', whose channels"),
        ("{name: a, prune: {name: one-shot, of: channels}}", "{name: b, prune: masks, after: a}", "removed by then"),
    ],
)
def test_a_row_that_cannot_begin_is_told_before_the_first_run(bench, command, first, second, told):
    plan = PLAN.partition("against:")[0] + f"rows: [{first}, {second}]\n"
    (bench / "plan.yaml").write_text(plan)
    done = command(bench, "table", "plan.yaml")
    assert done.code == 2
    assert told in done.err
    assert not (bench / "runs").exists()


@pytest.mark.slow
def test_rows_side_by_side_are_runs_and_what_is_not_alike_stands_apart(bench, command):
    root = bench / "runs/table-tiny"
    done = command(bench, "table", "plan.yaml", "--jobs", "2", "--json")
    assert done.code == 2, done.err
    found = done.document
    lines = {line["row"]: line for line in found["lines"]}
    assert list(lines) == ["in-train", "tuned"]
    ((failed, why),) = found["missing"].items()
    assert failed.startswith("nothing-left-")
    assert "out of reach" in why
    # Two epochs of its own and the two that it begins with are one more than the others have.
    assert lines["tuned"]["passes"] == pytest.approx(lines["in-train"]["passes"] * 4 / 3)
    assert lines["tuned"]["epochs"] == "pretrain 2 + 2"
    assert [row for row, line in lines.items() if not line["alike"]] == ["tuned"]
    assert "image passes" in lines["tuned"]["differs"][0]
    assert set(lines["tuned"]["against"]) == {"clean", "fgsm", "pgd-5", "square-30", "worst"}
    for line in lines.values():
        report = json.loads((root / line["run"] / "report.json").read_text())
        told = {(m["metric"], m["attack"]): m for m in report["measurements"] if m["subject"].endswith("@quick")}
        assert line["accuracy"]["worst"]["value"] == told["robust_accuracy", "worst"]["value"]
        assert line["macs"] <= 0.4 * line["dense_macs"]
    assert json.loads((root / "table.json").read_text()) == found

    # What is done is skipped, and what the plan no longer asks for is not told.
    before = {path: path.read_bytes() for path in root.glob("*/ledger.jsonl")}
    (bench / "plan.yaml").write_text(PLAN.rpartition("  - ")[0])
    done = command(bench, "table", "plan.yaml")
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in root.glob("*/ledger.jsonl")} == before
    assert "not alike" in done.out
    # A row is believed as far as its run bears it out.
    outcomes = next(root.glob("tuned-*/boards/*/*/outcomes.npz"))
    outcomes.write_bytes(outcomes.read_bytes()[:-1] + b"x")
    done = command(bench, "table", "plan.yaml", "--only", "in-train", "--json")
    assert [line["row"] for line in done.document["lines"]] == ["in-train"]
    assert "outcomes.npz was changed" in "".join(done.document["missing"].values())
