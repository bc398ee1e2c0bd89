from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from robustdeploy.core.recipe import Choice
from robustdeploy.cost.module import layer_macs, macs, params
from robustdeploy.cost.sparse import (
    nonzero_layer_macs,
    nonzero_macs,
    nonzero_params,
    onnx_nonzero_macs,
    patterned_layers,
)
from robustdeploy.errors import ArtifactError
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.nets.build import build_net

LAYERS = {
    "conv": (nn.Conv2d(6, 8, (3, 5), stride=2, groups=2), (6, 11, 11)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, bias=False), (6, 10, 10)),
    "transposed": (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), (6, 5, 5)),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(54, 7)), (6, 3, 3)),
}
METADATA = OnnxMetadata(
    recipe_sha256="ab" * 32,
    threat="linf 8/255",
    norm="linf",
    eps=8 / 255,
    ops_ratio=1.0,
    macs=1,
    classes="a",
    input_mean="0.3",
    input_std="0.2",
)


def thinned(net, share=0.6, seed=0):
    """Set this share of the weights of each layer to 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                module.weight[torch.rand(module.weight.shape, generator=generator) < share] = 0
    return net


@pytest.mark.parametrize("name", LAYERS)
def test_the_count_is_what_weights_of_one_add_up_to(name):
    """Without padding, each product of a 1 with a weight of 1 adds 1 to the sum over all outputs."""
    layer, shape = LAYERS[name]
    thinned(layer)
    counted = nonzero_macs(layer, shape)
    with torch.no_grad():
        for kind, value in layer.named_parameters():
            value.copy_((value != 0).float() if kind.endswith("weight") else torch.zeros_like(value))
        assert counted == int(layer(torch.ones(1, *shape)).sum())
    assert 0 < counted < macs(layer, shape)


def test_without_zeros_the_counts_are_the_dense_ones():
    net = build_net(Choice(name="resnet8", options={"width": 4}), 10, (1, 8, 8), [0.5], [0.25])
    assert nonzero_layer_macs(net, (1, 8, 8)) == layer_macs(net, (1, 8, 8))
    assert nonzero_params(net) == params(net)
    assert patterned_layers(net) == ()


def test_zeros_outside_of_layers_weights_are_parameters_all_the_same():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
    assert nonzero_params(net) == 4 + 4 + 4
    assert nonzero_macs(net, (3, 8, 8)) == 0


def test_weights_that_run_twice_multiply_twice_and_are_stored_once():
    one = nn.Conv2d(3, 3, 1, bias=False)
    two = nn.Conv2d(3, 3, 1, bias=False)
    two.weight = one.weight
    with torch.no_grad():
        one.weight[0] = 0
    net = nn.Sequential(one, nn.ReLU(), one, two)
    assert nonzero_layer_macs(net, (3, 4, 4)) == {"0": 2 * 16 * 6, "3": 16 * 6}
    assert nonzero_params(net) == 6


def breaks_pattern(weight, n, m):
    """Whether any m consecutive inputs have more than n weights, looked at one by one."""
    outputs, inputs = weight.shape[:2]
    places = list(itertools.product(*(range(size) for size in weight.shape[2:])))
    for output, start, place in itertools.product(range(outputs), range(0, inputs, m), places):
        if sum(bool(weight[(output, start + k, *place)] != 0) for k in range(m)) > n:
            return True
    return False


def test_a_pattern_is_found_and_one_weight_too_many_is_too():
    net = nn.Sequential(nn.Conv2d(8, 3, 3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(12, 5), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[:, 1::2] = 0  # two of each four
        net[1].weight.zero_()  # reads no multiple of four
        net[3].weight[:, [0, 1, 4, 7, 8, 9]] = 0
        net[4].weight[:, 3] = 0  # three of four
    assert patterned_layers(net) == ("0", "3")
    assert not breaks_pattern(net[0].weight, 2, 4)
    assert patterned_layers(net, 3, 4) == ("0", "3", "4")
    assert patterned_layers(net, 2, 3) == ("1", "3")
    with torch.no_grad():
        net[0].weight[2, 5, 1, 0] = 1e-30
    assert breaks_pattern(net[0].weight, 2, 4)
    assert patterned_layers(net) == ("3",)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("resnet8", {"width": 4}, (1, 8, 8)),
        ("lenet", {}, (1, 28, 28)),
        ("mobilenet_v2", {"width_mult": 0.35}, (3, 32, 32)),
    ],
)
def test_the_exported_graph_has_the_same_zeros(name, options, shape, tmp_path):
    """Batch normalisation is folded into the weights on the way, which keeps zeros."""
    net = build_net(Choice(name=name, options=options), 10, shape, [0.5] * shape[0], [0.25] * shape[0]).eval()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    thinned(net)
    export_onnx(net, shape, tmp_path / "net.onnx", 18, METADATA)
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert "BatchNormalization" not in operators
    assert onnx_nonzero_macs(tmp_path / "net.onnx") == nonzero_macs(net, shape) < macs(net, shape)


def onnx_file(path, op, a, weight, first=False, **attributes):
    """A graph of one product of the input ``a`` with constants; ``first`` puts these in front."""
    names = ["w", "a"] if first else ["a", "w"]
    node = helper.make_node(op, names, ["y"], **attributes)
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, a)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("op", "a", "weight", "each", "more"),
    [
        ("MatMul", ["n", 3, 4], (4, 5), 3, {}),
        ("MatMul", [4, 6], (5, 4), 6, {"first": True}),
        ("Gemm", ["n", 4], (5, 4), 1, {"transB": 1}),
        ("Conv", ["n", 4, 5, 5], (6, 2, 3, 3), 9, {"group": 2}),
        ("ConvTranspose", ["n", 4, 5, 5], (4, 6, 2, 2), 25, {"strides": [2, 2]}),
    ],
)
def test_each_weight_of_a_graph_counts_as_often_as_it_is_used(op, a, weight, each, more, tmp_path):
    values = np.random.default_rng(0).normal(size=weight).astype(np.float32)
    values.flat[::3] = 0
    path = onnx_file(tmp_path / "m.onnx", op, a, values, **more)
    assert onnx_nonzero_macs(path) == each * int((values != 0).sum())


def test_a_product_of_two_computed_tensors_counts_in_full(tmp_path):
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("a", [3, 4]), ("b", [4, 5]))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", inputs, outputs)).SerializeToString())
    assert onnx_nonzero_macs(path) == 3 * 4 * 5


def test_weights_in_a_missing_file_are_told(tmp_path):
    path = onnx_file(tmp_path / "m.onnx", "MatMul", ["n", 4], np.ones((4, 5), np.float32))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ArtifactError, match=r"takes the values of .* from 'weights.bin'; such a file is not used"):
        onnx_nonzero_macs(path)
