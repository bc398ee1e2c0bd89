"""The torch twin of an ONNX graph against ONNX Runtime, operator by operator, and its gradient."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.errors import ArtifactError
from robustdeploy.nets.torch_operators import OPERATORS, half_through
from robustdeploy.nets.torch_quantised import QUANTISED, rounded_through
from robustdeploy.nets.twin import Twin

OPSET = 20
RNG = np.random.default_rng(0)
PLAIN = RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)
POSITIVE = np.abs(PLAIN) + 0.5

GRID = RNG.uniform(-1.2, 1.2, (2, 5, 3, 2)).astype(np.float32)
SUMS = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")
STEPS = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
WHERE = "coordinate_transformation_mode"
NEAREST = {"mode": "nearest", WHERE: "asymmetric", "nearest_mode": "floor"}
PLACES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
ROUNDED = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
OVER = {"antialias": 1, "exclude_outside": 1}
FOUR = {"hidden_size": 4}


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def graph(operator, inputs, outputs=1, opset=OPSET, **attributes):
    """A model of one node: the first input is given when it runs, all others are weights."""
    names = ["" if each is None else f"in{place}" for place, each in enumerate(inputs)]
    weights = [
        numpy_helper.from_array(np.asarray(each), name)
        for name, each in zip(names[1:], inputs[1:], strict=True)
        if each is not None
    ]
    told = [f"out{place}" for place in range(outputs)]
    node = helper.make_node(operator, names, told, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    given = helper.make_tensor_value_info("in0", kind, inputs[0].shape)
    made = helper.make_graph([node], "one", [given], [onnx.ValueInfoProto(name=name) for name in told], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def both(model, first):
    theirs = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = Twin(model)(torch.from_numpy(first))
    return ours.numpy(), theirs.run(None, {"in0": first})[0]


UNARY = tuple(
    """Abs Ceil Cos Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu Round Selu Sigmoid Sign Sin
    Softplus Softsign Tanh Elu Celu ThresholdedRelu Softmax LogSoftmax GlobalAveragePool GlobalMaxPool Flatten
    Transpose Shape Size""".split()  # noqa: SIM905
)
REDUCTIONS = tuple(
    f"Reduce{how}" for how in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
NODES = [
    *[(name, [PLAIN], {}) for name in UNARY],
    *[(name, [POSITIVE], {}) for name in ("Log", "Sqrt", "Reciprocal", "ReduceLogSum")],
    *[(name, [PLAIN, ints(2, 3)], {"keepdims": keep}) for name in REDUCTIONS for keep in (0, 1)],
    *[(name, [PLAIN], {}) for name in REDUCTIONS],
    *[(name, [PLAIN, floats(4, 1, 1)], {}) for name in (*SUMS, "Div", "PRelu")],
    *[(name, [PLAIN, floats(4, 1, 1)], {}) for name in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")],
    ("Equal", [ints(1, 2, 3), ints(1, 5, 3)], {}),
    ("Div", [ints(7, -7, 9), ints(2, 2, 4)], {}),
    ("Mod", [ints(7, -7, 9), ints(2, 2, 4)], {}),
    ("Mod", [PLAIN, np.float32(0.7)], {"fmod": 1}),
    ("Pow", [POSITIVE, np.float32(1.5)], {}),
    ("Clip", [PLAIN, np.float32(-0.5), np.float32(0.3)], {}),
    ("Clip", [PLAIN, None, np.float32(0.3)], {}),
    ("Gelu", [PLAIN], {}),
    ("Gelu", [PLAIN], {"approximate": "tanh"}),
    ("Softmax", [PLAIN], {"axis": 1}),
    ("MatMul", [PLAIN, floats(6, 5)], {}),
    ("Gemm", [floats(3, 5), floats(7, 5), floats(7)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [floats(5, 3), floats(5, 7)], {"transA": 1}),
    ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], {"equation": "bij,bjk->bik"}),
    ("Conv", [PLAIN, floats(6, 4, 3, 3), floats(6)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [PLAIN, floats(8, 2, 3, 3)], {"group": 2, "dilations": [2, 2]}),
    ("Conv", [PLAIN, floats(4, 1, 3, 3)], {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [PLAIN, floats(4, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", [floats(2, 4, 9), floats(5, 4, 3)], {"pads": [1, 1]}),
    ("Conv", [floats(1, 2, 5, 5, 5), floats(3, 2, 3, 3, 3)], {}),
    ("ConvTranspose", [PLAIN, floats(4, 3, 3, 3), floats(3)], {"strides": [2, 2], "pads": [1, 1, 0, 1]}),
    ("ConvTranspose", [PLAIN, floats(4, 2, 3, 3)], {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}),
    ("MaxPool", [PLAIN], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [PLAIN], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    ("MaxPool", [floats(1, 2, 7, 7)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [floats(1, 2, 9)], {"kernel_shape": [3], "strides": [3], "pads": [0, 1], "ceil_mode": 1}),
    ("AveragePool", [PLAIN], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [PLAIN], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [floats(1, 2, 7, 7)], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [PLAIN], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("BatchNormalization", [PLAIN, floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.1], {}),
    ("LayerNormalization", [PLAIN, floats(6), floats(6)], {}),
    ("LayerNormalization", [PLAIN, floats(6, 6)], {"axis": -2}),
    ("InstanceNormalization", [PLAIN, floats(4), floats(4)], {}),
    ("LRN", [PLAIN], {"size": 3}),
    ("Concat", [PLAIN, floats(2, 3, 6, 6)], {"axis": 1}),
    ("Slice", [PLAIN, ints(1, 0), ints(4, -1), ints(2, 3), ints(2, 1)], {}),
    ("Slice", [PLAIN, ints(-1), ints(-(2**31)), ints(3), ints(-2)], {}),
    ("Slice", [PLAIN, ints(0), ints(2**31), ints(1)], {}),
    ("Gather", [PLAIN, np.array([[0, -1], [2, 1]])], {"axis": 2}),
    ("Gather", [PLAIN, np.array(1)], {"axis": -1}),
    ("GatherElements", [floats(3, 3), np.array([[0, -1, 2]])], {"axis": 0}),
    ("GatherND", [floats(3, 4), np.array([[0, 1], [2, 3]])], {}),
    ("ScatterND", [floats(3, 4), np.array([[0, 1], [2, 3]]), floats(2)], {}),
    ("ScatterND", [floats(3, 4), np.array([[2], [0]]), floats(2, 4)], {}),
    ("Reshape", [PLAIN, ints(0, -1, 6)], {}),
    ("Squeeze", [floats(2, 1, 3, 1), ints(1)], {}),
    ("Squeeze", [floats(2, 1, 3, 1)], {}),
    ("Unsqueeze", [floats(2, 3), ints(0, -1)], {}),
    ("Expand", [floats(1, 3), ints(2, 1, 3)], {}),
    ("Tile", [floats(2, 3), ints(2, 1)], {}),
    ("Transpose", [PLAIN], {"perm": [0, 2, 3, 1]}),
    ("Pad", [PLAIN, ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(3)], {}),
    ("Pad", [PLAIN, ints(1, 2, 1, 0), None, ints(2, 3)], {"mode": "reflect"}),
    ("Pad", [PLAIN, ints(1, 2, 1, 0), None, ints(-2, -1)], {"mode": "edge"}),
    ("Resize", [PLAIN, None, np.float32([1, 1, 2, 2])], NEAREST),
    *[("Resize", [PLAIN, None, np.float32([1, 1, *by])], {"mode": "nearest", WHERE: where, "nearest_mode": how})
      for by in ((2, 2), (1.7, 0.6)) for where in PLACES for how in ROUNDED],
    *[("Resize", [PLAIN, None, np.float32([1, 1, 1.7, 0.6])], {"mode": "linear", WHERE: where})
      for where in ("asymmetric", "half_pixel_symmetric")],
    ("Resize", [PLAIN, None, None, ints(2, 4, 9, 5)], {"mode": "linear"}),
    ("Resize", [PLAIN, None, None, ints(2, 4, 9, 5)], {"mode": "linear", WHERE: "align_corners"}),
    ("Resize", [PLAIN, None, None, ints(2, 4, 3, 4)], {"mode": "linear", **OVER}),
    ("Resize", [PLAIN, None, None, ints(2, 4, 3, 4)], {"mode": "cubic", "cubic_coeff_a": -0.5, **OVER}),
    ("DepthToSpace", [floats(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [floats(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [floats(1, 2, 4, 6)], {"blocksize": 2}),
    ("TopK", [PLAIN, ints(3)], {"axis": 1}),
    ("TopK", [PLAIN, ints(2)], {"largest": 0}),
    ("LpNormalization", [PLAIN], {"axis": 1}),
    ("LpNormalization", [PLAIN], {"p": 1}),
    *[("GridSample", [PLAIN, GRID], {"mode": mode, "padding_mode": edges, "align_corners": corners})
      for mode in ("linear", "nearest", "cubic")
      for edges, corners in (("zeros", 0), ("border", 1), ("reflection", 0))],
    ("CumSum", [floats(2, 3), np.array(1)], {}),
    ("Trilu", [floats(4, 4), np.array(1)], {"upper": 0}),
    ("ArgMax", [PLAIN], {"axis": 1}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([1.5], np.float32))}),
    ("Cast", [PLAIN], {"to": TensorProto.INT64}),
    ("Where", [np.array([True, False]), np.float32([1, 2]), np.float32([3, 4])], {}),
    ("And", [np.array([True, False]), np.array([True, True])], {}),
    ("Or", [np.array([True, False]), np.array([False, False])], {}),
    ("Xor", [np.array([True, False]), np.array([True, True])], {}),
    ("Not", [np.array([True, False])], {}),
    ("Range", [np.int64(2), np.int64(9), np.int64(3)], {}),
    ("Dropout", [PLAIN], {}),
    ("LSTM", [floats(5, 2, 3), floats(1, 16, 3), floats(1, 16, 4), floats(1, 32)], FOUR),
    ("LSTM", [floats(5, 2, 3), floats(2, 16, 3), floats(2, 16, 4)], {**FOUR, "direction": "bidirectional"}),
    ("GRU", [floats(5, 2, 3), floats(1, 12, 3), floats(1, 12, 4), floats(1, 24)], {**FOUR, "linear_before_reset": 1}),
    ("RNN", [floats(5, 2, 3), floats(1, 4, 3), floats(1, 4, 4), floats(1, 8)], FOUR),
    ("DequantizeLinear", [STEPS, np.float32([0.1, 0.2, 0.3]), np.int8([0, 1, 2])], {"axis": 0}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"), NODES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(NODES)]
)
def test_each_operator_computes_what_the_runtime_computes(operator, inputs, attributes):
    outputs = {"Split": 2, "TopK": 2}.get(operator, 1)
    ours, theirs = both(graph(operator, inputs, outputs, **attributes), np.asarray(inputs[0]))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_every_operator_is_held_against_the_runtime():
    other = {
        "QuantizeLinear",
        "Split",
        "GroupNormalization",
        "Swish",
        "Attention",
        "RMSNormalization",
        "Upsample",
    }  # in tests of their own, or of other opsets than 20
    assert set(OPERATORS) == {name for name, *_ in NODES} | other | set(QUANTISED)


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        ([floats(2, 4, 5, 6), floats(2, 4, 7, 6), floats(2, 4, 7, 3)], {}),
        ([floats(2, 4, 5, 6), floats(2, 2, 7, 6), floats(2, 2, 7, 6)], {"scale": 0.3}),
        ([floats(2, 5, 24), floats(2, 7, 12), floats(2, 7, 12)], {"q_num_heads": 4, "kv_num_heads": 2}),
        ([floats(2, 4, 5, 6), floats(2, 4, 5, 6), floats(2, 4, 5, 6)], {"is_causal": 1}),
        ([floats(2, 4, 5, 6), floats(2, 4, 7, 6), floats(2, 4, 7, 6), floats(5, 7)], {}),
        ([floats(2, 4, 5, 6), floats(2, 4, 7, 6), floats(2, 4, 7, 6), np.tri(5, 7, 1, bool)], {}),
    ],
    ids=["plain", "fewer-keys", "flat", "causal", "bias", "mask"],
)
def test_attention_computes_what_the_runtime_computes(inputs, attributes):
    ours, theirs = both(graph("Attention", inputs, opset=23, **attributes), inputs[0])
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("operator", "inputs", "opset", "attributes"),
    [
        ("Upsample", [PLAIN, np.float32([1, 1, 2, 3])], 9, {}),
        ("Upsample", [PLAIN, np.float32([1, 1, 2, 3])], 9, {"mode": "linear"}),
        ("Upsample", [PLAIN], 7, {"scales": [1.0, 1.0, 2.0, 3.0]}),
        ("RMSNormalization", [PLAIN, floats(6)], 23, {}),
        ("RMSNormalization", [PLAIN, floats(6, 6)], 23, {"axis": -2}),
    ],
)
def test_an_operator_of_another_opset_computes_what_the_runtime_computes(operator, inputs, opset, attributes):
    ours, theirs = both(graph(operator, inputs, opset=opset, **attributes), inputs[0])
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("more", [{"num_outputs": 2}, None])
def test_a_split_gives_all_its_parts(more):
    inputs = [PLAIN] if more else [PLAIN, ints(1, 3)]
    model = graph("Split", inputs, 2, axis=1, **(more or {}))
    ours, theirs = both(model, PLAIN)
    np.testing.assert_array_equal(ours, theirs)


def quantised(kind, axis=None):
    """A pair of quantise and dequantise, with steps of a quarter."""
    zero = np.array(3, kind)
    nodes = [
        helper.make_node("QuantizeLinear", ["in0", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["out0"]),
    ]
    weights = [numpy_helper.from_array(np.float32(0.25), "scale"), numpy_helper.from_array(zero, "zero")]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in ("in0", "out0")]
    made = helper.make_graph(nodes, "pair", value[:1], value[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_a_quantised_value_is_the_runtimes_and_its_gradient_passes_inside_the_range_alone(kind):
    given = np.concatenate([np.linspace(-80, 80, 60), [0.125, 0.375, -0.125, 0]]).astype(np.float32)
    ours, theirs = both(quantised(kind), given)
    np.testing.assert_array_equal(ours, theirs)
    images = torch.from_numpy(given).requires_grad_()
    Twin(quantised(kind))(images).sum().backward()
    low, high = (np.iinfo(kind).min - 3) / 4, (np.iinfo(kind).max - 3) / 4
    inside = (given > low) & (given < high)
    np.testing.assert_array_equal(images.grad.numpy()[inside], 1)
    np.testing.assert_array_equal(images.grad.numpy()[(given < low) | (given > high)], 0)


def test_rounding_passes_its_gradient_straight_through():
    for through, given, found in ((rounded_through, [0.5, 1.5, -0.7], [0, 2, -1]), (half_through, [1 + 2**-12], [1])):
        x = torch.tensor(given, requires_grad=True)
        y = through(x)
        y.sum().backward()
        assert y.tolist() == found
        assert x.grad.tolist() == [1.0] * len(given)


def test_an_operator_without_a_torch_form_is_named():
    model = graph("STFT", [floats(1, 8, 1), ints(4)])
    with pytest.raises(ArtifactError, match="there is no torch form of the ONNX operator STFT"):
        Twin(model)
    model = graph("MaxRoiPool", [PLAIN, floats(1, 5)], pooled_shape=[1, 1])
    with pytest.raises(ArtifactError, match="MaxRoiPool"):
        Twin(model)


def test_weights_are_parameters_where_they_are_trained_and_folded_where_not():
    model = graph("Gemm", [floats(3, 5), floats(5, 7), floats(7)])
    trained = Twin(model, trainable=True)
    assert sorted(trained.weights) == ["in1", "in2"]
    assert len(list(trained.parameters())) == 2
    assert not list(Twin(model).parameters())


def test_a_node_that_torch_cannot_follow_is_told_and_no_error_of_its_own():
    # Three channels and the statistics of four: nothing that an exporter writes, and a file may hold anything.
    model = graph("GatherElements", [PLAIN, np.array([[0, 1]])], axis=7)
    with pytest.raises(ArtifactError, match="the ONNX operator GatherElements is used in a way"):
        Twin(model)(torch.from_numpy(PLAIN))


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("GatherND", [floats(2, 3, 4), np.array([[1], [0]])], {"batch_dims": 1}),
        ("ScatterND", [floats(3, 4), np.array([[0], [2]]), floats(2, 4)], {"reduction": "add"}),
        ("ArgMax", [PLAIN], {"axis": 1, "select_last_index": 1}),
        ("Dropout", [PLAIN, np.float32(0.5), np.array(True)], {}),
        ("AveragePool", [PLAIN], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("GRU", [floats(5, 2, 3), floats(1, 12, 3), floats(1, 12, 4)], FOUR),
        ("LSTM", [floats(5, 2, 3), floats(1, 16, 3), floats(1, 16, 4)], {**FOUR, "direction": "reverse"}),
        ("Resize", [PLAIN, None, None, ints(2, 4, 9, 5)], {"mode": "cubic", "cubic_coeff_a": -0.5}),
        ("Resize", [PLAIN, None, None, ints(2, 4, 3, 4)], {"mode": "linear", "antialias": 1}),
        ("Attention", [floats(2, 4, 5, 6)] * 3, {"softcap": 0.5}),
    ],
)
def test_a_form_of_an_operator_that_is_not_there_is_named(operator, inputs, attributes):
    """What is left out computes nothing wrong: the net has no twin, and rules on its robustness are INCONCLUSIVE."""
    with pytest.raises(ArtifactError, match="there is no torch form of "):
        Twin(graph(operator, inputs, **attributes))(torch.from_numpy(np.asarray(inputs[0])))
