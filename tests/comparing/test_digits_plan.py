"""The plan of the digits, whole: every row is made and meets its budget, and is trained on exactly after SIGKILL."""

import multiprocessing
import os
import re
import signal
import sys
import time

import pytest
import torch

from robustdeploy.comparing.folder import begun
from robustdeploy.comparing.going import checked
from robustdeploy.core.load import load_comparison, load_target
from tests.conftest import write_words

PLAN = load_comparison("digits-resnet8")
QUICK = ("evaluate.limit=50", "evaluate.attacks=[fgsm]", "evaluate.eps_curve=[]")
PRELOADED = ["robustdeploy.cli", "robustdeploy.api", "sklearn.datasets", "torch_pruning", "torch._dynamo"]
pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def table(command, tmp_path_factory):
    """The whole table as `table --json` tells it."""
    folder = write_words(tmp_path_factory.mktemp("whole"))
    overrides = [word for setting in QUICK for word in ("--set", setting)]
    done = command(folder, "table", "digits-resnet8", "--target", "quick.yaml", "--jobs", "2", *overrides, "--json")
    assert done.code == 0, done.err
    return done.document


def test_every_row_is_there_at_equal_passes_or_stands_apart_with_the_reason(table):
    assert [line["row"] for line in table["lines"]] == [row.name for row in PLAN.rows]
    assert not table["missing"]
    usual = next(line["passes"] for line in table["lines"] if line["row"] == "in-train")
    for line in table["lines"]:
        if line["alike"]:
            assert line["passes"] == pytest.approx(usual, rel=0.02), line["row"]
        else:
            assert line["differs"], line["row"]


@pytest.mark.parametrize("row", [row for row in PLAN.rows if row.prune is not None], ids=lambda row: row.name)
def test_a_budget_is_met_from_below_and_used(row, table):
    (line,) = [line for line in table["lines"] if line["row"] == row.name]
    assert line["accuracy"]["clean"]["value"] > 0.5
    for name, amount in PLAN.budget_of(row).amounts.items():
        spent = line[{"ops": "macs", "params": "params"}[name]]
        assert 0.9 * amount < spent / line[{"ops": "dense_macs", "params": "dense_params"}[name]] <= amount


def trained(folder, words):
    """Call the command line, in a process of its own."""
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["robustdeploy", *words]
    from robustdeploy.cli import main

    main()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with the recipes of all rows, of a small net that is saved after every step, and the dense start."""
    small = ["net.width=8", "train.checkpoint_every_s=0"]
    base, runs = checked(PLAN, small)
    folder = begun(tmp_path_factory.mktemp("rows") / "table", PLAN, base, load_target("host-cpu"), runs)
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    start(folder, next(run for run in runs if run.row == "pretrain"), "pretrain").join(300)
    return folder


def start(folder, run, name):
    """Train a row's net in a run of this name."""
    own = run.name if name == "pretrain" else name
    words = ["prune", str(folder.root / f"rows/{run.name}.yaml"), "--runs", str(folder.root), "--name", own]
    process = multiprocessing.get_context("forkserver").Process(target=trained, args=(folder.root, words))
    process.start()
    return process


def saved(root):
    """Return all checkpoints there are, by name, and the step of the last."""
    found = {path.name for path in root.glob("nets/*/checkpoints/step-*")}
    return found, max((int(re.split("[-.]", name)[1]) for name in found), default=-1)


def moments(run, steps_per_epoch):
    """Yield, for each phase, a step inside it."""
    first = 0
    for phase in run.recipe.train.phases or [run.recipe.train]:
        yield first + 3
        first += phase.epochs * steps_per_epoch


@pytest.mark.parametrize("row", [row.name for row in PLAN.rows])
def test_killed_inside_each_phase_it_ends_with_the_same_bits(row, rows):
    run = next(run for run in rows.runs if run.row == row)
    whole = start(rows, run, f"{row}-whole")
    killed, root = start(rows, run, row), rows.root / row
    # Before the first step a pruner may search: then many checkpoints are of step 0, and the third is inside that.
    names = set()
    while killed.is_alive() and len(names) < 3:
        names |= saved(root)[0]
        time.sleep(0.002)
    deaths = [kill(killed)]
    for step in moments(run, 17):
        killed = start(rows, run, row)
        while killed.is_alive() and saved(root)[1] < step:
            time.sleep(0.002)
        deaths.append(kill(killed))
    assert deaths == [-signal.SIGKILL] * len(deaths)
    last = start(rows, run, row)
    for process in (whole, last):
        process.join(300)
        assert process.exitcode == 0
    for file in ("model.safetensors", "metrics.jsonl"):
        (own,) = root.glob(f"nets/*/{file}")
        assert own.read_bytes() == (rows.root / f"{row}-whole" / own.relative_to(root)).read_bytes()


def kill(process):
    """Kill a process as a power cut would; return how it ended."""
    process.kill()
    process.join(60)
    return process.exitcode
