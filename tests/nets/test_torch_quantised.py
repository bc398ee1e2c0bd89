"""Operators on whole numbers against ONNX Runtime, each in every form; and that gradients pass through them."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from robustdeploy.nets.torch_quantised import QUANTISED
from robustdeploy.nets.twin import Twin

RNG = np.random.default_rng(0)
STEPS = RNG.integers(0, 256, (2, 4, 6, 6)).astype(np.uint8)
ROWS = RNG.integers(0, 256, (3, 8)).astype(np.uint8)
FINE, COARSE = np.float32(0.02), np.float32(0.1)
ODD = np.float32(0.0213)
"""No multiple of the other steps: a mean of few numbers would often lie between two of them."""
ZERO, OTHER = np.uint8(120), np.uint8(131)
REAL = RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)


def whole(*shape):
    return RNG.integers(-127, 128, shape).astype(np.int8)


PER_CHANNEL = RNG.uniform(0.005, 0.02, 5).astype(np.float32)
FILTERS = [whole(5, 4, 3, 3), PER_CHANNEL, np.zeros(5, np.int8)]
BIAS = RNG.integers(-500, 500, 5).astype(np.int32)
LINEAR = [PER_CHANNEL, np.zeros(5, np.int8), BIAS]
MS = "com.microsoft."
NODES = [
    ("QuantizeLinear", [REAL, FINE, ZERO], {}),
    ("QuantizeLinear", [REAL, PER_CHANNEL[:4], np.zeros(4, np.int8)], {"axis": 1}),
    ("DequantizeLinear", [STEPS, FINE, ZERO], {}),
    ("DynamicQuantizeLinear", [REAL], {}),
    ("ConvInteger", [STEPS, whole(5, 4, 3, 3), ZERO], {"pads": [0, 0, 1, 1]}),
    ("MatMulInteger", [ROWS, whole(8, 5), ZERO, np.int8(3)], {}),
    ("MatMulInteger", [ROWS, whole(8, 5), ZERO], {}),
    ("QLinearConv", [STEPS, FINE, ZERO, *FILTERS, COARSE, OTHER, BIAS], {"pads": [1, 1, 1, 1]}),
    ("QLinearConv", [STEPS, FINE, ZERO, *FILTERS, COARSE, OTHER], {"strides": [2, 2]}),
    ("QLinearMatMul", [ROWS, FINE, ZERO, whole(8, 5), np.float32(0.01), np.int8(0), COARSE, OTHER], {}),
    (MS + "QGemm", [ROWS, FINE, ZERO, whole(5, 8), *LINEAR, COARSE, OTHER], {"transB": 1}),
    (MS + "QGemm", [ROWS, FINE, ZERO, whole(8, 5), *LINEAR], {}),
    (MS + "QLinearAdd", [STEPS, FINE, ZERO, STEPS[::-1].copy(), COARSE, OTHER, COARSE, ZERO], {}),
    (MS + "QLinearMul", [STEPS, FINE, ZERO, STEPS[::-1].copy(), COARSE, OTHER, COARSE, ZERO], {}),
    (MS + "QLinearAveragePool", [STEPS, FINE, ZERO, ODD, ZERO], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    (MS + "QLinearGlobalAveragePool", [STEPS, FINE, ZERO, ODD, ZERO], {"channels_last": 0}),
    (MS + "QLinearLeakyRelu", [STEPS, FINE, ZERO, FINE, ZERO], {"alpha": 0.1}),
    (MS + "QLinearSigmoid", [STEPS, FINE, ZERO, np.float32(1 / 256), np.uint8(0)], {}),
    (MS + "QLinearSoftmax", [ROWS, FINE, ZERO, np.float32(1 / 256), np.uint8(0)], {"axis": 1, "opset": 13}),
    (MS + "QuantizeLinear", [REAL, FINE, ZERO], {}),
    (MS + "DequantizeLinear", [STEPS, FINE, ZERO], {}),
]  # fmt: skip


def graph(name, inputs, attributes, outputs=1):
    domain, _, operator = name.rpartition(".")
    names = [f"in{place}" for place in range(len(inputs))]
    weights = [numpy_helper.from_array(np.asarray(v), n) for n, v in zip(names[1:], inputs[1:], strict=True)]
    told = [f"out{place}" for place in range(outputs)]
    node = helper.make_node(operator, names, told, domain=domain, **attributes)
    given = helper.make_tensor_value_info("in0", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape)
    made = helper.make_graph([node], "one", [given], [onnx.ValueInfoProto(name=each) for each in told], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def held(model, first):
    """Hold the twin against the runtime: whole numbers may differ by one step where a tie is rounded."""
    theirs = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = theirs.run(None, {"in0": first})[0].astype(np.float32)
    with torch.no_grad():
        found = Twin(model)(torch.from_numpy(first)).float().numpy()
    assert found.shape == wanted.shape
    apart = np.abs(found - wanted)
    assert apart.max() <= max(1.0, 1e-5 * np.abs(wanted).max())
    assert (apart > 1e-3 * max(1.0, np.abs(wanted).max())).mean() < 0.01


@pytest.mark.parametrize(("name", "inputs", "attributes"), NODES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(NODES)])
def test_each_operator_computes_what_the_runtime_computes(name, inputs, attributes):
    held(graph(name, inputs, attributes, 3 if name.startswith("Dynamic") else 1), inputs[0])


def test_parts_that_are_joined_keep_their_numbers():
    name = MS + "QLinearConcat"
    node = helper.make_node(
        "QLinearConcat", ["s", "z", "in0", "s0", "z0", "in1", "s1", "z1"], ["out0"], domain="com.microsoft", axis=1
    )
    values = {"s": COARSE, "z": OTHER, "s0": FINE, "z0": ZERO, "in1": STEPS, "s1": COARSE, "z1": ZERO}
    weights = [numpy_helper.from_array(np.asarray(value), key) for key, value in values.items()]
    given = helper.make_tensor_value_info("in0", onnx.TensorProto.UINT8, STEPS.shape)
    made = helper.make_graph([node], "one", [given], [onnx.ValueInfoProto(name="out0")], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    held(helper.make_model(made, opset_imports=opsets, ir_version=8), STEPS)
    assert {each for each, *_ in NODES} | {name} == set(QUANTISED)


@pytest.mark.parametrize("name", ["QLinearConv", "QLinearMatMul", MS + "QLinearAdd"])
def test_a_gradient_passes_through_whole_numbers(name):
    inputs, attributes = next((i, a) for each, i, a in NODES if each == name)
    steps = torch.from_numpy(inputs[0]).float().requires_grad_()
    Twin(graph(name, inputs, attributes))(steps).sum().backward()
    assert (steps.grad != 0).float().mean() > 0.3
