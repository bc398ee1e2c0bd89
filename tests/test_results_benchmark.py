"""benchmarks/results.py: rows are what a user gets, one-shot pruning is the library's, figures are of real attacks."""

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.cli.options import overrides
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice, Data
from robustdeploy.cost.module import macs
from robustdeploy.data.load import load_test
from robustdeploy.data.noise import Noise
from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import BudgetError, UsageError
from robustdeploy.evaluate.intervals import clopper_pearson
from robustdeploy.nets.build import build_net
from robustdeploy.nets.store import load_net
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.compact import compact_net
from robustdeploy.prune.rehearsal import find_groups

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import results
import timing
from controls import renewed
from machine import in_words
from making import Places, make
from measure import SEED, measure
from oneshot import pruned_once
from rowfile import read_row
from rows import ROWS, Row, row_named
from stopwatch import Stopwatch
from table import END, START, write_table

KEPT = Path(__file__).parents[1] / "docs" / "results"
SHAPE = (3, 32, 32)
RECIPE = """
    name: digits-tiny
    net: {name: resnet8, width: 12}
    threat: {eps: 0.1}
    train: {epochs: 3, batch_size: 64, lr: 0.2, precision: fp32}
    gate: [{id: RD-OPS-01, metric: ops_fraction, at_most: budget}]
"""


class Stop(Exception):
    """What ends the work in the middle, as a kill would."""


class Listening(Callback):
    """A callback that keeps what it heard, and may stop the work."""

    def __init__(self, stop_at=None):
        self.heard, self.lines, self.stop_at = [], [], stop_at

    def say(self, line):
        self.lines.append(line)

    def progress(self, what, done, total, **numbers):
        self.heard.append((what, done, total))
        if (what, done) == self.stop_at:
            raise Stop


def a_net(width=8, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_net(Choice(name="resnet20", options={"width": width}), 10, SHAPE, (0.5,) * 3, (0.25,) * 3)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def weights(net):
    return torch.cat([value.double().flatten() for value in net.state_dict().values()])


def test_rows_have_names_of_their_own_and_follow_the_pattern():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert "cifar10-resnet20-ops1" in names
    assert {"cifar10-resnet20-ops0.3", "cifar10-resnet20-ops0.3-seed1", "cifar10-resnet20-ops0.3-oneshot"} <= set(names)
    assert [row_named(name) for name in names] == list(ROWS)
    with pytest.raises(UsageError, match=r"no row 'cifar10-resnet20-ops0\.31'"):
        row_named("cifar10-resnet20-ops0.31")
    for row in ROWS:
        assert row.pattern is None or row.pattern in ROWS


@pytest.mark.parametrize("row", [row for row in ROWS if row.method == "in-train"], ids=lambda row: row.name)
def test_a_pruned_row_is_what_the_command_line_gives(row):
    """Only the dense net beside it, a row of its own, is left out."""
    given = ["data.path=cifar", "train.epochs=7", f"seed={row.seed}", "train.device=cpu", "budget.channel_multiple=1"]
    users = plain(recipe_for("cifar10-resnet20", row.ops, overrides=given))
    ours = plain(row.recipe_from(Path("cifar"), 7, "cpu"))
    assert {part for part in users if users[part] != ours[part]} == {"baseline"}


def test_an_aligned_row_is_what_the_command_line_gives():
    row = row_named("cifar10-resnet20-ops0.5-aligned")
    budget = row.recipe_from(Path("cifar"), 7, "cpu").budget
    words = overrides(["budget.channel_multiple=1"], "0.5", latency="0.65", targets=["host-cpu"])
    assert budget == recipe_for("cifar10-resnet20", overrides=words, targets=[load_target("host-cpu")]).budget
    assert (budget.ops, budget.latency.target, budget.latency.at_most) == (0.5, "host-cpu", 0.65)


def test_the_dense_row_has_no_budget():
    recipe = row_named("cifar10-resnet20-ops1").recipe_from(Path("cifar"), 7, "cpu")
    assert recipe.budget.ops is None


@pytest.mark.parametrize("share", [0.7, 0.3, 0.1])
def test_one_shot_pruning_keeps_what_the_norms_say_and_changes_nothing_else(share):
    net = a_net()
    before, target = weights(net).clone(), int(share * macs(net, SHAPE))
    small = pruned_once(net, SHAPE, target)
    assert 0.97 * target < macs(small, SHAPE) <= target
    assert torch.equal(weights(net), before)
    coupling = find_groups(net, SHAPE)
    kept = {group.name: _largest(net, small, group) for group in coupling.groups}
    shares = [len(kept[group.name]) / group.size for group in coupling.groups]
    assert max(shares) - min(shares) <= 1 / 8 + 1e-9  # of 8 channels, none is nearer to equal shares
    images = torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = compact_net(net, coupling.groups, kept).double()(images)
    assert (small.double()(images) - expected).abs().max() < 1e-10


def _largest(net, small, group):
    """The channels of largest mean L1 norm over all that is coupled to them, as many as the pruned net has."""
    total, counted = torch.zeros(group.size, dtype=torch.float64), 0
    for member in group.members:
        layer = net.get_submodule(member.layer)
        if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            continue
        weight = layer.weight.double()
        if weight.dim() > 1 and member.side == "in":
            weight = weight.transpose(0, 1)
        total += weight[member.positions].abs().flatten(1).sum(1) if weight.dim() > 1 else weight.abs()
        counted += 1
    layer = small.get_submodule(next(m.layer for m in group.members if m.side == "out"))
    count = getattr(layer, "out_channels", None) or layer.num_features
    return (total / counted).argsort(descending=True)[:count].sort().values


def test_one_shot_pruning_refuses_what_it_cannot_reach():
    net = a_net(width=2)
    with pytest.raises(BudgetError, match=r"lead to [\d,]+ MACs where 1,000 were asked for"):
        pruned_once(net, SHAPE, 1000)


def test_renewed_weights_are_fresh_and_depend_on_the_seed_alone():
    small = pruned_once(a_net(), SHAPE, int(0.3 * macs(a_net(), SHAPE)))
    first, again, other = (renewed(pruned_once(a_net(), SHAPE, macs(small, SHAPE)), seed) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    for module in first.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.running_var, torch.ones_like(module.running_var))
    conv = first.get_submodule("net.stages.2.1.conv1")
    expected = (2 / (conv.out_channels * 9)) ** 0.5  # He's, at the size that the net has now
    assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_a_stopwatch_goes_on_where_another_process_left_it(tmp_path):
    hands = [0.0]
    first = Stopwatch(tmp_path / "s.json", clock=lambda: hands[0])
    for hands[0] in (10.0, 13.0, 17.0):  # the first tick starts it
        first.tick()
    hands[0] = 100.0  # killed: what was not written is lost
    second = Stopwatch(tmp_path / "s.json", clock=lambda: hands[0])
    assert second.seconds == 7.0
    assert second.stop() == 7.0  # it was never started
    second.tick()
    hands[0] = 101.5
    assert second.stop() == 8.5
    assert Stopwatch(tmp_path / "s.json").seconds == 8.5


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a tiny recipe on digits, and its pruned row made."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "digits-tiny.yaml").write_text(textwrap.dedent(RECIPE))
    places = Places(folder / "results", folder / "work")
    row = Row(str(folder / "digits-tiny.yaml"), 0.4)
    callback = Listening()
    make(row, row.recipe_from(None, 4, "cpu"), places, callback)
    return row, places, callback


@pytest.mark.slow
def test_a_made_row_is_the_net_of_its_run_and_says_how_it_came_to_be(shop):
    row, places, _ = shop
    folder = places.results / row.name
    assert row.name == "digits-tiny-ops0.4"
    assert {path.name for path in folder.iterdir()} == {"net.json", "model.safetensors", "recipe.yaml", "row.json"}
    record = read_row(folder)
    net = load_net(folder)
    assert record["macs"] == macs(net, (1, 8, 8))
    assert record["ops_fraction"] == pytest.approx(record["macs"] / record["dense_macs"])
    assert 0.97 * 0.4 < record["ops_fraction"] <= 0.4
    assert record["params"] == sum(parameter.numel() for parameter in net.parameters())
    assert (record["epochs"], record["seed"], record["method"]) == (4, 0, "in-train")
    assert record["training"]["seconds"] > 0
    assert record["training"]["precision"] == "float32"
    assert record["training"]["versions"]["torch"] == torch.__version__
    assert torch.equal(weights(net), weights(load_net(places.work / row.name)))
    text = (folder / "row.json").read_text()
    assert str(places.work) not in text
    assert "measured" not in record


@pytest.mark.slow
def test_making_a_row_again_changes_nothing(shop):
    row, places, _ = shop
    before = {path.name: path.read_bytes() for path in (places.results / row.name).iterdir()}
    callback = Listening()
    make(row, row.recipe_from(None, 4, "cpu"), places, callback)
    assert not [what for what, *_ in callback.heard if what.startswith("training")]
    assert {path.name: path.read_bytes() for path in (places.results / row.name).iterdir()} == before


@pytest.mark.slow
def test_scratch_keeps_the_shape_and_forgets_the_weights(shop):
    row, places, _ = shop
    scratch = Row(row.recipe, row.ops, "scratch")
    folder = make(scratch, scratch.recipe_from(None, 2, "cpu"), places, SILENT)
    ours, theirs = load_net(folder), load_net(places.results / row.name)
    shapes = [[tuple(value.shape) for value in net.state_dict().values()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(weights(ours), weights(theirs))
    assert read_row(folder)["macs"] == read_row(places.results / row.name)["macs"]
    assert read_row(folder)["phases"] == {"scratch": 2}
    assert read_row(folder)["collapses"] == []


@pytest.mark.exhaustive
@pytest.mark.slow
def test_evaluate_measures_a_row_without_training_it(shop, tmp_path, command):
    row, places, _ = shop
    done = command(tmp_path, "evaluate", places.results / row.name, "--attacks", "fgsm", "--limit", "40", "--json")
    assert done.code == 0, done.err
    assert done.document["run"] == f"runs/{row.name}"
    ops = next(rule for rule in load_recipe(places.results / row.name / "recipe.yaml").gate if "OPS" in rule.id)
    assert ops.at_most == row.ops
    assert not (tmp_path / "runs" / row.name / "nets" / "pruned" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["dense", "fine-tuning"])
@pytest.mark.alike(1)
def test_one_shot_goes_on_where_it_was_interrupted(shop, tmp_path, phase):
    row, places, _ = shop
    once = Row(row.recipe, row.ops, "one-shot")
    recipe = once.recipe_from(None, 6, "cpu")
    ends = []
    for name, stop_at in (("straight", None), ("stopped", (f"training {phase}", 30))):
        here = Places(tmp_path / name / "results", tmp_path / name / "work")
        pattern = here.results / row.name
        pattern.mkdir(parents=True)
        for path in (places.results / row.name).iterdir():
            (pattern / path.name).write_bytes(path.read_bytes())
        if stop_at is not None:
            with pytest.raises(Stop):
                make(once, recipe, here, Listening(stop_at))
        callback = Listening()
        folder = make(once, recipe, here, callback)
        if stop_at is not None:
            resumed = [done for what, done, _ in callback.heard if what == f"training {phase}"]
            assert 1 not in resumed
        ends.append(folder)
    straight, stopped = (read_row(folder) for folder in ends)
    assert torch.equal(weights(load_net(ends[0])), weights(load_net(ends[1])))
    assert straight["phases"] == {"dense": 4, "fine-tuning": 2}
    assert 0.97 < stopped["macs"] / read_row(places.results / row.name)["macs"] <= 1


@pytest.mark.slow
def test_a_comparison_needs_what_it_is_compared_with(shop, tmp_path):
    row, _, _ = shop
    once = Row(row.recipe, row.ops, "one-shot")
    with pytest.raises(UsageError, match=r"digits-tiny-ops0\.4, which is not there yet: train that row first"):
        make(once, once.recipe_from(None, 6, "cpu"), Places(tmp_path / "results", tmp_path / "work"), SILENT)


def outcomes(net, images, threat):
    """Which images stand, without blocks, parts or skipping: every attack on every image."""
    pixels, labels = images.images.float() / 255, images.labels
    clean = net(pixels).argmax(1) == labels
    found = [clean]
    for attack in (Fgsm(), Pgd(10, alpha=2 / 255), Pgd(50, 10, alpha=2 / 255)):
        noise = Noise(key(SEED, attack.label), images.ids)
        attacked = attack(net, pixels, labels, threat, noise)
        found.append(clean & (net(attacked).argmax(1) == labels))
    return [bits.numpy() for bits in found]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_figures_are_those_of_the_attacks_and_survive_an_interruption(shop, tmp_path):
    row, places, _ = shop
    here = Places(tmp_path / "results", tmp_path / "work")
    folder = here.results / row.name
    folder.mkdir(parents=True)
    for path in (places.results / row.name).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(Stop):
        measure(row, None, "cpu", here, Listening(("pgd-10", 256)))
    assert "measured" not in read_row(folder)
    callback = Listening()
    measure(row, None, "cpu", here, callback)
    record = read_row(folder)["measured"]
    images = load_test(Data(), load_info_classes(folder))
    net = load_net(folder).requires_grad_(False)
    clean, fgsm, pgd, thorough = outcomes(net, images, Threat(eps=0.1))
    expected = [clean, fgsm, pgd, fgsm & pgd & thorough]
    counts = [row["count"] for row in record["measurements"]]
    assert counts == [int(bits.sum()) for bits in expected]
    assert 0 < counts[3] < counts[1] < counts[0] < len(images)
    for each, bits in zip(record["measurements"], expected, strict=True):
        assert each["n"] == record["n"] == len(images)
        assert (each["low"], each["high"]) == pytest.approx(clopper_pearson(int(bits.sum()), len(bits)))
    attacked = {what: total for what, _, total in callback.heard}
    assert attacked["pgd-10"] == int(clean.sum())
    assert attacked["pgd-50-10"] == int((fgsm & pgd).sum())
    made = [each.data["part"] for each in Ledger(here.work / f"{row.name}.measure" / "ledger.jsonl").records()]
    assert len(set(made)) == len(made)  # nothing was attacked twice
    again = Listening()
    measure(row, None, "cpu", here, again)
    assert any("measured already" in line for line in again.lines)
    assert not [what for what, *_ in again.heard if what.startswith("pgd")]


def load_info_classes(folder):
    return tuple(json.loads((folder / "net.json").read_text())["classes"])


def a_record(row, hits, n=1000):
    names = (None, "fgsm", "pgd-10", "pgd-50-10")
    options = {"fgsm": {}, "pgd-10": {"steps": 10, "alpha": 2 / 255, "restarts": 1}}
    options["pgd-50-10"] = {"steps": 50, "alpha": 2 / 255, "restarts": 10, "counted_as_broken": ["fgsm", "pgd-10"]}
    measurements = []
    for name, count in zip(names, hits, strict=True):
        low, high = clopper_pearson(count, n)
        given = {} if name is None else {"attack": name}
        conditions = options.get(name, {})
        measurements.append({"value": count / n, "low": low, "high": high, "conditions": conditions, **given})
    machine = {"cores": 2, "cpu": "X", "cpu_capability": "Y", "threads": 1, "system": "Z", "python": "3", "torch": "2"}
    measured = {"n": n, "measurements": measurements, "precision": "float32", "machine": machine}
    measured["threat"] = {"norm": "linf", "eps": 8 / 255}
    training = {"images": 45000, "validation_images": 5000, "precision": "bfloat16", "machine": machine}
    training["seconds"] = 5403.2
    return {
        "row": row.name,
        "recipe": row.recipe,
        "method": row.method,
        "seed": row.seed,
        "ops_asked": row.ops,
        "data": "CIFAR-10",
        "epochs": 30,
        "collapses": [],
        "macs": 12_000_000,
        "ops_fraction": 0.2959,
        "params": 70_000,
        "training": training,
        "measured": measured,
    }


def write_records(results, records):
    for record in records:
        (results / record["row"]).mkdir(parents=True, exist_ok=True)
        (results / record["row"] / "row.json").write_text(json.dumps(record))


def test_the_page_shows_all_rows_and_keeps_what_stands_around_them(tmp_path):
    page, folder = tmp_path / "docs" / "results.md", tmp_path / "docs" / "results"
    page.parent.mkdir()
    page.write_text(f"# Title\n\nbefore\n\n{START}\nold figures\n{END}\n\nafter\n")
    assert write_table(folder, page) == 0
    assert "Nothing has been measured yet." in page.read_text()
    seeds = [row for row in ROWS if row.method == "in-train" and row.ops == 0.3]
    hits = [(700, 400, 350, 340), (710, 410, 360, 350), (720, 420, 370, 330)]
    write_records(folder, [a_record(row, counts) for row, counts in zip(seeds, hits, strict=True)])
    (folder / "cifar10-resnet20-ops0.5").mkdir()
    (folder / "cifar10-resnet20-ops0.5" / "row.json").write_text('{"row": "trained, not measured"}')
    assert write_table(folder, page) == 3
    text = page.read_text()
    assert text.startswith("# Title\n\nbefore\n\n")
    assert text.endswith("\n\nafter\n")
    assert "old figures" not in text
    lines = [line for line in text.splitlines() if line.startswith("| [")]
    assert [line.split("]")[0][3:] for line in lines] == [row.name for row in seeds]
    low, high = clopper_pearson(340, 1000)
    assert lines[0].endswith(f"| 34.00 [{100 * low:.2f}, {100 * high:.2f}] |")
    assert "| 12,000,000 | 0.2959 | 70,000 | 30 | 1 h 30 min | 1,000 |" in lines[0]
    assert "over seeds 0, 1, 2: clean 71.00 (70.00 to 72.00)" in text
    assert "pgd-50-10 34.00 (33.00 to 35.00)" in text
    assert text.count("- Attacked in float32 at linf eps 8/255") == 1
    for target in (line.split("(")[1].split(")")[0] for line in lines):
        assert (page.parent / target).is_dir()
    write_table(folder, page)
    assert page.read_text() == text


def test_the_page_says_which_attack_was_left_out(tmp_path):
    dense, pruned = (next(row for row in ROWS if row.ops == ops) for ops in (1, 0.5))
    records = [a_record(dense, (750, 420, 370, 345)), a_record(pruned, (700, 400, 365, 340))]
    records[1]["measured"]["measurements"].pop()
    write_records(tmp_path / "results", records)
    write_table(tmp_path / "results", tmp_path / "results.md")
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert f"| {pruned.name} | -5.00 | -2.00 | -0.50 |  |" in lines
    assert [line.endswith("| not measured |") for line in lines if line.startswith("| [")] == [False, True]


def test_the_page_says_what_pruning_cost_and_what_the_sentinel_did(tmp_path):
    dense, pruned = (next(row for row in ROWS if row.ops == ops) for ops in (1, 0.3))
    event = {"step": 900, "reason": "FGSM leaves 60 %", "back_to_step": 800, "task_from_here": "NFgsm()"}
    records = [a_record(dense, (750, 420, 370, 345)), {**a_record(pruned, (700, 400, 375, 340)), "collapses": [event]}]
    write_records(tmp_path / "results", records)
    write_table(tmp_path / "results", tmp_path / "results.md")
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert f"| {pruned.name} | -5.00 | -2.00 | +0.50 | -0.50 |" in lines
    assert not [line for line in lines if line.startswith(f"| {dense.name} |")]
    (told,) = [line for line in lines if "Catastrophic overfitting" in line]
    assert "at step 900 (FGSM leaves 60 %)" in told
    assert "step 800 and on with NFgsm()" in told
    assert told.endswith(f"({pruned.name})")


def test_a_page_is_begun_where_there_is_none_and_refused_where_it_has_no_place(tmp_path):
    page = tmp_path / "results.md"
    write_table(tmp_path / "results", page)
    assert START in page.read_text()
    page.write_text("# Something else\n")
    with pytest.raises(UsageError, match="no place for the table"):
        write_table(tmp_path / "results", page)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert results.main(["--results", str(tmp_path), "measure", "cifar10-resnet20-ops0.3"]) == 2
    assert "train that row first" in capsys.readouterr().err
    assert results.main(["train", "nonsense"]) == 2
    assert "there is no row 'nonsense'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_commands_make_measure_time_and_show_a_real_row(tmp_path, capsys, monkeypatch):
    write_cifar(tmp_path / "cifar")
    name, page = "cifar10-resnet20-ops1", tmp_path / "docs" / "results.md"
    common = ["--results", str(tmp_path / "docs" / "results")]
    more = ["--data", str(tmp_path / "cifar"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert results.main([*common, "train", name, "--epochs", "1", *more]) == 0
    assert results.main([*common, "measure", name, *more]) == 0
    capsys.readouterr()
    assert results.main([*common, "list"]) == 0
    states = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert states[name].endswith(" measured")
    assert states["cifar10-resnet20-ops0.3"].endswith("not trained")
    assert results.main([*common, "table", "--page", str(page)]) == 0
    assert f"[{name}](results/{name})" in page.read_text()
    assert read_row(tmp_path / "docs" / "results" / name)["ops_fraction"] == 1
    monkeypatch.setattr(timing, "TOOLCHAINS", ("onnxruntime",))
    assert results.main([*common, "time", "--rounds", "6"]) == 0
    found = read_row(tmp_path / "docs" / "results" / name)["latency"]["toolchains"]["onnxruntime"]
    assert (found["fraction"], found["low"], found["high"]) == (1, 1, 1)
    assert found["median_us"] >= found["lowest_us"] > 0
    results.main([*common, "table", "--page", str(page)])
    assert f"| {name} | 1.000 | 1.000 [1.000, 1.000], " in page.read_text()


def write_cifar(folder):
    """A folder of images of CIFAR-10's shape and classes."""
    from PIL import Image

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 1)):
        for name in names:
            (folder / part / name).mkdir(parents=True)
            for place in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{place}.png")


@pytest.mark.parametrize(
    ("cores", "threads", "words"), [(1, 2, "1 core of X (Y), 2 threads,"), (2, 1, "2 cores of X (Y), 1 thread,")]
)
def test_the_machine_is_described_in_the_right_number(cores, threads, words):
    found = {"cpu": "X", "cpu_capability": "Y", "system": "Z", "python": "3", "torch": "2"}
    assert in_words({**found, "cores": cores, "threads": threads}).startswith(words)


@pytest.mark.parametrize("folder", sorted(KEPT.iterdir()), ids=lambda folder: folder.name)
def test_a_kept_net_is_whole_has_its_recipe_and_is_named_on_the_page(folder):
    net, recipe = load_net(folder), load_recipe(str(folder / "recipe.yaml"))
    image_shape = json.loads((folder / "net.json").read_text())["image_shape"]
    assert torch.isfinite(net(torch.zeros(1, *image_shape))).all()
    assert recipe.data.path is None
    assert f"](results/{folder.name})" in (KEPT.parent / "results.md").read_text()
