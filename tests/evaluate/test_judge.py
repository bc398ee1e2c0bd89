"""What counts is judged one image at a time on a real board, whatever an image's neighbours would make of it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.devices.board import board_from
from robustdeploy.devices.local import Local
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.judge import judge
from robustdeploy.onboard.types import pixels_from_bytes


def model(path, weights, *nodes):
    """A linear net whose scores go through ``nodes``, from ``linear`` to ``scores``."""
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 4, 4])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])
    first = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["linear"])]
    graph = helper.make_graph([*first, *nodes], "g", [given], [answered], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


HONEST = [helper.make_node("Identity", ["linear"], ["scores"])]
CENTRED = [
    helper.make_node("ReduceMean", ["linear", "zero"], ["mean"], keepdims=1),
    helper.make_node("Sub", ["linear", "mean"], ["scores"]),
]
NOISY = [
    helper.make_node("RandomNormalLike", ["linear"], ["noise"], scale=3.0),
    helper.make_node("Add", ["linear", "noise"], ["scores"]),
]


@pytest.fixture
def judged(agent, weights, images, tmp_path):
    def call(nodes, batch, count=30):
        axis = [helper.make_node("Constant", [], ["zero"], value_ints=[0])]
        with board_from(Local(), agent) as board:
            path = model(tmp_path / "net.onnx", weights, *axis, *nodes)
            board.open_engine("onnxruntime", board.compile("onnxruntime", board.put(path)).files)
            return judge(board, images[:count], batch)

    return call


@pytest.mark.parametrize("count", [1, 29, 30])
@pytest.mark.parametrize("batch", [1, 8, 37])
def test_an_honest_engine_gives_each_image_its_scores_in_any_batch(judged, images, weights, batch, count):
    found = judged(HONEST, batch, count)
    expected = pixels_from_bytes(images[:count]).reshape(count, -1) @ weights
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    assert not found.moved.any()


def test_scores_over_the_batch_are_judged_alone_and_found_out(judged):
    found = judged(CENTRED, 1)
    assert not found.scores.any()  # alone, each image is its own mean
    assert found.moved.any()
    found = judged(CENTRED, 8)
    assert found.scores.any()
    assert found.moved.any()
    assert not found.restless.any()


def test_chance_is_told_from_neighbours(judged):
    found = judged(NOISY, 1)
    assert found.moved.any()
    assert found.restless.any()
    assert not (found.restless & ~found.moved).any()


def test_a_batch_of_none_is_refused_by_the_board(agent, net, images):
    with board_from(Local(), agent) as board:
        board.open_engine("onnxruntime", board.compile("onnxruntime", board.put(net)).files)
        with pytest.raises(UsageError, match="batches of at least 1, not 0"):
            board.score(images, 0)
