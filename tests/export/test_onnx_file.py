import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from robustdeploy.cost.module import macs
from robustdeploy.cost.onnx_graph import macs as onnx_macs
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.parity import measure_parity

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


@pytest.fixture(scope="module")
def exported(tmp_path_factory, resnet):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(resnet, SHAPE, path, 18, METADATA, "a net")
    return path


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (40, *SHAPE)).astype(np.uint8)


def test_the_same_net_gives_the_same_bytes(exported, resnet, tmp_path):
    export_onnx(resnet, SHAPE, tmp_path / "again.onnx", 18, METADATA, "a net")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("opset", [18, 20])
def test_the_opset_is_the_one_asked_for(resnet, tmp_path, opset):
    export_onnx(resnet, SHAPE, tmp_path / "m.onnx", opset, METADATA)
    model = onnx.load(tmp_path / "m.onnx")
    assert [each.version for each in model.opset_import if each.domain == ""] == [opset]
    assert {each.domain for each in model.opset_import} == {""}
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["robustdeploy.recipe_sha256"], said["robustdeploy.eps"]) == (METADATA.recipe_sha256, str(METADATA.eps))


def test_images_in_scores_out_and_any_batch(exported, resnet, grey):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:], i.type) for i in session.get_inputs()] == [("images", [1, 8, 8], "tensor(float)")]
    assert [o.name for o in session.get_outputs()] == ["scores"]
    for n in (1, 2, 40):
        pixels = grey[:n].astype(np.float32) / 255
        with torch.no_grad():
            expected = resnet(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(session.run(None, {"images": pixels})[0], expected, atol=1e-5)


def test_the_graph_has_the_operations_of_the_net(exported, resnet):
    assert onnx_macs(exported) == macs(resnet, SHAPE)


def test_exporting_leaves_the_net_as_it_was(resnet, tmp_path):
    resnet.train()
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    export_onnx(resnet, SHAPE, tmp_path / "m.onnx", 18, METADATA)
    assert resnet.training
    resnet.eval()
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


class Branching(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :3] if images.sum() > 1 else images.flatten(1)[:, 3:6]


def test_a_net_that_cannot_be_exported_is_told_and_leaves_no_file(tmp_path):
    told = "this Branching cannot be exported to ONNX: its forward pass decides by computed values; write that decision"
    with pytest.raises(ArtifactError, match=told):
        export_onnx(Branching(), SHAPE, tmp_path / "m.onnx", 18, METADATA)
    assert list(tmp_path.iterdir()) == []


def test_parity_is_measured_on_both_sets(exported, resnet, grey):
    parity, reference = measure_parity(resnet, exported, grey, 255 - grey)
    assert (parity.n, parity.agreement_clean, parity.agreement_adversarial) == (40, 1.0, 1.0)
    assert 0 <= max(parity.max_abs_clean, parity.max_abs_adversarial) < 1e-4
    assert reference.shape == (40, 3)


def test_another_net_is_found_out_by_parity(exported, resnet, grey):
    torch.manual_seed(5)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ArtifactError, match="the export is broken"):
        measure_parity(other, exported, grey, grey)


def test_nothing_in_the_file_tells_of_the_machine_that_wrote_it(exported):
    content = exported.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"stack_trace" not in content
    assert b".py" not in content
    assert sys.prefix.encode() not in content
