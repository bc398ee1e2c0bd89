import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.core.recipe import Choice
from robustdeploy.export.agent import build_agent
from robustdeploy.nets.build import build_net


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "agent.pyz"
    build_agent(path)
    return path


@pytest.fixture(scope="session")
def weights():
    return np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)


@pytest.fixture(scope="session")
def net(tmp_path_factory, weights):
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 4, 4])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    graph = helper.make_graph(nodes, "g", [given], [answered], [numpy_helper.from_array(weights, "w")])
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    # An IR version and an opset that the oldest supported board reads.
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).integers(0, 256, (30, 3, 4, 4)).astype(np.uint8)


@pytest.fixture(scope="session")
def resnet():
    torch.manual_seed(0)
    return build_net(Choice(name="resnet8", options={"width": 4}), 3, (1, 8, 8), (0.3,), (0.2,)).eval()
