"""Nets of every kind: what can be pruned is, to the same scores, and loads and exports again; what cannot stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kinds import FORMS, KINDS, SHAPE, Net, block, pooled
from torch import nn

from robustdeploy.core.recipe import Budget, Choice
from robustdeploy.cost.module import macs
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.parity import measure_parity
from robustdeploy.nets.normalised import Normalised, main_output
from robustdeploy.nets.store import NetInfo, load_net, save_net
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.groups import told_whole
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.n_m import NM
from robustdeploy.prune.rehearsal import find_groups
from robustdeploy.prune.weights import Weights
from robustdeploy.train.notes import notes

EXPORTED = ("PReLU per channel", "group norm", "batch norm without weights", "ResNeXt", "U-Net", "rows", "sigmoids")
"""Kinds with a layer that no other kind has; an export takes seconds."""


def built(name):
    torch.manual_seed(0)
    return Normalised(KINDS[name][0](), [0.5], [0.25]).eval()


def made(name):
    """The factory that a saved net names."""
    return lambda num_classes: KINDS[name][0]()


def for_sizes(**sizes):
    return {f"net.{name}": size for name, size in sizes.items()}


@pytest.fixture(scope="module")
def pruned():
    """Nets under masks after one step, frozen at some channels, by kind."""
    held = {}

    def get(name):
        if name not in held:
            net = built(name)
            budget = next(ops for ops in (0.5, 0.75, 0.9, 0.93, 0.96, 0.98) if reachable(net, ops))
            pruning = Masks().begin(net, SHAPE, Budget(ops=budget))
            with torch.no_grad():
                pruning.logits.normal_(generator=torch.Generator().manual_seed(1))
            pruning.train()(torch.rand(8, *SHAPE)).square().mean().backward()
            pruning.before_step(8)
            pruning.after_step(1.0)
            held[name] = pruning
        return held[name]

    return get


def reachable(net, ops):
    try:
        Masks().begin(net, SHAPE, Budget(ops=ops))
    except BudgetError:
        return False
    return True


@pytest.mark.parametrize("name", KINDS)
def test_the_groups_are_these_and_what_stays_is_named(name):
    coupling = find_groups(built(name), SHAPE)
    _, sizes, stays = KINDS[name]
    assert {group.name: group.size for group in coupling.groups} == for_sizes(**sizes)
    told = told_whole(coupling.whole)
    for layer, reason in stays.items():
        assert reason in told_whole({layer: coupling.whole[f"net.{layer}"]})
        assert layer in told


@pytest.mark.parametrize("name", KINDS)
def test_masked_and_compact_net_give_the_same_scores_and_it_loads_again(name, pruned, tmp_path):
    pruning = pruned(name)
    small = pruning.compact()
    images = torch.rand(6, *SHAPE)
    assert prove_equal(pruning.eval(), small, images, images).clean <= 1e-5
    assert round(pruning.costs()["ops"]) == macs(small, SHAPE) < macs(pruning.net, SHAPE)
    assert main_output(small.train()(images)).shape == (6, 10)
    names = tuple(f"c{number}" for number in range(10))
    choice = Choice(name="kinds_factory:make", options={"name": name})
    info = NetInfo(net=choice, classes=names, image_shape=SHAPE, mean=(0.5,), std=(0.25,))
    save_net(tmp_path, small.eval(), info)
    again = load_net(tmp_path, **LOADING)
    with torch.no_grad():
        assert torch.equal(again(images), small(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_the_exported_file_gives_the_same_scores(name, pruned, tmp_path):
    small, words = pruned(name).compact().eval(), dict.fromkeys(("recipe_sha256", "threat", "norm", "classes"), "x")
    metadata = OnnxMetadata(**words, eps=0.1, ops_ratio=1, macs=1, input_mean="0.5", input_std="0.25")
    export_onnx(small, SHAPE, tmp_path / "model.onnx", 18, metadata)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE)).astype(np.uint8)
    parity, _ = measure_parity(small, tmp_path / "model.onnx", images, images)
    assert parity.max_abs_clean < 1e-4


@pytest.mark.parametrize("pruner", [Weights(), NM()], ids=["weights", "n-m"])
@pytest.mark.parametrize("name", [*list(KINDS)[-9:], "twice", "convnext".replace("convnext", "ConvNeXt")])
def test_single_weights_are_masked_in_nets_of_every_kind(name, pruner):
    net = built(name)
    computed = [layer for layer, reason in find_groups(net, SHAPE).whole.items() if "computed" in reason]
    pruning = pruner.begin(net, SHAPE, Budget(ops=0.6) if isinstance(pruner, Weights) else Budget())
    assert set(computed) <= set(pruning.whole)
    pruning.train()(torch.rand(8, *SHAPE)).square().mean().backward()
    pruning.before_step(8)
    pruning.after_step(0.2)
    pruning.after_step(1.0)
    images = torch.rand(4, *SHAPE)
    assert prove_equal(pruning.eval(), pruning.compact(), images, images).clean <= 1e-5
