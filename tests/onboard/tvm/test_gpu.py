"""GPU: kernels for NVIDIA's boards are compiled here, to what their driver loads; none of them is run."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.core.load import load_target
from robustdeploy.errors import ArtifactError, ToolchainError
from robustdeploy.onboard.backends.tvm import Tvm
from robustdeploy.onboard.tvm.gpu import cubin_of, gpu_target, kernels_of
from robustdeploy.onboard.tvm.installed import compiler

PROBE = Tvm().probe()
pytestmark = [
    pytest.mark.skipif(
        not (PROBE.usable and PROBE.details["compiles"]), reason=f"TVM's compiler is not here: {PROBE.fix}"
    ),
    pytest.mark.skipif(
        not shutil.which("aarch64-linux-gnu-gcc"), reason="apt-get install gcc-aarch64-linux-gnu links for these boards"
    ),
]
BOARDS = {"jetson-orin-tvm": "sm_87", "jetson-thor-tvm": "sm_110a"}
CUBIN = 190  # ELF's number for code of NVIDIA's GPUs


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    weight = (np.random.default_rng(0).normal(size=(8, 3, 3, 3)) / 5).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["scores"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, "g", [given], [answered], [numpy_helper.from_array(weight, "w")])
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.mark.parametrize(("name", "arch"), BOARDS.items())
def test_kernels_compile_for_the_boards_gpu(net, tmp_path, name, arch):
    target = load_target(name)
    assert target.status == "contract-tested"
    assert "experimental" in target.description
    Tvm(**target.backend.options).compile(net, tmp_path)
    about = json.loads((tmp_path / "engine.json").read_text())
    assert (about["machine"], about["gpu"]) == ("aarch64", target.backend.options["gpu"])
    if "not compiled here" in about["notes"][0]:
        pytest.skip(about["notes"][0])
    assert about["notes"][0].startswith(f"experimental: kernels compile for {arch}, to ")
    with pytest.raises(ArtifactError, match="is for aarch64"), Tvm(gpu=about["gpu"]).open(tmp_path):
        pytest.fail("an engine for another machine was opened")


def test_what_nvrtc_makes_is_code_for_that_gpu():
    tvm = compiler()
    target = gpu_target(tvm, "nvidia/jetson-agx-orin-64gb")
    try:
        cubin = cubin_of('extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }', target)
    except ToolchainError as missing:
        pytest.skip(str(missing))
    assert cubin[:4] == b"\x7fELF"
    assert int.from_bytes(cubin[18:20], "little") == CUBIN
    with pytest.raises(ToolchainError, match="cannot be compiled here"):
        cubin_of("this is not CUDA", target)


def test_a_module_without_kernels_has_none():
    class Module:
        imports = ()

    assert kernels_of(Module()) == ""


@pytest.mark.parametrize("tag", ["nvidia/jetson-nowhere", "llvm", "nonsense {", "raspberry-pi/4b-aarch64"])
def test_a_board_that_tvm_does_not_know_is_refused(net, tmp_path, tag):
    with pytest.raises(ToolchainError, match="TVM knows no board"):
        Tvm(gpu=tag).compile(net, tmp_path)
    assert list(tmp_path.iterdir()) == []
