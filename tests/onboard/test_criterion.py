"""The criterion: one object decides what is right, for numpy's arrays and torch's alike."""

import ast
from pathlib import Path

import numpy as np
import torch

import robustdeploy
from robustdeploy.attacks.losses import margin_loss
from robustdeploy.onboard.criterion import CLASSIFICATION

SCORES = np.array([[1.0, 3.0, 2.0], [4.0, 0.0, 4.0], [0.0, 0.5, -8.0]], np.float32)
LABELS = np.array([1, 2, 0])
# Places in which the highest of other numbers than scores is looked for.
OTHERS = {
    "evaluate/classes.py",
    "nets/steady.py",
    "prune/budget.py",
    "prune/rates.py",
    "prune/staircase.py",
    "onboard/criterion.py",
    "nets/torch_operators.py",
    "attacks/patches/patch.py",
    "imports/noticing.py",
}


def test_numpy_and_torch_are_judged_alike():
    assert CLASSIFICATION.predictions(SCORES).tolist() == [1, 0, 1]
    assert CLASSIFICATION.right(SCORES, LABELS).tolist() == [True, False, False]
    scores, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    assert CLASSIFICATION.predictions(scores).tolist() == [1, 0, 1]
    assert CLASSIFICATION.right(scores, labels).tolist() == [True, False, False]
    assert CLASSIFICATION.right(scores, labels).dtype == torch.bool


def test_the_margin_is_how_far_an_answer_is_right_and_the_loss_climbs_the_other_way():
    margin = CLASSIFICATION.margin(SCORES, LABELS)
    assert margin.tolist() == [1.0, 0.0, -0.5]
    assert (-margin).tolist() == margin_loss(torch.from_numpy(SCORES), torch.from_numpy(LABELS)).tolist()
    assert SCORES[0, 1] == 3.0  # what was asked about is left alone


def test_nothing_else_decides_what_is_right():
    root = Path(robustdeploy.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "argmax":
                found.add(path.relative_to(root).as_posix())
    assert found == OTHERS
