"""Padding: graphs with more channels give the scores that they gave before."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.tvm.graph import prepared
from robustdeploy.onboard.tvm.vectors import Vectors, padded

HEAD = '<ir_version: 9, opset_import: ["" : 18]> g (float[N, 3, 6, 6] images) => (float[N, 4] scores)'
CONV = "Conv<pads = [1, 1, 1, 1]>"
BODIES = {
    "a chain": f"a = {CONV}(images, w7_3, b7) b = Relu(a) c = {CONV}(b, w5_7, b5)",
    "a residual sum": f"a = {CONV}(images, w5_3, b5) b = Relu(a) d = {CONV}(b, w5_5, b5) c = Add(d, b)",
    "a sum with what is not padded": f"a = {CONV}(images, w5_3) t = Transpose<perm = [0, 1, 3, 2]>(a) c = Add(a, t)",
    "depthwise": f"a = {CONV}(images, w5_3, b5) c = Conv<group = 5, pads = [1, 1, 1, 1]>(a, w5_1, b5)",
    "groups": f"a = {CONV}(images, w6_3, b6) d = Conv<group = 3, pads = [1, 1, 1, 1]>(a, w6_2) c = {CONV}(d, w5_6)",
    "concatenation": f"a = {CONV}(images, w7_3, b7) d = Concat<axis = 1>(a, images) c = {CONV}(d, w5_10, b5)",
    "a constant for each channel": f"a = {CONV}(images, w5_3) d = Mul(a, s5) c = PRelu(d, s5)",
    "a chosen order": f"a = {CONV}(images, w7_3, b7) c = Gather<axis = 1>(a, order)",
    "two readers": f"a = {CONV}(images, w7_3, b7) d = {CONV}(a, w5_7) e = Split<axis = 1, num_outputs = 7>(a) "
    "c = Add(d, e)",
}


def graph(body):
    """Build a graph of which ``c`` has 5 channels, with weights as its names say."""
    tail = "p = GlobalAveragePool(c) f = Flatten(p) scores = Gemm<transB = 1>(f, m, n)"
    model = parser.parse_model(f"{HEAD} {{ {body} {tail} }}".replace("e = Split", "e, e1, e2, e3, e4, e5, e6 = Split"))
    draw = np.random.default_rng(0)
    made = {"m": draw.normal(size=(4, 5)), "n": draw.normal(size=4), "s5": draw.normal(size=(5, 1, 1))}
    for name in {name for node in model.graph.node for name in node.input}:
        if name[0] == "w":
            made[name] = draw.normal(size=(*map(int, name[1:].split("_")), 3, 3))
        elif name[0] == "b" and name[1:].isdigit():
            made[name] = draw.normal(size=int(name[1:]))
    for name, array in made.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([6, 0, 3, 3, 1]), "order"))
    return model


def scores(model, images):
    """Return the scores in float64, in which the order of a sum changes nothing that could be mistaken for a fault."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float64), tensor.name))
    (found,) = ReferenceEvaluator(whole).run(["scores"], {"images": images.astype(np.float64)})
    return found


@pytest.mark.parametrize("lanes", [4, 16])
@pytest.mark.parametrize("body", BODIES)
def test_more_channels_change_no_score(tmp_path, body, lanes):
    model = graph(BODIES[body])
    images = np.random.default_rng(1).random((1, 3, 6, 6), dtype=np.float32)
    wider = prepared(model, Vectors(lanes, 32), True)
    widths = [numpy_helper.to_array(w).shape[0] for w in wider.graph.initializer if len(w.dims) == 4]
    assert any(width % lanes == 0 for width in widths), "nothing was padded"
    np.testing.assert_allclose(scores(wider, images), scores(model, images), rtol=1e-9, atol=1e-12)
    # What a toolchain gets is a sound file.
    wider.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del wider.graph.value_info[:]
    onnx.save(wider, tmp_path / "wider.onnx")
    assert OnnxRuntime().load(tmp_path / "wider.onnx")(images).shape == (1, 4)


@pytest.mark.parametrize(
    ("channels", "lanes", "wanted"),
    [
        (24, 16, 32),
        (8, 16, 8),
        (40, 16, 48),
        (23, 16, 32),
        (16, 16, 16),
        (3, 16, 16),
        (4, 4, 4),
        (6, 4, 8),
        (392, 8, 392),
    ],
)
def test_channels_are_added_where_that_saves_vectors(channels, lanes, wanted):
    assert padded(channels, Vectors(lanes, 32)) == wanted


def test_every_last_vector_is_filled_where_that_is_asked():
    assert padded(8, Vectors(16, 32), always=True) == 16
