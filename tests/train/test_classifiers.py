"""Torchvision's classifiers all the way: a short training under masks, the freeze, the smaller net and its export."""

from __future__ import annotations

import math

import pytest
import torch
from trainings import silent

from robustdeploy import load_net
from robustdeploy.core.callback import SILENT
from robustdeploy.core.load import load_recipe
from robustdeploy.cost.module import macs
from robustdeploy.data.images import numbered
from robustdeploy.data.load import Loaded
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.seal import Slot
from robustdeploy.engine.stage import Finished, Work
from robustdeploy.export.exporting import export
from robustdeploy.train.trainings import train_pruned

SHAPE = (3, 32, 32)
OPS = 0.6
KINDS = (
    pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.exhaustive),  # shuffled channels
    pytest.param("mobilenet_v3_small", marks=pytest.mark.exhaustive),  # depthwise layers, squeeze and excitation
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
    (tmp_path / "net").mkdir()
    (tmp_path / "onnx").mkdir()
    work = Work("nets/pruned", tmp_path / "net", "net", ledger, SILENT, {})
    record = train_pruned(recipe, data, work, silent)
    assert record.macs == macs(load_net(tmp_path / "net"), SHAPE)
    assert 0.97 * OPS * record.dense_macs < record.macs <= OPS * record.dense_macs
    assert record.proof is not None
    assert max(record.proof.clean, record.proof.adversarial) <= record.proof.tolerance == 1e-5
    slot = Slot(tmp_path, "train", "net", {}, {}, recipe.seed, ledger)
    sealed = slot.seal([tmp_path / "net" / file for file in work.outputs], record.model_dump(mode="json"))
    exported = export(
        recipe,
        20,
        Finished(tmp_path / "net", sealed, record),
        Work("onnx/pruned/fp32", tmp_path / "onnx", "onnx", ledger, SILENT, {}),
    )
    assert set(exported.counts.values()) == {record.macs}
    assert math.isfinite(exported.parity.max_abs_clean)
