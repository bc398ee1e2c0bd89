import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.export.precision.fp16 import Fp16
from robustdeploy.export.precision.int8 import Int8
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.backends.openvino import OpenVino
from robustdeploy.onboard.find import build_plugin

probe = OpenVino().probe()
pytestmark = pytest.mark.skipif(not probe.usable, reason=f"OpenVINO is not usable here: {probe.fix}")
SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).random((20, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    """Two convolutions and a linear layer."""
    rng = np.random.default_rng(0)
    weights = {"v": rng.normal(size=(16, 3, 3, 3)) / 5, "u": rng.normal(size=(16, 16, 3, 3)) / 12}
    weights |= {"b": rng.normal(size=16) / 5, "w": rng.normal(size=(16, 4))}
    nodes = [
        helper.make_node("Conv", ["images", "v", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "u", "b"], ["d"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w"], ["scores"], name="head"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *SHAPE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])
    held = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [images], [scores], held)
    path = tmp_path_factory.mktemp("openvino") / "net.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def scores_of(backend, path, folder, pixels):
    folder.mkdir()
    backend.compile(path, folder)
    with backend.open(folder) as model:
        return model(pixels), model.runs


def in_precision(runs, *precisions):
    """How many convolutions ran in one of these precisions, and how many there are."""
    counts = {tuple(name.split()[:2]): count for name, count in runs["layers"].items() if name.startswith("Conv")}
    return sum(n for (_, precision), n in counts.items() if precision in precisions), sum(counts.values())


@pytest.mark.parametrize("form", ["u8s8", "s8s8"])
def test_a_graph_with_explicit_scales_runs_in_int8(convolutions, pixels, tmp_path, form):
    Int8(form=form).lower(convolutions, tmp_path / "int8.onnx", pixels)
    found, runs = scores_of(OpenVino(), tmp_path / "int8.onnx", tmp_path / "engine", pixels)
    assert in_precision(runs, "i8", "u8") == (2, 2)
    exact = OnnxRuntime().load(convolutions)(pixels)
    assert np.abs(found - exact).max() < 0.05 * np.ptp(exact)
    assert np.abs(found - OnnxRuntime().load(tmp_path / "int8.onnx")(pixels)).max() < 0.03 * np.ptp(exact)


def test_a_graph_typed_in_float16_gives_float_scores(convolutions, pixels, tmp_path):
    Fp16().lower(convolutions, tmp_path / "half.onnx", None)
    found, runs = scores_of(OpenVino(), tmp_path / "half.onnx", tmp_path / "engine", pixels)
    exact = OnnxRuntime().load(tmp_path / "half.onnx")(pixels)
    assert 0 < np.abs(found - OnnxRuntime().load(convolutions)(pixels)).max() < 1e-2  # the weights are rounded
    assert np.abs(found - exact).max() < 5e-3 * np.abs(exact).max()
    assert runs["precision_hint"] == "f32"


def test_float32_is_kept_to_unless_another_precision_is_asked_for(convolutions, pixels, tmp_path):
    exact = OnnxRuntime().load(convolutions)(pixels)
    found, runs = scores_of(OpenVino(), convolutions, tmp_path / "exact", pixels)
    assert np.abs(found - exact).max() < 1e-5
    assert in_precision(runs, "f32") == (2, 2)
    assert (runs["precision_hint"], runs["threads"]) == ("f32", 1)
    loose, runs = scores_of(OpenVino(precision_hint="bf16"), convolutions, tmp_path / "loose", pixels)
    if "BF16" not in probe.details["capabilities"]:
        pytest.skip("this CPU computes nothing in bfloat16")
    assert in_precision(runs, "bf16") == (2, 2)
    assert 1e-5 < np.abs(loose - exact).max() < 0.1


def test_images_are_scored_in_executions_of_the_batch_that_is_asked_for(convolutions, pixels, tmp_path):
    alone, _ = scores_of(OpenVino(), convolutions, tmp_path / "engine", pixels)
    with OpenVino(batch=8, threads=2, performance_hint="throughput").open(tmp_path / "engine") as model:
        np.testing.assert_allclose(model(pixels), alone, atol=1e-5)  # two whole ones, and 4 of 8
        np.testing.assert_allclose(model(pixels[:1]), alone[:1], atol=1e-5)
        with pytest.raises(ArtifactError, match="reads N×3×8×8"):
            model(pixels[:, :, :4])


def test_an_engine_of_another_version_is_refused(convolutions, tmp_path, pixels):
    scores_of(OpenVino(), convolutions, tmp_path / "engine", pixels)
    graph = tmp_path / "engine" / "model.xml"
    graph.write_text(graph.read_text().replace('value="2026', 'value="2019'))
    with pytest.raises(ArtifactError, match=r"was written by 2019.*compile it again"), OpenVino().open(graph.parent):
        pytest.fail("it was opened")


@pytest.mark.parametrize("options", [{"precision_hint": "f64"}, {"performance_hint": 1}, {"batch": 0}, {"batch": "8"}])
def test_options_that_cannot_be_are_refused_on_the_board_too(options):
    with pytest.raises(UsageError, match="options of openvino are refused"):
        build_plugin("backends", "openvino", options)


def test_a_missing_toolchain_is_told_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install openvino" in OpenVino().probe().fix


def test_the_converter_that_reports_to_its_makers_is_not_loaded_and_can_still_be():
    code = """
import sys
from robustdeploy.onboard.backends.openvino import OpenVino
assert OpenVino().probe().usable
assert not [name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools.ovc")]
import importlib.util
assert importlib.util.find_spec("openvino.tools.ovc")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
