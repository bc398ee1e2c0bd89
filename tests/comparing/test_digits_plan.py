"""The plan of the digits, whole: every row is made and meets its budget, and is trained on exactly after SIGKILL."""

import json
import multiprocessing
import os
import re
import signal
import sys
import time

import pytest
import torch

from robustdeploy.comparing.going import checked
from robustdeploy.core.load import load_comparison
from robustdeploy.core.records import NetRecord
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import held
from tests.conftest import write_words

PLAN = load_comparison("digits-resnet8")
QUICK = ("evaluate.limit=50", "evaluate.attacks=[fgsm]", "evaluate.eps_curve=[]", "net.width=8")
"""A narrow net, whose accuracy says nothing, and few images to evaluate; rows are trained as long as the plan says."""
RUNS = {run.row: run for run in checked(PLAN, QUICK)[1]}
PRELOADED = ["robustdeploy.cli", "robustdeploy.api", "sklearn.datasets", "torch._dynamo"]
ONE_OF_EACH = {row.prune.name: row.name for row in reversed(PLAN.rows) if row.prune is not None}.values()
"""The first row of each pruner."""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(command, tmp_path_factory):
    """The folder of the whole table."""
    return made(command, tmp_path_factory.mktemp("whole"), QUICK)


def made(command, folder, settings, jobs=1):
    """Make the whole table under these settings, and return its folder."""
    write_words(folder)
    overrides = [word for setting in settings for word in ("--set", setting)]
    words = ["table", "digits-resnet8", "--target", "quick.yaml", "--jobs", str(jobs), *overrides, "--json"]
    done = command(folder, *words)
    assert done.code == 0, done.err
    return folder / "runs/table-digits-resnet8"


@pytest.fixture(scope="module")
def table(root):
    """What `table --json` tells of it."""
    return json.loads((root / "table.json").read_text())


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
def test_a_budget_is_met_from_below_and_used_and_the_compact_net_is_the_masked_one(row, table, root):
    (line,) = [line for line in table["lines"] if line["row"] == row.name]
    for name, amount in PLAN.budget_of(row).amounts.items():
        spent = line[{"ops": "macs", "params": "params"}[name]]
        assert 0.9 * amount < spent / line[{"ops": "dense_macs", "params": "dense_params"}[name]] <= amount
    proof = held(Run.open(root / line["run"], root), "nets/pruned", NetRecord).record.proof
    assert (proof.precision, proof.n > 100) == ("float64", True)
    assert max(proof.clean, proof.adversarial) < 1e-5


@pytest.mark.exhaustive
def test_in_its_own_width_every_row_has_learnt_something(command, tmp_path):
    table = json.loads((made(command, tmp_path, QUICK[:-1], jobs=2) / "table.json").read_text())
    assert [line["row"] for line in table["lines"]] == [row.name for row in PLAN.rows]
    clean = {line["row"]: line["accuracy"]["clean"]["value"] for line in table["lines"]}
    assert min(clean.values()) > 0.5, clean


def trained(folder, words):
    """Call the command line, in a process of its own."""
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["robustdeploy", *words]
    from robustdeploy.cli import main

    main()


@pytest.fixture(scope="module")
def forks():
    """What starts processes that have torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start(forks, root, row):
    """Train a row's net once more, and save it after every step."""
    words = ["prune", f"rows/{RUNS[row].name}.yaml", "--runs", str(root), "--name", f"killed-{row}", "--quiet"]
    process = forks.Process(target=trained, args=(root, [*words, "--set", "train.checkpoint_every_s=0"]))
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


@pytest.mark.parametrize(
    "row",
    [pytest.param(row.name, marks=() if row.name in ONE_OF_EACH else pytest.mark.exhaustive) for row in PLAN.rows],
)
def test_killed_inside_each_phase_it_ends_with_the_same_bits(row, root, forks):
    killed, own = start(forks, root, row), root / f"killed-{row}"
    # Before the first step a pruner may search: then many checkpoints are of step 0, and the third is inside that.
    names = set()
    while killed.is_alive() and len(names) < 3:
        names |= saved(own)[0]
        time.sleep(0.002)
    deaths = [kill(killed)]
    for step in moments(RUNS[row], 17):
        killed = start(forks, root, row)
        while killed.is_alive() and saved(own)[1] < step:
            time.sleep(0.002)
        deaths.append(kill(killed))
    assert deaths == [-signal.SIGKILL] * len(deaths)
    last = start(forks, root, row)
    last.join(300)
    assert last.exitcode == 0
    for file in ("model.safetensors", "metrics.jsonl"):
        (path,) = own.glob(f"nets/*/{file}")
        assert path.read_bytes() == (root / RUNS[row].name / path.relative_to(own)).read_bytes()


def kill(process):
    """Kill a process as a power cut would; return how it ended."""
    process.kill()
    process.join(60)
    return process.exitcode
