"""``robustdeploy sweep``: ordinary runs in one folder, and a table and a picture made of their reports."""

import json
import re
import signal
import time

import pytest

WORDS = ("sweep", "tiny.yaml", "--target", "quick.yaml", "--set", "baseline=false", "--set", "train.epochs=3")
OVER = ("--over", "budget.ops=0.6,0.3", "--set", "gate.0.at_most=budget")


@pytest.fixture
def bench(tmp_path, chain):
    """A folder with the tiny recipe and its target, and no run."""
    for name in ("tiny.yaml", "quick.yaml"):
        (tmp_path / name).write_bytes((chain / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say what to go over"),
        (("--over", "budget.opps=0.5"), "budget.opps: unknown key"),
        (("--over", "budget.ops=0.3,2x"), "--set budget.ops=2x"),
        (("--over", "budget.ops=0.6"), "RD-OPS-01 can never hold"),
        (("--over", "train.device=cpu,cudda"), "train.device is 'cudda'"),
        (("--over", "seed=0", "--on", "ray://"), "runs are made 'here', or on a Ray cluster"),
        (("--over", "seed=0", "--precision", "int3"), "int3"),
    ],
)
def test_a_mistake_in_any_cell_is_told_before_the_first_run(bench, command, words, told):
    done = command(bench, *WORDS, *words)
    assert done.code == 2
    assert told in done.err
    assert not (bench / "runs").exists()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_its_results_are_those_of_the_reports(bench, command, spawn):
    root = bench / "runs/sweep-tiny"
    process, second = spawn(bench, *WORDS, *OVER), root / "ops0.3/nets/pruned/metrics.jsonl"
    ends = time.monotonic() + 120
    while not second.exists() and time.monotonic() < ends and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    # What is there can be looked at, and the run in work was stopped and not left behind.
    first = json.loads((root / "results.json").read_text())
    assert [row["run"] for row in first["rows"]] == ["ops0.6"]
    assert list(first["missing"]) == ["ops0.3"]
    assert not (root / "ops0.3/report.json").exists()
    assert not list(root.glob(".told-*"))
    before = (root / "ops0.6/ledger.jsonl").read_bytes()
    done = command(bench, *WORDS, *OVER, "--json")
    assert done.code == 0, done.err
    assert (root / "ops0.6/ledger.jsonl").read_bytes() == before
    found = done.document
    assert found["missing"] == {}
    for row, ops in zip(found["rows"], ("0.6", "0.3"), strict=True):
        assert row["settings"] == {"budget.ops": ops}
        report = json.loads((root / f"ops{ops}/report.json").read_text())
        told = {(m["metric"], m["attack"]): m for m in report["measurements"] if m["subject"] == row["subject"]}
        for name, key in {
            "worst": ("robust_accuracy", "worst"),
            "p50": ("latency_ms.p50", None),
            "ops": ("ops_fraction", None),
        }.items():
            assert row["figures"][name]["value"] == told[key]["value"]
    page = (root / "results.html").read_text()
    assert page.count("<svg") >= 2
    assert re.search(r'href="ops0\.3/report\.html"', page)
    # The cells are runs like any other.
    assert command(bench, "gate", str(root / "ops0.3")).code in (0, 1, 3)
    # What would make runs that cannot be compared is not mixed in.
    for changed, told in (("train.lr=0.1", "train.lr is 0.1, there 0.2"), ("evaluate.limit=50", "another base.yaml")):
        other = command(bench, *WORDS, *OVER, "--set", changed)
        assert other.code == 2
        assert told in other.err


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(bench, command):
    words = ("--over", "train.lr=1e30,0.2", "--set", "gate.0.at_most=budget", "--set", "train.sentinel=false")
    done = command(bench, *WORDS, *words, "--json")
    assert done.code == 3
    assert list(done.document["missing"]) == ["lr1e30"]
    assert [row["run"] for row in done.document["rows"]] == ["lr0.2"]
