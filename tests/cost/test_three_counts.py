from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import NETS
from robustdeploy.cost import flop_counter, module, onnx_graph
from robustdeploy.errors import ArtifactError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.size import Size, resize_modules

CASES = [(name, {}, 32) for name in NETS.names()] + [
    ("vgg16-bn", {"head": "hydra"}, 32),
    ("mobilenet_v2", {"width_mult": 0.5}, 32),
    ("torchvision.models:resnet18", {}, 224),
]


def exported(net: nn.Module, shape: tuple[int, int, int], path: Path) -> Path:
    program = torch.onnx.export(
        net.eval(),
        (torch.zeros(2, *shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "options", "side"), CASES)
def test_three_counts_agree(name: str, options: dict[str, object], side: int, tmp_path: Path) -> None:
    shape = (3, side, side)
    net = build_net(Choice(name=name, options=options), 10, shape, [0.5] * 3, [0.25] * 3)
    counted = module.macs(net, shape)
    assert counted == flop_counter.macs(net, shape) > 0
    if name not in (
        "cifar-resnet",
        "resnet56",
        "resnet32",
        "preact-resnet18",
    ):  # the same blocks as others here; exports take seconds
        assert counted == onnx_graph.macs(exported(net, shape, tmp_path / "net.onnx"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_three_counts_agree_on_a_compact_net(tmp_path: Path) -> None:
    shape = (1, 8, 8)
    net = build_net(Choice(name="resnet8"), 10, shape, [0.5], [0.25])
    dense = module.macs(net, shape)
    index = (3, -1, *range(14))
    sizes = {
        "net.stages.0.0.conv1": Size(inputs=16, outputs=5),
        "net.stages.0.0.bn1": Size(inputs=5, outputs=5),
        "net.stages.0.0.conv2": Size(inputs=5, outputs=16),
        "net.stages.1.0.conv2": Size(inputs=32, outputs=16),
        "net.stages.1.0.bn2": Size(inputs=16, outputs=16),
        "net.stages.1.0.shortcut": Size(inputs=16, outputs=16, index=index),
        "net.stages.2.0.conv1": Size(inputs=16, outputs=64),
        "net.stages.2.0.shortcut": Size(inputs=16, outputs=64, index=(-1,) * 48 + tuple(range(16))),
    }
    resize_modules(net, sizes)
    counted = module.macs(net, shape)
    saved = 2 * 64 * 9 * 16 * 11 + 16 * 9 * 32 * 16 + 4 * 9 * 16 * 64
    assert counted == dense - saved
    assert counted == flop_counter.macs(net, shape) == onnx_graph.macs(exported(net, shape, tmp_path / "n.onnx"))


def onnx_file(path: Path, nodes: list[onnx.NodeProto], **shapes: list[int | str]) -> Path:
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("op", "attributes", "a", "b", "expected"),
    [
        ("MatMul", {}, ["n", 3, 4], [4, 5], 3 * 4 * 5),
        ("Gemm", {"transA": 1}, [4, 3], [4, 5], 3 * 4 * 5),
        ("Gemm", {"transB": 1}, ["n", 4], [5, 4], 4 * 5),
        ("Conv", {"group": 2}, ["n", 4, 5, 5], [6, 2, 3, 3], 6 * 9 * 2 * 9),
        ("ConvTranspose", {"strides": [2, 2]}, ["n", 4, 5, 5], [4, 6, 2, 2], 4 * 25 * 6 * 4),
    ],
)
def test_products_are_counted_as_defined(
    tmp_path: Path, op: str, attributes: dict[str, object], a: list[int | str], b: list[int | str], expected: int
) -> None:
    node = helper.make_node(op, ["a", "b"], ["y"], **attributes)
    assert onnx_graph.product_macs(onnx_file(tmp_path / "m.onnx", [node], a=a, b=b)) == {"y": expected}


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 something", b"\xff" * 64):
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="ONNX"):
            onnx_graph.macs(path)
    with pytest.raises(ArtifactError, match="cannot read"):
        onnx_graph.macs(tmp_path / "missing.onnx")


def test_a_free_image_size_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["a", "b"], ["y"], name="first")
    path = onnx_file(tmp_path / "m.onnx", [node], a=["n", 3, "h", "w"], b=[4, 3, 3, 3])
    with pytest.raises(ArtifactError, match="cannot be inferred; export the net with a fixed image size"):
        onnx_graph.macs(path)
