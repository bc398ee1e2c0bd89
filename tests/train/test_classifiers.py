"""Torchvision's classifiers all the way: a short training under masks, the freeze, the smaller net and its export."""

from __future__ import annotations

import math

import pytest
import torch
from trainings import silent

from robustdeploy import load_net
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.cost.module import macs
from robustdeploy.data.images import numbered
from robustdeploy.data.load import Loaded
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.seal import Stage
from robustdeploy.export.exporting import export
from robustdeploy.train.trainings import train_pruned

SHAPE = (3, 32, 32)
OPS = 0.6
KINDS = (
    "squeezenet1_1",  # concatenated maps
    "shufflenet_v2_x0_5",  # shuffled channels
    "mobilenet_v3_small",  # depthwise layers, squeeze and excitation
    "torchvision.models:resnet18",  # residual additions
)


def noise(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return numbered(
        torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator), torch.arange(count) % 4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_classifier_is_trained_pruned_proved_and_exported(name, tmp_path):
    chosen = (f"net={name}", f"budget.ops={OPS}", "train.epochs=3", "train.batch_size=16", "train.device=cpu")
    recipe, half = load_recipe("digits-resnet8", chosen), (0.5,) * 3
    data = Loaded("noise", tuple("abcd"), SHAPE, half, half, False, 0, noise(32, 0), noise(16, 1), "0", 0)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    facts = train_pruned(
        recipe, data, Stage(tmp_path, "train", "train", {"images": "0"}, {"net": name}, recipe.seed, ledger), silent
    ).facts
    assert facts["macs"] == macs(load_net(tmp_path / "train"), SHAPE)
    assert 0.97 * OPS * facts["dense_macs"] < facts["macs"] <= OPS * facts["dense_macs"]
    assert max(facts["proof"]["clean"], facts["proof"]["adversarial"]) <= facts["proof"]["tolerance"] == 1e-5
    place = Stage(tmp_path, "export", "export", {"net": "0"}, {"target": "host-cpu"}, recipe.seed, ledger)
    exported = export(recipe, load_target("host-cpu"), tmp_path / "train", facts, place).facts
    assert set(exported["counts"].values()) == {facts["macs"]}
    assert math.isfinite(exported["parity"]["max_abs_clean"])
