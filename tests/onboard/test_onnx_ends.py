import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.errors import ArtifactError
from robustdeploy.onboard.onnx_ends import End, ends_of, image_shape


def write(path, given, answered, listed=False):
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    weight = numpy_helper.from_array(np.zeros((200, 3), np.float32), "w")
    inputs = [helper.make_tensor_value_info(*given)]
    if listed:  # as files of IR version 3 do
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [200, 3]))
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(*answered)], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.mark.parametrize("listed", [False, True])
def test_names_types_and_shapes_are_read_as_onnx_reads_them(tmp_path, listed):
    path = write(tmp_path / "n.onnx", ("images", FLOAT, ["N", 2, 10, 1000]), ("scores", FLOAT, ["N", 3]), listed)
    ends = ends_of(path)
    assert ends.inputs == (End("images", FLOAT, (None, 2, 10, 1000)),)
    assert ends.outputs == (End("scores", FLOAT, (None, 3)),)
    assert image_shape(path) == (2, 10, 1000)


@pytest.mark.parametrize(
    ("given", "answered", "told"),
    [
        (("x", FLOAT, ["N", 2, 10, 10]), ("scores", FLOAT, ["N", 3]), r"maps \['x'\] to \['scores'\]"),
        (("images", HALF, ["N", 2, 10, 10]), ("scores", FLOAT, ["N", 3]), "must take float32"),
        (("images", FLOAT, [1, 2, 10, 10]), ("scores", FLOAT, [1, 3]), "with N free"),
        (("images", FLOAT, ["N", 2, "H", 10]), ("scores", FLOAT, ["N", 3]), "with N free"),
        (("images", FLOAT, ["N", 200]), ("scores", FLOAT, ["N", 3]), "with N free"),
        (("images", FLOAT, ["N", 2, 10, 10]), ("scores", FLOAT, []), "must give N×classes"),
    ],
)
def test_other_ends_are_refused(tmp_path, given, answered, told):
    with pytest.raises(ArtifactError, match=told):
        image_shape(write(tmp_path / "n.onnx", given, answered))


def test_a_file_that_breaks_off_anywhere_is_refused_or_read(tmp_path):
    whole = write(tmp_path / "n.onnx", ("images", FLOAT, ["N", 2, 10, 10]), ("scores", FLOAT, ["N", 3])).read_bytes()
    for size in [*range(60), *range(60, len(whole), 97)]:
        (tmp_path / "n.onnx").write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"n\.onnx"):
            image_shape(tmp_path / "n.onnx")


def test_bytes_by_chance_are_refused(tmp_path):
    chance = np.random.default_rng(0)
    for _ in range(200):
        (tmp_path / "n.onnx").write_bytes(b"\x3a\x40" + chance.integers(0, 256, 64, dtype=np.uint8).tobytes())
        with pytest.raises(ArtifactError):
            image_shape(tmp_path / "n.onnx")
