"""A data set's folder is looked through once for each time that it is read, however many checks ask for it."""

import numpy as np
from PIL import Image

PETS = """
name: pets
data: {name: folder, path: pets, validation: 0.25}
net: resnet8
budget: {ops: 0.9}
evaluate: {attacks: [fgsm], eps_curve: []}
gate: [{id: RD-OPS-01, metric: ops, at_most: 9}, {id: RD-ACC-01, metric: clean_accuracy, at_least: 0.01}]
"""
"""The first rule needs the costs of the dense net, and the second the number of test images."""


def test_class_folders_are_listed_once_before_a_training(tmp_path, command, listed):
    rng = np.random.default_rng(0)
    classes = [f"pets/{side}/{name}" for side in ("train", "test") for name in ("cat", "dog")]
    for folder in classes:
        (tmp_path / folder / "more").mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
        (tmp_path / folder / "more/notes.txt").write_text("")
    (tmp_path / "pets.yaml").write_text(PETS)
    for words in (["prune"], ["run"]):
        listed.clear()
        done = command(tmp_path, *words, "pets.yaml")
        assert done.code == 2
        assert "passed over for their suffix (2 .txt)" in done.err
        assert "RD-OPS-01 can never hold" in done.err
        assert {folder: listed[folder] for folder in classes} == dict.fromkeys(classes, 1)
        assert {listed[f"{folder}/more"] for folder in classes} == {1}
