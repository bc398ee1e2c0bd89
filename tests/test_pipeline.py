"""What survives: kills at any moment, signals, two processes on one run, an agent that dies."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from robustdeploy import api, load_net
from robustdeploy.core.asked import DEFAULT_RECIPE, recipe_for
from robustdeploy.core.files import canonical_json
from robustdeploy.core.load import resolved_yaml
from robustdeploy.core.metrics import BY_CLOCK, METRICS
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice, Data, Recipe
from robustdeploy.core.shipped import shipped_names
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.run import Run, verify_run
from robustdeploy.errors import DataError, RecipeError, UsageError

BOARD = "pruned/fp32@quick"
RUN = ["run", "tiny.yaml", "--name", "tiny", "--target", "quick.yaml"]
EVALUATE = ["evaluate", "--target", "quick.yaml"]


def wait_for(process, seen, seconds=120):
    """Wait until ``seen`` is true, and say whether the process was still running then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if seen():
            return process.poll() is None
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    raise AssertionError("what was waited for never came")


def kill(process):
    """End the whole group as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def events(folder, kind):
    return [r.data for r in Ledger(folder / "runs/tiny/ledger.jsonl").records() if r.event == kind]


def parts(folder, place="boards/pruned/fp32@quick"):
    """The parts that were sealed for a stage, by the folder it is sealed in; of one that goes on, the latest ones."""
    found = []
    for record in Ledger(folder / "runs/tiny/ledger.jsonl").records():
        if record.event == "part":
            found.append(record.data["part"])
        elif record.event == "sealed":
            if record.data["folder"] == place:
                break
            found = []
    return found


def outcomes(folder):
    with np.load(folder / "runs/tiny/boards/pruned/fp32@quick/outcomes.npz", allow_pickle=False) as held:
        return dict(held)


def rows(folder):
    """All rows but those of the clock."""
    content = json.loads((folder / "runs/tiny/boards/pruned/fp32@quick/rows.json").read_text())
    by_clock = ("latency-valid", "faster-than-dense", "energy")
    kept = [row for row in content["measurements"] if METRICS[row["metric"]].support != "samples"]
    for row in kept:
        row["conditions"] = {name: value for name, value in row["conditions"].items() if name not in BY_CLOCK}
    return (
        kept,
        [each for each in content["diagnostics"] if each["id"] not in by_clock],
        content["figures"]["samples"],
    )


def same_evaluation(one, other):
    mine, theirs = outcomes(one), outcomes(other)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert rows(one) == rows(other)


def weights(folder, place="nets/pruned"):
    return (folder / "runs/tiny" / place / "model.safetensors").read_bytes()


@pytest.fixture
def unevaluated(desk):
    """The run as it was before its evaluation."""
    run = desk / "runs/tiny"
    shutil.rmtree(run / "boards")
    for name in ("report.json", "report.html", "report.md", "junit.xml"):
        (run / name).unlink()
    cut_ledger(run, "engines/dense/fp32@quick")
    return desk


def cut_ledger(run, last):
    """Leave a run's ledger as it was when the stage in the folder ``last`` had been sealed."""
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (end,) = [n for n, line in enumerate(lines) if '"sealed"' in line and f'"{last}"' in line]
    (run / "ledger.jsonl").write_text("".join(lines[: end + 1]))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_kill_while_torch_is_attacked_keeps_every_sealed_part(unevaluated, chain, spawn, command):
    shutil.rmtree(unevaluated / "runs/tiny/attacks")
    shutil.rmtree(unevaluated / "runs/tiny/engines/dense")
    cut_ledger(unevaluated / "runs/tiny", "engines/pruned/fp32@quick")
    process = spawn(unevaluated, *EVALUATE)
    assert wait_for(process, lambda: len(parts(unevaluated, "attacks/pruned/fp32")) >= 1)
    kill(process)
    seen = parts(unevaluated, "attacks/pruned/fp32")
    assert command(unevaluated, *EVALUATE).code == 0
    final = parts(unevaluated, "attacks/pruned/fp32")
    assert final[: len(seen)] == seen
    assert len(final) == len(set(final)) == len(parts(chain, "attacks/pruned/fp32"))
    same_evaluation(unevaluated, chain)
    assert verify_run(unevaluated / "runs/tiny") == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_kills_during_training_cost_nothing(chain, tmp_path, spawn, command):
    for name in ("tiny.yaml", "quick.yaml"):
        shutil.copy(chain / name, tmp_path / name)
    run = tmp_path / "runs/tiny"
    words = [*RUN, "--set", "train.checkpoint_every_s=0.05"]
    killed = 0
    for moment in ("nets/dense/checkpoints/*", "nets/dense/manifest.json", "nets/pruned/metrics.jsonl"):
        process = spawn(tmp_path, *words)
        killed += wait_for(process, lambda moment=moment: any(run.glob(moment)))
        time.sleep(0.05 * killed)
        kill(process)
    assert killed == 3
    assert not (run / "nets/pruned/manifest.json").exists()
    done = command(tmp_path, *words)
    assert done.code == 0, done.err
    assert weights(tmp_path) == weights(chain)
    assert weights(tmp_path, "nets/dense") == weights(chain, "nets/dense")
    assert verify_run(run) == []
    assert [record["stage"] for record in events(tmp_path, "sealed")] == [
        "train",
        "train",
        "export",
        "compile",
        "attack",
        "attack",
        "measure",
    ]
    same_evaluation(tmp_path, chain)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_kill_during_export_costs_that_export_only(unevaluated, chain, spawn, command):
    run = unevaluated / "runs/tiny"
    words = ["export", "--target", "quick.yaml", "--force"]
    process = spawn(unevaluated, *words)
    assert wait_for(process, lambda: not (run / "onnx/pruned/fp32/manifest.json").exists())
    kill(process)
    process = spawn(unevaluated, "export", "--target", "quick.yaml")
    assert wait_for(process, lambda: (run / "onnx/pruned/fp32/model.onnx").exists())
    kill(process)
    refused = command(unevaluated, *EVALUATE)
    assert (refused.code, "robustdeploy export" in refused.err) == (2, True)
    assert command(unevaluated, "export", "--target", "quick.yaml").code == 0
    for name in ("onnx/pruned/fp32/model.onnx", "onnx/pruned/fp32/golden.npz"):
        assert (run / name).read_bytes() == (chain / "runs/tiny" / name).read_bytes()
    assert command(unevaluated, *EVALUATE).code == 0
    same_evaluation(unevaluated, chain)


@pytest.mark.slow
def test_kills_during_evaluation_keep_every_sealed_part(unevaluated, chain, spawn, command):
    seen = []
    for count in (1, 3):  # replays are quick, so a kill has to come early to come in time
        process = spawn(unevaluated, *EVALUATE)
        assert wait_for(process, lambda count=count: len(parts(unevaluated)) >= count)
        kill(process)
        now = parts(unevaluated)
        assert now[: len(seen)] == seen
        seen = now
    done = command(unevaluated, *EVALUATE)
    assert done.code == 0, done.err
    final = parts(unevaluated)
    assert final[: len(seen)] == seen
    assert len(final) == len(set(final)) == len(parts(chain))
    same_evaluation(unevaluated, chain)
    assert not (unevaluated / "runs/tiny/boards/pruned/fp32@quick/parts").exists()
    assert verify_run(unevaluated / "runs/tiny") == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_signal_ends_an_evaluation_where_it_can_go_on(unevaluated, chain, spawn, command):
    process = spawn(unevaluated, *EVALUATE, "--json")
    assert wait_for(process, lambda: len(parts(unevaluated)) >= 1)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert json.loads(out)["error"]["kind"] == "Interrupted"
    assert "the same command resumes" in err
    assert "Traceback" not in err
    kept = parts(unevaluated)
    assert command(unevaluated, *EVALUATE).code == 0
    assert parts(unevaluated)[: len(kept)] == kept
    assert len(parts(unevaluated)) == len(set(parts(unevaluated)))
    same_evaluation(unevaluated, chain)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_agent_that_dies_is_started_anew_and_nothing_counts_twice(unevaluated, chain, spawn):
    process = spawn(unevaluated, *EVALUATE)
    assert wait_for(process, lambda: len(parts(unevaluated)) >= 1)
    children = [int(n) for n in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 1
    os.kill(children[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "SIGKILL" in err
    assert "connecting anew" in err
    assert "Traceback" not in err
    final = parts(unevaluated)
    assert [part for part in set(final) if final.count(part) > 1] == []
    same_evaluation(unevaluated, chain)


def test_a_second_process_on_a_run_is_told_who_holds_it(desk, command):
    run = Run.open(desk / "runs/tiny", desk / "runs")
    with run.lock():
        others = (["prune", "tiny.yaml", "--name", "tiny"], ["export", "--target", "quick.yaml"], EVALUATE, ["report"])
        for words in others:
            done = command(desk, *words)
            assert (done.code, done.out) == (4, "")
            assert f"in use by process {os.getpid()}" in done.err
        assert command(desk, "gate").code == 0


def test_outcomes_hold_what_other_tools_read(chain):
    held = outcomes(chain)
    n = len(held["labels"])
    assert n == 60
    assert held["images"].shape == (n, 1, 8, 8)
    assert held["images"].dtype == np.uint8
    for attack in ("fgsm", "pgd-5", "square-30"):
        assert held[f"{attack}/images"].shape == held["images"].shape
        assert held[f"{attack}/images"].dtype == np.uint8
        assert held[f"{attack}/predictions"].shape == (n,)
        apart = np.abs(held[f"{attack}/images"].astype(int) - held["images"]).max()
        assert 0 < apart <= 25  # eps 0.1 in whole grey levels
    assert set(held) >= {"ids", "predictions", "host/predictions", "dense/predictions", "square-30/queries"}


def test_rows_follow_from_the_stored_outcomes(chain):
    held, (measured, _, _) = outcomes(chain), rows(chain)
    right = held["predictions"] == held["labels"]
    for attack in ("fgsm", "pgd-5", "square-30"):
        stands = right & (held[f"{attack}/predictions"] == held["labels"])
        (row,) = [r for r in measured if (r["metric"], r["subject"], r["attack"]) == ("robust_accuracy", BOARD, attack)]
        assert (row["value"], row["n"]) == (stands.mean(), 60)
        assert row["low"] < row["value"] < row["high"]


def test_the_net_of_a_run_loads_and_scores_as_the_board_did(chain):
    import torch

    held, net = outcomes(chain), load_net(chain / "runs/tiny")
    with torch.no_grad():
        scores = net(torch.from_numpy(held["images"]).float() / 255)
    assert (scores.argmax(1).numpy() == held["predictions"]).mean() > 0.98


def test_stages_name_the_one_that_is_missing(tmp_path):
    run = Run.for_recipe(tmp_path, recipe_for(DEFAULT_RECIPE))
    for stage in (api.export, api.evaluate):
        with pytest.raises(UsageError, match="robustdeploy prune"):
            stage(run)
    with pytest.raises(UsageError, match="robustdeploy evaluate"):
        api.report(run)


@pytest.mark.parametrize("name", shipped_names("recipes"))
def test_a_recipe_has_the_same_hash_when_a_run_reads_its_own_copy(tmp_path, name):
    recipe = recipe_for(name)
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    assert canonical_json(plain(recipe_for(tmp_path / "recipe.yaml"))) == canonical_json(plain(recipe))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": Data(name="digits", size=1024)}, "a training step on 128 images of 1024×1024"),
        ({"net": Choice(name="mobilenet_v2", options={"width_mult": 10_000})}, "net 'mobilenet_v2'"),
    ],
)
def test_what_memory_cannot_hold_is_told_before_any_image_is_read(tmp_path, monkeypatch, change, words):
    from robustdeploy.train import trainings

    def never(*_):
        raise AssertionError("images were read")

    monkeypatch.setattr(api, "load_data", never)
    monkeypatch.setattr(trainings, "available_bytes", lambda: 2**31)
    with pytest.raises((DataError, RecipeError), match=words):
        api.prune(Recipe(name="x", **change), runs=tmp_path)
    assert list(tmp_path.iterdir()) == []
