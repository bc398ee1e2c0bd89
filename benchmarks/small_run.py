"""A small run, for campaigns that damage or interrupt it: made in seconds, with every file that a run has."""

from __future__ import annotations

from pathlib import Path

NAME = "tiny"
RECIPE = """\
name: tiny
net: resnet8
threat: {norm: linf, eps: 0.1}
train: {task: fastat, epochs: 2, batch_size: 64, lr: 0.2, device: cpu}
budget: {ops: 0.5}
baseline: false
evaluate:
  limit: 40
  curve_limit: 20
  eps_curve: [1.0, 4.0]
  attacks: [fgsm, {name: pgd, steps: 3}, {name: square, queries: 20}]
gate:
  - {id: RD-OPS-01, metric: ops_fraction, at_most: 0.5}
  - {id: RD-ACC-01, metric: clean_accuracy, at_least: 0.05}
"""
TARGET = """\
extends: host-cpu
name: quick
latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}
"""
PLAN = """\
name: both
recipe: tiny.yaml
target: quick.yaml
budget: {ops: 0.5}
set: [train.epochs=1]
pretrain: {epochs: 1}
rows:
  - {name: tuned, prune: masks, after: pretrain}
"""
WORDS = ("tiny.yaml", "--target", "quick.yaml", "--name", NAME)


def written(folder: Path) -> Path:
    """Write the recipe, the target and a comparison into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "quick.yaml").write_text(TARGET)
    (folder / "both.yaml").write_text(PLAN)
    return folder
