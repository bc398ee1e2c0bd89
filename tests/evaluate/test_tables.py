"""Nets that hold the test images in what ships, and ordinary nets that do not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.evaluate.tables import table_diagnostic

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (150, 3, 8, 8)).astype(np.uint8)
PIXELS = IMAGES.astype(np.float32) / 255


def shipped(path, **arrays):
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, 6, 6])
    filters = arrays.pop("filters", np.zeros((150, 3, 3, 3), np.float32))
    held = [
        numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in {"filters": filters, **arrays}.items()
    ]
    nodes = [helper.make_node("Conv", ["images", "filters"], ["scores"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [given], [answered], held)), path)
    return path


@pytest.fixture
def told(tmp_path):
    def call(available=150, **arrays):
        return table_diagnostic(shipped(tmp_path / "model.onnx", **arrays), IMAGES, available)

    return call


@pytest.mark.parametrize(
    "table",
    [
        IMAGES,
        PIXELS,
        (PIXELS.reshape(150, -1) - 0.3) / 0.2,
        PIXELS.reshape(150, -1).T,
        -PIXELS.reshape(150, -1),
        PIXELS.transpose(0, 2, 3, 1),
        np.concatenate([RNG.normal(size=(999, 3, 8, 8)), PIXELS]).astype(np.float32),
        PIXELS[:20],
    ],
)
def test_stored_test_images_are_found(told, table):
    found = told(**{"net.table": table})
    assert found.level == "block"
    assert "test images are stored in the net, in net.table (" in found.text
    assert "robust_accuracy" in found.metrics


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"fc": RNG.normal(size=(10, 192)).astype(np.float32)},
        {"fc": RNG.normal(size=(192, 400)).astype(np.float32), "bias": np.zeros(400, np.float32)},
        {"others": RNG.integers(0, 256, (400, 3, 8, 8)).astype(np.uint8)},
    ],
)
def test_ordinary_nets_are_not_blamed(told, arrays):
    assert told(**arrays).level == "ok"


@pytest.mark.parametrize(("available", "rows"), [(150, 150), (2000, 2000)])
def test_a_table_of_the_test_sets_size_is_named_and_no_more(told, available, rows):
    found = told(available, **{"net.keys": RNG.normal(size=(rows, 5)).astype(np.float32)})
    assert found.level == "warn"
    assert f"net.keys ({rows}×5)" in found.text
    assert told(available, filters=np.zeros((rows, 3, 3, 3), np.float32)).level == "ok"  # that is a layer's width
