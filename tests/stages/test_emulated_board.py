"""A net on an emulated Arm board, all the way: engines of two toolchains, attacks, the report, and no latency."""

import json
import shutil

import numpy as np
import pytest

TVM = """
name: emulated-tvm
extends: {board}/target.yaml
backend: {{name: tvm, version: ">=0.27,<0.28", options: {{triple: aarch64-linux-gnu, cpu: cortex-a76}}}}
build_on: host
"""
RULES = "rules:\n  - {id: RD-LAT-01, metric: latency_ms.p50, at_most: 1000}\n"
ORT, COMPILED, HOST = (f"pruned/fp32@{name}" for name in ("aarch64-emulated", "emulated-tvm", "quick"))


@pytest.fixture(scope="module")
def evaluated(chain, command, emulated_board, tmp_path_factory):
    """A copy of the chain's run, measured on the emulated board too, and the subjects that are measured there."""
    folder = tmp_path_factory.mktemp("arm") / "desk"
    shutil.copytree(chain, folder, symlinks=True)
    goals, subjects = ["--target", "quick.yaml", "--target", emulated_board / "target.yaml"], [ORT]
    try:
        import tvm  # noqa: F401

        compiles = shutil.which("aarch64-linux-gnu-gcc") is not None
    except ImportError:
        compiles = False
    if compiles:
        (folder / "tvm.yaml").write_text(TVM.format(board=emulated_board))
        goals, subjects = [*goals, "--target", "tvm.yaml"], [*subjects, COMPILED]
    done = command(folder, "run", "tiny.yaml", "--name", "tiny", *goals, "--json")
    assert done.code == 0, done.err
    return folder, subjects, done


def rows_of(folder, subject):
    rows = json.loads((folder / "runs/tiny/report.json").read_text())["measurements"]
    return [row for row in rows if row["subject"] == subject]


@pytest.mark.slow
def test_the_engines_of_the_board_answer_as_the_net_does(evaluated):
    folder, subjects, _ = evaluated
    for subject in subjects:
        place = folder / "runs/tiny/boards" / subject
        facts = json.loads((place / "facts.json").read_text())
        assert (facts["machine"], facts["emulated"]) == ("aarch64", True)
        assert facts["golden_max_abs"] < 1e-4
        with (
            np.load(place / "outcomes.npz") as arm,
            np.load(folder / "runs/tiny/boards" / HOST / "outcomes.npz") as x86,
        ):
            assert np.array_equal(arm["images"], x86["images"])
            same = [np.mean(arm[name] == x86[name]) for name in arm.files if name.endswith("predictions")]
        assert same
        assert min(same) > 0.95


@pytest.mark.slow
def test_query_attacks_ran_on_the_board_and_accuracy_is_told(evaluated):
    folder, subjects, _ = evaluated
    for subject in subjects:
        found = {(row["metric"], row["kind"]) for row in rows_of(folder, subject)}
        assert {("clean_accuracy", None), ("robust_accuracy", "query"), ("robust_accuracy", "transfer")} <= found


@pytest.mark.slow
def test_no_latency_of_the_board_is_anywhere(evaluated, command):
    folder, subjects, done = evaluated
    assert any(row["metric"].startswith("latency") for row in rows_of(folder, HOST))
    for subject in subjects:
        assert [row for row in rows_of(folder, subject) if "latency" in row["metric"] or row["unit"] == "ms"] == []
        figures = json.loads((folder / "runs/tiny/boards" / subject / "rows.json").read_text())["figures"]
        assert figures["latency"] == {}
        timings = json.loads((folder / "runs/tiny/boards" / subject / "timings.json").read_text())
        assert timings == {"taken": False, "reason": "the board is emulated"}
    assert f"{ORT}, latency" not in done.err
    facts = json.loads((folder / "runs/tiny/boards" / ORT / "facts.json").read_text())
    assert "compile_s" not in facts
    compared = command(folder, "compare", "tiny", "tiny").out
    assert not [line for line in compared.splitlines() if "latency" in line and "emulated" in line]


@pytest.mark.slow
def test_a_rule_on_its_latency_is_inconclusive_and_says_why(evaluated, command):
    folder, subjects, _ = evaluated
    (folder / "rules.yaml").write_text(RULES)
    done = command(folder, "gate", "tiny", "--rules", "rules.yaml", "--json")
    assert done.code == 3
    told = {rule["subject"]: rule for rule in done.document["rules"]}
    for subject in subjects:
        assert told[subject]["outcome"] == "INCONCLUSIVE"
        assert told[subject]["text"].endswith(
            "must be at most 1000: the board is emulated, so its latency says nothing and was not taken"
        )
    assert told[HOST]["outcome"] == "PASS"


@pytest.mark.slow
def test_an_emulated_board_is_never_taken_for_a_real_one(evaluated, command, emulated_board):
    folder, _, _ = evaluated
    (folder / "sly.yaml").write_text(
        f"name: sly\nextends: {emulated_board}/target.yaml\nemulated: false\nchannel_multiple: 16\n"
    )
    done = command(folder, "run", "tiny.yaml", "--name", "tiny", "--target", "sly.yaml")
    assert done.code == 4
    assert "is an emulated board; set `emulated: true` in the target, so that it is not timed" in done.err
