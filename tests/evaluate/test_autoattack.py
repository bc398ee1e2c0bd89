"""AutoAttack in an evaluation: parts one after the other, each on what stands, a row for each and one for all."""

import json
from pathlib import Path

import numpy as np
import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice, Evaluate
from robustdeploy.core.subject import Subject
from robustdeploy.evaluate.adversaries import in_order, settings_of
from robustdeploy.evaluate.attack import adversaries_from
from robustdeploy.evaluate.ensembles.autoattack import AutoAttack
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.rows import accuracy_rows

QUICK = Choice(name="autoattack", options={"steps": 5, "targets": 2, "queries": 30})
PARTS = [f"autoattack-{part}" for part in ("apgd-5", "apgd-5-dlr-t2", "fab-5-t2", "square-30")]
WHOLE = "autoattack-5-t2-30"


def test_published_settings_have_the_plain_name():
    assert AutoAttack().label == "autoattack"
    (first, *_, last) = adversaries_from((Choice(name="autoattack"),))
    assert (first.label, last.label) == ("autoattack-apgd-100", "autoattack-square-5000")
    assert [each.kind for each in adversaries_from((QUICK,))] == ["transfer"] * 3 + ["query"]


def test_a_recipe_that_names_no_attacks_gets_the_ensemble_below_a_ladder_of_cheaper_ones():
    labels = [each.label for each in adversaries_from(Evaluate().attacks)]
    parts = [f"autoattack-{part}" for part in ("apgd-100", "apgd-100-dlr-t9", "fab-100-t9", "square-5000")]
    assert labels == ["fgsm", "pgd-10", "pgd-50-10", *parts]
    # It is dear, so what ships says by itself what it is attacked by.
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipes
    assert all("autoattack" not in str(load_recipe(path).evaluate.attacks) for path in recipes)


def test_of_few_classes_the_rows_say_what_was_run():
    settings = settings_of(adversaries_from((QUICK,)), classes=2)
    assert settings[PARTS[1]]["loss"] == "margin, as dlr needs three classes"
    assert [settings[part]["targets"] for part in PARTS[1:3]] == [1, 1]
    assert settings_of(adversaries_from((QUICK,)), classes=3)[PARTS[1]]["loss"] == "dlr"
    assert settings[WHOLE] == {"attack": "autoattack", **QUICK.options}


def test_each_ensemble_begins_anew_and_what_stands_alone_is_given_nothing():
    other = Choice(name="autoattack", options={"steps": 6, "targets": 2, "queries": 31})
    adversaries = adversaries_from((Choice(name="fgsm"), QUICK, other))
    given = []
    in_order(adversaries, "clean", lambda each, ahead: given.append(ahead) or each.label)
    labels = [each.label for each in adversaries]
    assert given == [None, "clean", *labels[1:4], "clean", *labels[5:8]]


def outcome(label, board, host, ahead, kind="transfer"):
    """Labels by one digit for each image; 0 is right."""
    made = [np.array(list(map(int, word))) for word in (board, host)]
    return AttackOutcome(label, kind, np.zeros((4, 1, 1, 1), np.uint8), *made, ensemble=WHOLE, ahead=ahead)


def test_a_part_counts_what_was_broken_before_it_though_the_board_is_right_again():
    adversaries = adversaries_from((QUICK,))
    clean = AttackOutcome("", "transfer", np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4), np.zeros(4))
    first = outcome(PARTS[0], "1000", "0000", clean)
    # The host stood, so its gradient was followed anew; the new image fools it, and no longer the board.
    second = outcome(PARTS[1], "0000", "1000", first)
    third = outcome(PARTS[2], "0100", "1000", second)
    last = outcome(PARTS[3], "0100", "1000", third, "query")
    zeros = np.zeros(4, np.int64)
    outcomes = Outcomes(zeros, clean.images, zeros, zeros, zeros, (first, second, third, last))
    settings = settings_of(adversaries, classes=10)
    rows = {
        (row.attack, row.subject): row
        for row in accuracy_rows(outcomes, settings, Subject("pruned", "fp32", "quick"))
        if row.metric == "robust_accuracy"
    }
    board = [rows[label, "pruned/fp32@quick"] for label in (*PARTS, WHOLE, "worst")]
    assert [row.value for row in board] == [0.75, 0.75, 0.5, 0.5, 0.5, 0.5]
    assert [(row.conditions["stood_before"], row.conditions["fell"]) for row in board[:4]] == [
        (4, 1),
        (3, 0),
        (3, 1),
        (2, 0),
    ]
    assert [row.kind for row in board] == ["transfer"] * 3 + ["query", "worst", "worst"]
    assert board[2].conditions["worst_of"] == PARTS[:3]
    host = [rows[label, "pruned/fp32@torch"].value for label in (*PARTS, WHOLE, "worst")]
    assert host == [1.0, 0.75, 0.75, 0.75, 0.75, 0.75]


@pytest.fixture(scope="module")
def evaluated(chain, tmp_path_factory, command):
    import shutil

    desk = tmp_path_factory.mktemp("autoattack") / "desk"
    shutil.copytree(chain, desk, symlinks=True)
    attacks = "[{name: pgd, steps: 5}, {name: autoattack, steps: 5, targets: 2, queries: 30}]"
    done = command(desk, "evaluate", "runs/tiny", "--target", "quick.yaml", "--set", f"evaluate.attacks={attacks}")
    assert done.code == 0, done.err
    (folder,) = (desk / "runs/tiny/boards/pruned").glob("fp32@quick@*")
    rows = json.loads((folder / "rows.json").read_text())
    with np.load(folder / "outcomes.npz") as arrays:
        return desk, folder, rows, {name: arrays[name] for name in arrays.files}


def accuracies(rows, subject, *attacks):
    found = {
        row["attack"]: row
        for row in rows["measurements"]
        if (row["metric"], row["subject"]) == ("robust_accuracy", subject)
    }
    return [found[attack] for attack in attacks]


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["pruned/fp32@quick", "pruned/fp32@torch", "dense/fp32@torch"])
def test_every_part_has_its_row_and_the_last_is_the_whole(evaluated, subject):
    _, _, rows, _ = evaluated
    parts = accuracies(rows, subject, *PARTS)
    whole, worst, alone = accuracies(rows, subject, WHOLE, "worst", "pgd-5")
    values = [row["value"] for row in parts]
    assert values == sorted(values, reverse=True)
    assert 0 < whole["value"] == values[-1] < alone["n"]
    assert worst["value"] <= min(whole["value"], alone["value"])
    left = [row["conditions"]["stood_before"] - row["conditions"]["fell"] for row in parts]
    assert left == [round(row["value"] * row["n"]) for row in parts]
    assert left[:-1] == [row["conditions"]["stood_before"] for row in parts[1:]]
    assert whole["n"] == 60


@pytest.mark.slow
def test_only_what_stands_is_attacked_and_the_rest_stays_as_it_was(evaluated):
    _, _, rows, arrays = evaluated
    stands, images = arrays["predictions"] == arrays["labels"], arrays["images"]
    attacked = []
    for part in PARTS:
        changed = (arrays[f"{part}/images"] != images).any(axis=(1, 2, 3))
        assert not (changed & ~stands).any()
        attacked.append(int(stands.sum()))
        images, stands = arrays[f"{part}/images"], stands & (arrays[f"{part}/predictions"] == arrays["labels"])
    assert attacked[0] > attacked[-1] > 0
    queries = arrays[f"{PARTS[-1]}/queries"]
    assert (queries > 0).sum() == attacked[-1]
    (row,) = (row for row in rows["measurements"] if row["metric"] == "attack_queries")
    assert (row["n"], row["conditions"]["total"]) == (attacked[-1], int(queries.sum()))


@pytest.mark.slow
def test_report_bisect_and_rules_know_the_parts(evaluated, command):
    desk, folder, _, _ = evaluated
    name = folder.name.partition("@")[2]
    assert command(desk, "report", "runs/tiny", "--target", name).code == 0
    text = (desk / f"runs/tiny/report-{name}.md").read_text()
    assert f"| {PARTS[1]} |" in text
    assert "that stood so far" in text
    assert command(desk, "bisect", "runs/tiny", "--target", name, "--json").code == 0
    recipe = (desk / "tiny.yaml").read_text().replace("[fgsm,", "[autoattack, fgsm,")
    for attack, code in (("autoattack", 0), ("autoattack-fab-100-t9", 0), ("autoattack-square-100", 2)):
        rule = f"  - {{id: T-1, metric: robust_accuracy, attack: {attack}, at_least: 0.1}}\n"
        (desk / "more.yaml").write_text(f"{recipe}{rule}")
        assert command(desk, "validate", "more.yaml").code == code
