"""What single ONNX nodes multiply: MACs from the shapes of what they read and give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

NEWEST_OPSET = 28
"""The newest operators that were looked through for products."""
UNCOUNTED = frozenset(
    {"DFT", "STFT", "Det", "MelWeightMatrix", "CausalConvWithState", "LinearAttention", "ImageDecoder", "SequenceMap"}
)
"""Operators that multiply and add, of which no number of MACs is told here."""


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return one attribute of a node."""
    found = next((each for each in node.attribute if each.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the MACs of one node without a graph inside, None where it has no products; KeyError without a shape."""
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(node, shapes)


def _convolution(weight: int) -> Callable[[onnx.NodeProto, Shapes], int]:
    # Every output number is a sum over the inputs of its group and the filter: all sizes of the weight but the first.
    return lambda node, shapes: math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])


def _transposed(node: onnx.NodeProto, shapes: Shapes) -> int:
    # Here every input number is multiplied by all weights that read it; outputs at the border have fewer summands.
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _matrix_product(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    rows, columns = shapes[node.input[0]]
    return math.prod(shapes[node.output[0]]) * (rows if attribute(node, "transA", 0) else columns)


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every step of every sequence multiplies by all weights: those of the inputs and those of the hidden state."""
    steps = math.prod(shapes[node.input[0]][:2])
    return steps * sum(math.prod(shapes[weights]) for weights in node.input[1:3])


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each query by each key, and each of these scores by each value; all heads of the queries."""
    queries, keys, values = (shapes[name] for name in node.input[:3])
    # A cache of earlier keys and values is attended to as well.
    past = shapes[node.input[4]][2] if len(node.input) > 4 and node.input[4] else 0
    if len(queries) == 4:
        heads, width, value_width = queries[1], queries[3], values[3]
    else:
        heads = attribute(node, "q_num_heads")
        # In the form of three dimensions heads lie side by side, and keys may have fewer of them (grouped queries).
        width, value_width = queries[2] // heads, values[2] // attribute(node, "kv_num_heads")
    return queries[0] * heads * queries[-2] * (keys[-2] + past) * (width + value_width)


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Return the MACs of a sum of products over indices, contracted from left to right.

    What only one factor is summed over is summed first. Factors of which nothing is summed are multiplied number by
    number, which counts as nothing.
    """
    terms, output = _indices(equation, shapes)
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            # A size of 1 is broadcast against the other factor's.
            sizes[index] = max(size, sizes.get(index, 1))
    total, left = 0, set(terms[0])
    for number, term in enumerate(terms[1:], 2):
        right, later = set(term), set(output).union(*terms[number:])
        left, right = (
            {index for index in one if index in later | other} for one, other in ((left, right), (right, left))
        )
        if (left & right) - later:
            total += math.prod(sizes[index] for index in left | right)
        left = (left | right) & later
    return total


def _indices(equation: str, shapes: Sequence[Shape]) -> tuple[list[str], str]:
    """Return the indices of each factor and of the result; those that an ellipsis stands for are capital Greek."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    hidden = [
        len(shape) - len(term.replace("...", "")) if "..." in term else 0
        for term, shape in zip(terms, shapes, strict=True)
    ]
    all_hidden = "".join(chr(0x391 + place) for place in range(max(hidden)))
    terms = [
        term.replace("...", all_hidden[len(all_hidden) - count :]) for term, count in zip(terms, hidden, strict=True)
    ]
    if arrow:
        return terms, result.replace("...", all_hidden)
    # Without an arrow the result has the indices that occur once, in alphabetical order, as NumPy defines it.
    joined = "".join(terms)
    return terms, "".join(index for index in sorted(set(joined)) if index in all_hidden or joined.count(index) == 1)


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    return einsum_macs(attribute(node, "equation").decode(), [shapes[name] for name in node.input])


_RULES: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matrix_product),
    "Gemm": _gemm,
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Attention": _attention,
}
