"""init: files for images and a net of one's own, by options or by answers, and what a newcomer does next."""

import io
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

NET = """
from torch import nn


def small(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
JOBS = {"github": ".github/workflows/robustness.yml", "gitlab": ".gitlab-ci.yml", "jenkins": "Jenkinsfile"}


@pytest.fixture
def newcomer(tmp_path):
    """A folder with three kinds of small pictures and a module with a net."""
    rng = np.random.default_rng(0)
    for side, count in (("train", 40), ("test", 16)):
        for label, name in enumerate(("bars", "checks", "dots")):
            folder = tmp_path / "pictures" / side / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (12, 12, 3))
                pixels[(slice(None, None, 4), slice(None, None, 2), slice(4, 8))[label]] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "net_of_a_newcomer.py").write_text(NET)
    return tmp_path


def written(folder):
    held = (p for p in folder.rglob("*") if p.is_file() and "pictures" not in p.parts and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix() for p in held} - {"net_of_a_newcomer.py"}


@pytest.mark.parametrize("system", [*JOBS, "none"])
def test_options_give_all_files_and_nothing_is_overwritten(newcomer, command, system):
    words = ["init", "--data", "pictures", "--net", "net_of_a_newcomer:small", "--ci", system, "--eps", "4/255"]
    done = command(newcomer, *words, "--json")
    assert done.code == 0, done.err
    files = {"recipe.yaml", "target.yaml", "gates.yaml", *([JOBS[system]] if system in JOBS else [])}
    assert set(done.document["files"]) == written(newcomer) == files
    recipe = yaml.safe_load((newcomer / "recipe.yaml").read_text())
    assert (recipe["net"], recipe["threat"]["eps"]) == ("net_of_a_newcomer:small", "4/255")
    # 48 images, all right, have a lower bound of 92.6 %.
    assert max(rule["at_least"] for rule in recipe["gate"] if "at_least" in rule) == 0.92
    (newcomer / "recipe.yaml").write_text("mine")
    again = command(newcomer, *words)
    assert (again.code, "already here: recipe.yaml" in again.err) == (2, True)
    assert (newcomer / "recipe.yaml").read_text() == "mine"
    assert command(newcomer, *words, "--force").code == 0
    assert (newcomer / "recipe.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "init needs --data"),
        (["--data", "nowhere"], "does not exist"),
        (["--data", "pictures/train"], "no train folder"),
        (["--data", "pictures", "--net", "net_of_a_newcomer:smal"], "defines no smal"),
        (["--data", "pictures", "--net", "resnet2O"], "did you mean"),
        (["--data", "pictures", "--target", "jetson-orni"], "did you mean 'jetson-orin"),
        (["--data", "pictures", "--eps", "3"], "recipe.yaml:"),
        (["--data", "pictures", "--ops-target", "much"], "budget.ops"),
        (["--data", "pictures", "--name", "a b"], "name: must match"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(newcomer, command, words, told):
    done = command(newcomer, "init", *words)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert written(newcomer) == set()


class Terminal(io.StringIO):
    """What is typed at a terminal."""

    def isatty(self):
        return True


def test_on_a_terminal_it_asks_and_a_wrong_system_is_asked_again(newcomer, command, monkeypatch):
    answers = ["pictures", "", "net_of_a_newcomer:small", "null", "0.4", "", "travis", "jenkins"]
    monkeypatch.setattr(sys, "stdin", Terminal("\n".join(answers) + "\n"))
    done = command(newcomer, "init")
    assert done.code == 0, done.err
    assert "Folder of your images" in done.err
    assert written(newcomer) == {"recipe.yaml", "target.yaml", "gates.yaml", "Jenkinsfile"}
    recipe, target = (yaml.safe_load((newcomer / f"{name}.yaml").read_text()) for name in ("recipe", "target"))
    assert (recipe["name"], recipe["budget"], target["extends"]) == ("pictures", {"ops": 0.4}, "null")


@pytest.mark.slow
def test_a_newcomer_goes_from_init_to_a_verdict_by_the_commands_that_are_told(newcomer, command):
    words = ["--data", "pictures", "--net", "net_of_a_newcomer:small", "--ci", "none"]
    told = command(newcomer, "init", *words, "--json").document["next"]
    assert [line.split()[1] for line in told] == ["validate", "plan", "run"]
    quick = ["train.epochs=1", "train.batch_size=16", "train.device=cpu", "baseline=false", "evaluate.curve_limit=10"]
    quick += ["evaluate.eps_curve=[1]", "evaluate.attacks=[fgsm,{name: square, queries: 5}]"]
    more = [word for each in quick for word in ("--set", each)]
    (newcomer / "target.yaml").write_text(
        (newcomer / "target.yaml").read_text() + "latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}\n"
    )
    for line in told:
        done = command(newcomer, *line.split()[1:], *([] if "validate" in line else more))
        # A net of one epoch may fail or be undecided; that is a verdict all the same.
        assert done.code in ((0, 1, 3) if " run " in line else (0,)), done.err
    assert (newcomer / "runs/latest/report.json").is_file()
