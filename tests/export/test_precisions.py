"""fp16 and int8: what a lowered file computes, in which types, and what cannot be lowered."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from robustdeploy.core.registry import BACKENDS, PRECISIONS
from robustdeploy.errors import ArtifactError, RecipeError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.twin import load_twin
from robustdeploy.onboard.types import pixels_from_bytes

SHAPE = (3, 12, 12)
IMAGES = np.random.default_rng(0).integers(0, 256, (48, *SHAPE), np.uint8)
PIXELS = pixels_from_bytes(IMAGES)
FORMS = {
    "fp16": ("fp16", {}),
    "u8s8": ("int8", {}),
    "s8s8": ("int8", {"form": "s8s8"}),
    "entropy": ("int8", {"method": "entropy"}),
    "percentile": ("int8", {"method": "percentile", "percentile": 99.9}),
}


class Plain(nn.Module):
    """A convolution, a depthwise one, a residual sum, a pooling and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        x = self.stem(images)
        x = torch.nn.functional.max_pool2d(x + self.depthwise(x), 2)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Products of activations, a normalisation and a softmax."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 5)

    def forward(self, images):
        x = self.norm(self.cut(images).flatten(2).transpose(1, 2))
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


@pytest.fixture(scope="module", params=[Plain, Attention], ids=["plain", "attention"])
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    net = request.param().eval()
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(net, SHAPE, path, 20, NO_METADATA)
    return path


@pytest.fixture(scope="module")
def runtime():
    return BACKENDS.build("onnxruntime", {})


def lowered(exported, tmp_path, form):
    name, options = FORMS[form]
    path = tmp_path / f"{form}.onnx"
    PRECISIONS.build(name, options).lower(exported, path, PIXELS)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_lowered_file_computes_nearly_the_same_and_its_twin_exactly_that(exported, tmp_path, runtime, form):
    path = lowered(exported, tmp_path, form)
    before, after = runtime.load(exported)(PIXELS), runtime.load(path)(PIXELS)
    span = np.ptp(before)
    assert after.dtype == np.float32
    assert 0 < np.abs(after - before).max() < (0.01 if form == "fp16" else 0.15) * span
    with torch.no_grad():
        twin = load_twin(path)(torch.from_numpy(PIXELS)).numpy()
    # In whole steps a value on the edge may fall to either side; most scores are the same to rounding.
    assert np.median(np.abs(twin - after)) < 0.01 * span
    assert (twin.argmax(1) == after.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("form", FORMS)
def test_input_output_metadata_and_the_order_of_nodes_stay(exported, tmp_path, form):
    model, before = onnx.load(lowered(exported, tmp_path, form)), onnx.load(exported)
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["scores"]
    assert model.graph.input[0].type == before.graph.input[0].type
    added = {"robustdeploy.precision": FORMS[form][0]}
    assert {p.key: p.value for p in model.metadata_props} == {p.key: p.value for p in before.metadata_props} | added
    known = {"", "images", *(tensor.name for tensor in model.graph.initializer)}
    for node in model.graph.node:
        assert set(node.input) <= known, node.name
        known.update(node.output)


def test_the_types_of_a_graph_are_those_of_its_precision(exported, tmp_path):
    def kinds(form):
        return {numpy_helper.to_array(t).dtype for t in onnx.load(lowered(exported, tmp_path, form)).graph.initializer}

    assert np.dtype(np.float16) in kinds("fp16")
    assert np.dtype(np.uint8) in kinds("u8s8")
    assert np.dtype(np.uint8) not in kinds("s8s8")
    assert np.dtype(np.int32) not in kinds("s8s8")  # biases stay floats there
    for tensor in onnx.load(lowered(exported, tmp_path, "s8s8")).graph.initializer:
        if tensor.name.endswith("zero_point"):
            assert not numpy_helper.to_array(tensor).any(), tensor.name


def test_scores_are_no_multiples_of_one_step(exported, tmp_path, runtime):
    scores = runtime.load(lowered(exported, tmp_path, "u8s8"))(PIXELS)
    assert len(np.unique(scores)) > 0.8 * scores.size


def test_the_same_images_give_the_same_file_and_others_another(exported, tmp_path):
    int8 = PRECISIONS.build("int8", {})
    for name, images in (("one", PIXELS), ("again", PIXELS), ("other", PIXELS[:8] / 3)):
        int8.lower(exported, tmp_path / name, images)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_a_weight_that_float16_cannot_hold_is_refused_by_its_name(exported, tmp_path):
    model = onnx.load(exported)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e7), tensor.name))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(ArtifactError, match=f"the weights {tensor.name} reach .* and float16 ends at 65,504"):
        PRECISIONS.build("fp16", {}).lower(tmp_path / "large.onnx", tmp_path / "out.onnx", None)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("options", [{"form": "u8u8"}, {"method": "kl"}, {"percentile": 30}, {"count": 0}, {"bits": 4}])
def test_wrong_options_are_refused(options):
    with pytest.raises(RecipeError):
        PRECISIONS.build("int8", options)


class ByShapes(nn.Module):
    """Computes with shapes: an expansion and a concatenation to sizes that are worked out."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 5))

    def forward(self, images):
        x = self.conv(images).flatten(2).amax(-1)
        scale = x.norm(dim=1, keepdim=True).expand(x.shape)
        return (x / scale) @ self.head


def test_a_net_that_computes_with_shapes_is_quantised(tmp_path, runtime):
    torch.manual_seed(0)
    export_onnx(ByShapes().eval(), SHAPE, tmp_path / "net.onnx", 20, NO_METADATA)
    PRECISIONS.build("int8", {}).lower(tmp_path / "net.onnx", tmp_path / "int8.onnx", PIXELS)
    before, after = runtime.load(tmp_path / "net.onnx")(PIXELS), runtime.load(tmp_path / "int8.onnx")(PIXELS)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.9
