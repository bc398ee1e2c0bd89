"""ONNX files for the backends: a net of many operators, and small nets with one fault each."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ZOO_SHAPE = (4, 8, 8)
ACTIVATIONS = ("Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Exp", "Erf")


def _zoo(attention):
    """Branches of ``images``, one for each operator that image classifiers use; each ends in 4 means.

    Those of transformers stand alone, since not every toolchain has them.
    """
    rng = np.random.default_rng(0)
    held, nodes, ends = {}, [], []

    def weight(*shape):
        held[name := f"w{len(held)}"] = (0.3 * rng.normal(size=shape)).astype(np.float32)
        return name

    def constant(value, kind):
        held[name := f"w{len(held)}"] = np.array(value, kind)
        return name

    def node(op, *inputs, outputs=1, **attributes):
        names = [f"t{len(nodes)}_{index}" for index in range(outputs)]
        nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def end(image):
        ends.append(node("ReduceMean", image, constant([2, 3], np.int64), keepdims=0))

    def floats(value):
        return constant(value, np.float32)

    x = node("Conv", "images", weight(4, 4, 3, 3), weight(4), pads=[1, 1, 1, 1])
    for kind in ACTIVATIONS:
        end(node(kind, x))
    end(node("Clip", x, floats(0.2), floats(0.6)))
    end(node("PRelu", node("Sub", x, floats(0.5)), weight(4, 1, 1)))
    end(node("Conv", x, weight(4, 4, 3, 3), weight(4), pads=[1, 1, 1, 1], strides=[2, 2]))
    end(node("Conv", x, weight(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]))
    end(node("Conv", x, weight(4, 2, 3, 3), group=2, dilations=[2, 2]))
    end(node("Conv", x, weight(4, 4, 1, 5), pads=[0, 2, 0, 2]))
    end(node("ConvTranspose", x, weight(4, 4, 2, 2), strides=[2, 2]))
    end(node("BatchNormalization", x, weight(4), weight(4), weight(4), floats([1, 2, 3, 4])))
    end(node("InstanceNormalization", x, weight(4), weight(4)))
    end(node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    end(node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0))
    end(node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
    end(node("GlobalAveragePool", x))
    end(node("Pad", x, constant([0, 0, 1, 0, 0, 0, 0, 2], np.int64), mode="reflect"))
    end(node("Mul", x, node("Sigmoid", node("GlobalAveragePool", x))))
    end(node("Div", x, node("Sqrt", node("Add", node("Pow", x, floats(2)), floats(1)))))
    left, right = node("Split", x, outputs=2, axis=1, num_outputs=2)
    end(node("Concat", right, left, axis=1))
    grouped = node("Reshape", x, constant([0, 2, 2, 8, 8], np.int64))
    end(node("Reshape", node("Transpose", grouped, perm=[0, 2, 1, 3, 4]), constant([0, 4, 8, 8], np.int64)))
    every_second = ([0, 0], [2**63 - 1] * 2, [2, 3], [2, 2])
    end(node("Slice", x, *(constant(numbers, np.int64) for numbers in every_second)))
    end(node("Resize", x, "", floats([1, 1, 2, 2]), mode="nearest"))
    flat = node("Flatten", x)
    ends.append(node("Gemm", flat, weight(4, 256), weight(4), transB=1))
    ends.append(node("Softmax", node("MatMul", flat, weight(256, 4)), axis=1))
    if attention:
        nodes[1:], ends[:] = [], []
        tokens = node("Transpose", node("Reshape", x, constant([0, 4, 64], np.int64)), perm=[0, 2, 1])
        normal = node("LayerNormalization", tokens, weight(4), weight(4))
        heat = node("Softmax", node("MatMul", normal, node("Transpose", normal, perm=[0, 2, 1])), axis=-1)
        ends.append(node("ReduceMean", node("Gelu", node("MatMul", heat, normal)), constant([1], np.int64), keepdims=0))
    nodes.append(
        helper.make_node("Gemm", [node("Concat", *ends, axis=1), weight(4 * len(ends), 6), weight(6)], ["scores"])
    )
    return nodes, held


def save(path, nodes, held, shape=ZOO_SHAPE, batch="N", scores=("N", 6), names=("images", "scores"), opset=20):
    """Write a graph from ``images`` to ``scores``."""
    given = helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, *shape])
    answered = helper.make_tensor_value_info(names[1], TensorProto.FLOAT, list(scores))
    constants = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", [given], [answered], constants)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """A net with every operator that convolutional classifiers use."""
    return _checked(save(tmp_path_factory.mktemp("zoo") / "zoo.onnx", *_zoo(attention=False)))


@pytest.fixture(scope="session")
def attention(tmp_path_factory):
    """A net with the operators of a transformer."""
    return _checked(save(tmp_path_factory.mktemp("zoo") / "attention.onnx", *_zoo(attention=True)))


def _checked(path):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


@pytest.fixture(scope="session")
def zoo_pixels():
    """Images that the zoo reads."""
    return np.random.default_rng(2).random((9, *ZOO_SHAPE), dtype=np.float32)


def _linear(matrix):
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    return nodes, {"w": matrix.astype(np.float32)}


def _renamed(path):
    nodes, held = _linear(np.ones((16, 3)))
    nodes[0].input[0], nodes[1].output[0] = "x", "y"
    return save(path, nodes, held, (1, 4, 4), scores=("N", 3), names=("x", "y"))


def _scalar(path):
    nodes, held = _linear(np.ones((16, 3)))
    nodes[1].output[0] = "many"
    nodes.append(helper.make_node("ReduceSum", ["many"], ["scores"], keepdims=0))
    return save(path, nodes, held, (1, 4, 4), scores=())


def _of(matrix, **change):
    return lambda path: save(path, *_linear(matrix), (1, 4, 4), **{"scores": ("N", matrix.shape[1]), **change})


def _cut(path):
    _of(np.ones((16, 3)))(path)
    path.write_bytes(path.read_bytes()[:60])


def _unknown(path):
    nodes, held = _linear(np.ones((16, 3)))
    nodes[0].op_type = "NoSuchOperator"
    return save(path, nodes, held, (1, 4, 4), scores=("N", 3))


REFUSED = {
    "weights that are no numbers": _of(np.full((16, 3), np.nan)),
    "weights that are infinite": _of(np.full((16, 3), np.inf)),
    "a sum beyond float32": _of(np.full((16, 3), 3e38)),
    "no class": _of(np.ones((16, 0))),
    "one number for all images": _scalar,
    "a fixed batch": _of(np.ones((16, 3)), batch=1, scores=(1, 3)),
    "other names": _renamed,
    "an unknown operator": _unknown,
    "half a file": _cut,
    "an empty file": lambda path: path.write_bytes(b""),
    "no net": lambda path: path.write_bytes(b"not a net"),
    "bytes by chance": lambda path: path.write_bytes(b"\x08\x0a" * 50),
}
"""What no backend may make an engine of, and how it is written."""


@pytest.fixture(params=REFUSED)
def refused(request, tmp_path):
    """A file that no backend may make an engine of."""
    REFUSED[request.param](tmp_path / "net.onnx")
    return tmp_path / "net.onnx"
