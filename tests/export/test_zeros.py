from __future__ import annotations

import copy
import json

import pytest

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import macs
from robustdeploy.cost.sparse import nonzero_macs, nonzero_params, patterned_layers
from robustdeploy.engine.run import Run
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.zeros import find_zeros
from robustdeploy.nets.store import load_info, load_net, save_net
from robustdeploy.prune.n_m import NM
from robustdeploy.prune.weights import Weights

METADATA = OnnxMetadata(
    recipe_sha256="ab" * 32,
    threat="linf 8/255",
    norm="linf",
    eps=8 / 255,
    ops_ratio=1.0,
    macs=1,
    classes="a\nb\nc",
    input_mean="0.3",
    input_std="0.2",
)
SHAPE = (1, 8, 8)


def masked(resnet, pruner, budget):
    pruning = pruner.wrap(copy.deepcopy(resnet), SHAPE, budget)
    pruning.after_step(1.0)
    return pruning.compact().eval()


def test_single_zeros_are_counted_in_the_file_and_said_to_save_nothing(resnet, tmp_path):
    net = masked(resnet, Weights(), Budget(ops=0.4))
    export_onnx(net, SHAPE, tmp_path / "m.onnx", 18, METADATA)
    zeros = find_zeros(net, tmp_path / "m.onnx")
    assert zeros.macs == macs(net, SHAPE)
    assert (zeros.nonzero_macs, zeros.nonzero_params) == (nonzero_macs(net, SHAPE), nonzero_params(net))
    assert zeros.two_of_four == patterned_layers(net)
    share = f"{1 - zeros.nonzero_macs / zeros.macs:.1%}"
    assert 0.6 <= 1 - zeros.nonzero_macs / zeros.macs < 0.61
    assert zeros.note.startswith(f"{share} of the {zeros.macs:,} MACs are by weights that are 0, but a dense runtime")
    assert "executes all of them: these zeros save no time and no operation there" in zeros.note


def test_of_a_pattern_it_is_said_who_could_use_it_and_that_this_was_not_run(resnet, tmp_path):
    net = masked(resnet, NM(), Budget())
    export_onnx(net, SHAPE, tmp_path / "m.onnx", 18, METADATA)
    zeros = find_zeros(net, tmp_path / "m.onnx")
    assert len(zeros.two_of_four) == 7
    assert "7 layers are 2:4 sparse, for which TensorRT has kernels" in zeros.note
    assert zeros.note.endswith("has not been run on hardware")


def test_a_net_without_zeros_has_nothing_to_say(resnet, tmp_path):
    export_onnx(resnet, SHAPE, tmp_path / "m.onnx", 18, METADATA)
    assert find_zeros(resnet, tmp_path / "m.onnx") is None


@pytest.mark.exhaustive
@pytest.mark.slow
def test_export_and_report_of_a_run_say_it_plainly(desk, command):
    """The net of a finished run, half of whose operations are masked after the training."""
    run = Run.open(desk / "runs/tiny", desk / "runs")
    old = run.sealed("nets/pruned")
    net, info = load_net(run.root), load_info(run.root)
    pruning = Weights().wrap(net, info.image_shape, Budget(ops=0.5))
    pruning.after_step(1.0)
    stage = run.slot("train", "nets/pruned", old.inputs, old.parameters)
    stage.begin()
    save_net(stage.folder, pruning.compact().eval(), info)
    stage.seal([stage.folder / name for name in old.outputs], old.facts)
    done = command(desk, "export", "runs/tiny", "--target", "quick.yaml", "--json")
    assert done.code == 0, done.err
    facts = done.document["facts"]
    assert facts["zeros"]["macs"] == facts["counts"]["onnx"] == old.facts["macs"]
    assert 0.49 < facts["zeros"]["nonzero_macs"] / old.facts["macs"] <= 0.5
    told = command(desk, "export", "runs/tiny", "--target", "quick.yaml", "--force").err
    assert "MACs are by weights that are 0, but a dense runtime executes all of them" in told
    assert command(desk, "evaluate", "runs/tiny", "--target", "quick.yaml").code == 0
    assert command(desk, "report", "runs/tiny").code == 0
    rows = {row["metric"]: row for row in json.loads((run.root / "report.json").read_text())["measurements"]}
    dense = old.facts["dense_macs"]
    assert rows["nonzero_ops_fraction"]["value"] == facts["zeros"]["nonzero_macs"] / dense
    assert rows["ops_fraction"]["value"] == old.facts["macs"] / dense
    assert "a dense runtime executes all MACs" in (run.root / "report.md").read_text()
