"""Accuracy under corruptions: counted by hand, resumed, held against other images; and a run with them, end to end."""

import json

import numpy as np
import pytest
import yaml

from robustdeploy.core.recipe import Choice, Evaluate, Recipe
from robustdeploy.core.subject import subject_from
from robustdeploy.engine.ledger import Ledger
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate import corruptions
from robustdeploy.evaluate.attack import Bench, Images
from robustdeploy.evaluate.corruptions import Corrupted, UnderCorruptions, corrupted_on_boards, corrupted_on_host
from robustdeploy.evaluate.intervals import bootstrap_mean, bootstrap_ratios
from robustdeploy.evaluate.parts import Parts
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat

BOARD, TORCH, DENSE = (subject_from(name) for name in ("pruned/fp32@host-cpu", "pruned/fp32@torch", "dense/fp32@torch"))
ASKED = (Choice(name="contrast", options={"severities": [5, 1]}), Choice(name="gaussian-noise"))
RECIPE = Recipe(name="r", evaluate=Evaluate(corruptions=ASKED))
N = 150


def bench(images, folder):
    parts = Parts(folder, "m" * 20, Ledger(folder / "ledger.jsonl"))
    return Bench(images, Threat(eps=0.1), 0, parts, lambda *told: None)


@pytest.fixture
def large(monkeypatch, host):
    """Images that corruptions have a meaning for, scored by a net that sees their upper left corner."""
    images = np.random.default_rng(0).integers(0, 256, (N, 1, 8, 8), dtype=np.uint8)
    score = type(host).score

    def corner(self, images, batch=256):
        return score(self, np.ascontiguousarray(images[:, :, :4, :4]), batch)

    monkeypatch.setattr(type(host), "score", corner)
    return Images(np.arange(N) + 7, images, host.score(images).argmax(1))


def test_what_a_kill_left_is_used_again_and_blocks_change_nothing(host, large, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    whole = corrupted_on_host(bench(large, tmp_path / "a"), host, RECIPE)
    assert whole["contrast"].predictions.shape == (N, 2)
    assert whole["gaussian-noise"].predictions.shape == (N, 5)
    with monkeypatch.context() as patched:
        patched.setattr(corruptions, "corrupted", None)  # would fail if it were called
        again = corrupted_on_host(bench(large, tmp_path / "a"), host, RECIPE)
    np.testing.assert_array_equal(again["gaussian-noise"].prints, whole["gaussian-noise"].prints)
    (tmp_path / "b").mkdir()
    few = corrupted_on_host(bench(large.at(np.arange(20, 30)), tmp_path / "b"), host, RECIPE)
    for name, each in few.items():
        np.testing.assert_array_equal(each.prints, whole[name].prints[20:30])
        np.testing.assert_array_equal(each.predictions, whole[name].predictions[20:30])


class OneBoard:
    """A fleet of one board that answers as a net in torch does."""

    def __init__(self, score):
        import threading

        self.score, self.lock = score, threading.Lock()

    def share(self, jobs, tell):
        return [job(self) for job in jobs]


def test_a_board_meets_the_images_that_torch_met_or_nothing_is_told(host, large, tmp_path):
    in_torch = corrupted_on_host(bench(large, tmp_path), host, RECIPE)
    fleet = OneBoard(lambda images, batch: host.score(images))
    there = corrupted_on_boards(bench(large, tmp_path), fleet, RECIPE, in_torch)
    np.testing.assert_array_equal(there["contrast"].predictions, in_torch["contrast"].predictions)
    others = {name: Corrupted(each.predictions, each.prints + np.uint64(1)) for name, each in in_torch.items()}
    with pytest.raises(ArtifactError, match=r"'contrast' are others .* evaluate again with --force"):
        corrupted_on_boards(bench(large, tmp_path), fleet, RECIPE, others)


def test_images_without_a_meaning_are_refused(host, tmp_path):
    tiny = Images(np.arange(3), np.zeros((3, 1, 4, 4), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(UsageError, match="4×4 pixels"):
        corrupted_on_host(bench(tiny, tmp_path), host, RECIPE)


def given(**right):
    """Outcomes of nets by the bits of their images, N×S for each corruption."""
    labels = np.zeros(len(next(iter(right.values()))["contrast"]), np.int64)

    def corrupted(bits):
        return Corrupted(1 - bits.astype(np.int64), np.zeros(bits.shape, np.uint64))

    found = {
        {"board": BOARD, "torch": TORCH, "dense": DENSE}[its]: {name: corrupted(bits) for name, bits in each.items()}
        for its, each in right.items()
    }
    return UnderCorruptions(labels, (1, 8, 8), 0, 4, found)


def bits(seed, columns, share):
    return np.random.default_rng(seed).random((60, columns)) < share


def test_rows_are_shares_and_means_of_what_is_right():
    board = {"contrast": bits(0, 2, 0.6), "gaussian-noise": bits(1, 5, 0.9)}
    dense = {"contrast": bits(2, 2, 0.8), "gaussian-noise": bits(3, 5, 0.95)}
    rows = list(given(board=board, torch=board, dense=dense).rows(RECIPE, DENSE))
    its = {(row.metric, row.attack): row for row in rows if row.subject == str(BOARD)}
    # The mildest first, in whatever order the recipe has them.
    assert its["accuracy_corrupted", "contrast-5"].value == board["contrast"][:, 1].mean()
    assert its["accuracy_corrupted", "contrast-1"].conditions["parameters"] == {"kept": 0.75}
    assert its["accuracy_corrupted", "contrast-1"].conditions["judged_in_batches_of"] == 4
    assert its["accuracy_corrupted", "gaussian-noise-5"].conditions["published_for"].startswith("CIFAR-10-C")
    means = {name: each.mean(1) for name, each in board.items()}
    both = (means["contrast"] + means["gaussian-noise"]) / 2
    row = its["mean_corruption_accuracy", None]
    expected = bootstrap_mean(both, key(0, "mean_corruption_accuracy", "all"))
    assert (row.value, row.low, row.high) == pytest.approx(expected)
    assert its["mean_corruption_accuracy", "contrast"].value == pytest.approx(board["contrast"].mean())
    five = (board["contrast"][:, 1] + board["gaussian-noise"][:, 4].astype(float)) / 2
    assert its["mean_corruption_accuracy", "severity-5"].value == pytest.approx(five.mean())
    assert its["mean_corruption_accuracy", "severity-3"].value == pytest.approx(board["gaussian-noise"][:, 2].mean())
    worst = its["worst_corruption_accuracy", None]
    assert worst.conditions["corruption"] == "contrast"
    assert worst.value == pytest.approx(board["contrast"].mean())
    assert worst.low < its["mean_corruption_accuracy", "contrast"].low
    mce = its["mean_corruption_error", None]
    error = np.mean([(1 - board[name].mean()) / (1 - dense[name].mean()) for name in board])
    assert mce.value == pytest.approx(error)
    assert mce.low < mce.value < mce.high
    assert all(row.n == 60 for row in rows)
    assert [row for row in rows if row.metric == "mean_corruption_error" and row.subject == str(DENSE)] == []


def test_the_error_has_no_row_where_the_dense_net_makes_none_and_no_interval_where_it_hardly_does():
    board = {"contrast": bits(0, 2, 0.6), "gaussian-noise": bits(1, 5, 0.9)}
    perfect = {"contrast": np.ones((60, 2), bool), "gaussian-noise": bits(3, 5, 0.95)}
    rows = given(board=board, dense=perfect).rows(RECIPE, DENSE)
    assert [row for row in rows if row.metric == "mean_corruption_error"] == []
    perfect["contrast"][7, 0] = False
    (row,) = (r for r in given(board=board, dense=perfect).rows(RECIPE, DENSE) if r.metric == "mean_corruption_error")
    assert (row.low, row.high) == (None, None)
    assert row.value > 1


def test_an_interval_of_ratios_holds_the_ratio_of_the_population_about_as_often_as_it_says():
    inside = 0
    for trial in range(100):
        draw = np.random.default_rng(trial).random((150, 2, 2))
        errors, others = (draw[:, 0] < (0.3, 0.5)).astype(float), (draw[:, 1] < (0.2, 0.4)).astype(float)
        _, low, high = bootstrap_ratios(errors, others, trial, draws=200)
        inside += low <= (0.3 / 0.2 + 0.5 / 0.4) / 2 <= high
    assert 88 <= inside <= 100


def test_a_recipe_without_corruptions_has_no_rows():
    assert list(given(board={"contrast": bits(0, 2, 0.5)}).rows(Recipe(name="r"), DENSE)) == []


@pytest.mark.slow
def test_a_run_is_judged_under_corruptions_where_it_runs(desk, command):
    rules = {
        "rules": [
            {"id": "RD-COR-01", "metric": "accuracy_corrupted", "attack": "fog-3", "at_least": 0.01},
            {"id": "RD-COR-02", "metric": "mean_corruption_accuracy", "at_least": 0.01},
            {"id": "RD-COR-03", "metric": "mean_corruption_accuracy", "attack": "severity-5", "at_least": 0.01},
        ]
    }
    (desk / "rules.yaml").write_text(yaml.safe_dump(rules))
    asked = "evaluate.corruptions=[{name: fog, severities: [3, 5]}, jpeg]"
    words = ("evaluate", "runs/tiny", "--target", "quick.yaml", "--attacks", "fgsm", "--limit", "40", "--set", asked)
    done = command(desk, *words, "--set", "evaluate.eps_curve=[]", "--json")
    assert done.code == 0, done.err
    rows = {(r["metric"], r["attack"], r["subject"]): r for r in done.document["measurements"]}
    assert {s for m, a, s in rows if (m, a) == ("accuracy_corrupted", "fog-3")} == {
        "pruned/fp32@quick",
        "pruned/fp32@torch",
        "dense/fp32@torch",
    }
    assert ("accuracy_corrupted", "fog-1", "pruned/fp32@quick") not in rows
    folder = desk / done.document["folder"]
    arrays = np.load(folder / "outcomes.npz")
    right = arrays["corruption-fog/predictions"] == arrays["labels"][:, None]
    assert rows["accuracy_corrupted", "fog-5", "pruned/fp32@quick"]["value"] == right[:, 1].mean()
    np.testing.assert_array_equal(arrays["corruption-fog/prints"], arrays["dense/corruption-fog/prints"])
    name = folder.name.partition("@")[2]
    assert command(desk, "report", "runs/tiny", "--target", name).code == 0
    gated = command(desk, "gate", "runs/tiny", "--target", name, "--rules", "rules.yaml", "--json")
    assert [each["outcome"] for each in gated.document["rules"]] == ["PASS"] * 3
    report = desk / "runs/tiny" / f"report-{name}.json"
    compared = command(desk, "compare", report, report)
    assert "accuracy_corrupted fog-3" in compared.out
    assert command(desk, "verify", "runs/tiny").code == 0
    page = (desk / "runs/tiny" / f"report-{name}.md").read_text()
    assert "## Accuracy under corruptions" in page
    assert "severities-chart" in (desk / "runs/tiny" / f"report-{name}.html").read_text()
    assert json.loads(report.read_text())["measurements"]
