import os
import re
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from robustdeploy.errors import ArtifactError, ToolchainError, UsageError
from robustdeploy.onboard.backends import ncnn as backend
from robustdeploy.onboard.backends.ncnn import Ncnn, lowered
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.find import build_plugin

probe = Ncnn().probe()
pytestmark = pytest.mark.skipif(
    not (probe.usable and probe.details["pnnx"]), reason=f"ncnn or pnnx is not here: {probe.fix or 'pip install pnnx'}"
)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).random((5, 3, 9, 9), dtype=np.float32)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A block whose shortcut takes every second place and some channels, as pruned ResNets of ours have it."""
    rng, weights = np.random.default_rng(0), {}

    def weight(name, *shape):
        weights[name] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return name

    weights |= {"from": np.zeros(2, np.int64), "to": np.full(2, 2**63 - 1), "axes": np.array([2, 3])}
    weights |= {"step": np.array([2, 2]), "before": np.array([0, 1, 0, 0, 0, 0, 0, 0])}
    weights["channels"] = np.array([0, 0, 1, 2, 4, 0, 5, 6, 0, 0, 3])
    nodes = [
        helper.make_node("Conv", ["images", weight("a", 6, 3, 3, 3)], ["c"], name="c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("Conv", ["r", weight("b", 11, 6, 3, 3)], ["d"], name="d", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Slice", ["r", "from", "to", "axes", "step"], ["s"], name="s"),
        helper.make_node("Pad", ["s", "before"], ["p"], name="p", mode="constant"),
        helper.make_node("Gather", ["p", "channels"], ["q"], name="q", axis=1),
        helper.make_node("Add", ["d", "q"], ["e"], name="e"),
        helper.make_node("GlobalAveragePool", ["e"], ["g"], name="g"),
        helper.make_node("Flatten", ["g"], ["f"], name="f"),
        helper.make_node("Gemm", ["f", weight("w", 11, 4), weight("v", 4)], ["scores"], name="h"),
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["N", 3, 9, 9])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 4])
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [images], [scores], held)
    path = tmp_path_factory.mktemp("ncnn") / "net.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_the_shortcut_of_a_pruned_net_takes_the_places_and_channels_that_it_should(residual, pixels, tmp_path):
    Ncnn().compile(residual, tmp_path)
    expected = OnnxRuntime().load(residual)(pixels)
    with Ncnn(threads=2).open(tmp_path) as model:
        assert np.abs(model(pixels) - expected).max() <= 1e-3 * np.abs(expected).max()
        assert model.runs["layers"]["Pooling"] == 2
        assert model.runs["layers"]["Crop"] == 8
        with pytest.raises(ArtifactError, match="reads N×3×9×9 images"):
            model(pixels[:, :, :8])


def test_only_a_cut_from_the_first_to_the_last_place_is_a_pooling():
    graph = "7767517\n2 2\nInput in0 0 1 in0\nTensor.slice cut 1 1 in0 out0\n"
    source = (
        "Tensor.slice cut 1 1 0 1 dims=(2,3) ends=({0},{0}) selects=(1,1) starts=({1},{1}) steps=({2},{3}) $input=0"
    )
    size, whole = (3, 8, 9), 2**31 - 1
    assert "Pooling" in lowered(graph, source.format(whole, 0, 3, 3), size)
    assert " 2=3 " in lowered(graph, source.format(whole, 0, 3, 3), size)
    for kept in (source.format(7, 0, 2, 2), source.format(whole, 1, 2, 2), source.format(whole, 0, 2, 1), ""):
        assert "Tensor.slice cut" in lowered(graph, kept, size)
    assert "Input in0 0 1 in0 0=9 1=8 2=3\n" in lowered(graph, "", size)


def test_what_pnnx_takes_for_another_net_is_refused(residual, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "_LIST", re.compile("no such thing"))  # as it was before its lists were read
    with pytest.raises(ArtifactError, match=r"pnnx makes another net of net\.onnx|not finite|cannot run"):
        Ncnn().compile(residual, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_graph_is_refused_in_one_sentence(residual, pixels, tmp_path):
    class Some(CalibrationDataReader):
        parts = iter([{"images": pixels}])

        def get_next(self):
            return next(self.parts, None)

    (engine := tmp_path / "engine").mkdir()
    quantize_static(str(residual), str(tmp_path / "int8.onnx"), Some(), QuantFormat.QDQ, per_channel=True)
    with pytest.raises(ArtifactError, match=r"^(ncnn|pnnx) .*int8\.onnx[^\n]*$"):
        Ncnn().compile(tmp_path / "int8.onnx", engine)
    assert list(engine.iterdir()) == []


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    words = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '317'])"]
    began = time.monotonic()
    with pytest.raises(ToolchainError, match="took more than 1 s"):
        backend._run(words, tmp_path, os.environ, 1)
    assert time.monotonic() - began < 20
    # A killed process is gone a moment after it was told, on a busy machine a longer one.
    while left := subprocess.run(["pgrep", "-f", "sleep 317"], capture_output=True, check=False).stdout:
        assert time.monotonic() - began < 30, left
        time.sleep(0.05)


def test_a_program_that_dies_is_told_by_its_signal(tmp_path):
    words = [sys.executable, "-c", "import os; print('going', flush=True); os.kill(os.getpid(), 11)"]
    assert backend._run(words, tmp_path, os.environ, 60) == "going; it was ended by signal 11"


def test_without_the_converter_engines_run_and_are_not_built(residual, pixels, tmp_path, monkeypatch):
    Ncnn().compile(residual, tmp_path)
    monkeypatch.setattr(backend, "_converter", lambda: None)
    assert Ncnn().probe().usable
    assert Ncnn().probe().details == {"pnnx": ""}
    with Ncnn().open(tmp_path) as model:
        assert model(pixels).shape == (5, 4)
    with pytest.raises(ToolchainError, match=r"pnnx, which converts .* build_on to host"):
        Ncnn().compile(residual, tmp_path)


@pytest.mark.parametrize("options", [{"threads": -1}, {"convert_s": 0}, {"convert_s": "x"}])
def test_options_that_cannot_be_are_refused_on_the_board_too(options):
    with pytest.raises(UsageError, match="options of ncnn are refused"):
        build_plugin("backends", "ncnn", options)
