"""A perceptron on digits as an ONNX file, in the forms in which people ship nets; and the same in numpy."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def own_scores(layers, images):
    """The perceptron in numpy: uint8 images to logits."""
    first, bias, second, last = layers
    pixels = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return np.maximum(pixels @ first + bias, 0) @ second + last


def perceptron(
    layers,
    dims=("N", 1, 8, 8),
    element=TensorProto.FLOAT,
    scale=1.0,
    end=(),
    names=("x", "y"),
    opset=17,
    out=("N", 10),
    kind=TensorProto.FLOAT,
    weight_inputs=False,
    metadata=None,
):
    """A file that reads ``dims`` numbers, pixels times ``scale``; ``end`` are operators behind its logits."""
    half = element == TensorProto.FLOAT16
    nodes, name = [], names[0]
    if element not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        nodes.append(helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT))
        name = "cast"
    batch = dims[0] if isinstance(dims[0], int) else 0
    weights = {"rows": np.array([batch, 64], np.int64)}
    nodes.append(helper.make_node("Reshape", [name, "rows"], ["flat"]))
    for place, each in zip(("w1", "b1", "w2", "b2"), layers, strict=True):
        weights[place] = (each / scale if place == "w1" else each).astype(np.float16 if half else np.float32)
    nodes += [
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
    ]
    name = "logits"
    for number, (operator, attributes) in enumerate(end):
        attributes = dict(attributes)
        more = []
        if "const" in attributes:
            weights[f"c{number}"] = attributes.pop("const")
            more = [f"c{number}"]
        nodes.append(helper.make_node(operator, [name, *more], [f"end{number}"], **attributes))
        name = f"end{number}"
    nodes[-1].output[0] = names[1]
    tensors = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    given = [helper.make_tensor_value_info(names[0], element, list(dims))]
    if weight_inputs:
        given += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    answered = helper.make_tensor_value_info(names[1], TensorProto.FLOAT16 if half else kind, list(out))
    graph = helper.make_graph(nodes, "net", given, [answered], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def of_torch(num_classes):
    """The perceptron as a net of torch; a factory, as users name them."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
