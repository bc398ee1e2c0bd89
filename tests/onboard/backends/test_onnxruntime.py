import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.errors import ArtifactError, ToolchainError
from robustdeploy.onboard.backends import onnxruntime as backend
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime


def model(path, batch="N", names=("images", "scores"), weight=None, dtype=TensorProto.FLOAT, ir=10, opset=20):
    weight = np.arange(48, dtype=np.float32).reshape(16, 3) if weight is None else weight
    given = helper.make_tensor_value_info(names[0], dtype, [batch, 1, 4, 4])
    answered = helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("Cast", [names[0]], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], [names[1]]),
    ]
    graph = helper.make_graph(nodes, "g", [given], [answered], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def test_what_is_installed_is_told():
    probe = OnnxRuntime().probe()
    assert probe.usable
    assert probe.version[0].isdigit()


def test_an_engine_scores_any_batch_as_the_graph_says(tmp_path):
    onnx_file = model(tmp_path / "net.onnx")
    engine = tmp_path / "engine"
    engine.mkdir()
    OnnxRuntime().compile(onnx_file, engine)
    assert (engine / "model.onnx").read_bytes() == onnx_file.read_bytes()
    images = np.random.default_rng(0).random((5, 1, 4, 4), dtype=np.float32)
    with OnnxRuntime(threads=2).open(engine) as net:
        expected = images.reshape(5, 16) @ np.arange(48, dtype=np.float32).reshape(16, 3)
        np.testing.assert_allclose(net(images), expected, rtol=1e-5)
        assert net(images[:1]).dtype == np.float32
        np.testing.assert_allclose(net(images[::2]), expected[::2], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 1}, "with N free"),
        ({"names": ("x", "y")}, "maps 'images' to 'scores'"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"weight": np.full((16, 3), np.nan, np.float32)}, "not finite"),
    ],
)
def test_a_net_of_another_shape_is_refused_in_one_sentence(tmp_path, change, words):
    with pytest.raises(ArtifactError, match=words) as caught:
        OnnxRuntime().compile(model(tmp_path / "net.onnx", **change), tmp_path / "engine")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("data", [b"", b"not a net", b"\x08\x0a" * 50])
def test_a_file_that_is_no_net_is_refused_in_one_sentence(tmp_path, data):
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"cannot load net\.onnx|maps") as caught:
        OnnxRuntime().compile(tmp_path / "net.onnx", tmp_path / "engine")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_graph_newer_than_the_toolchain_asks_for_a_newer_toolchain(tmp_path):
    file = model(tmp_path / "net.onnx")
    newer = onnx.load(file)
    newer.ir_version = 99
    file.write_bytes(newer.SerializeToString())
    with pytest.raises(ToolchainError, match="install a newer one"):
        OnnxRuntime().compile(file, tmp_path / "engine")


def test_a_missing_toolchain_is_told_with_the_fix(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    probe = OnnxRuntime().probe()
    assert not probe.usable
    assert "pip install onnxruntime" in probe.fix


def test_a_full_disk_is_not_taken_for_a_bad_net(tmp_path):
    file = model(tmp_path / "net.onnx")
    with pytest.raises(OSError, match="No such file"):
        OnnxRuntime().compile(file, tmp_path / "no")


def test_negative_threads_are_refused():
    with pytest.raises(ValueError, match="threads"):
        backend.plugin(threads=-1)


def test_the_module_does_not_shadow_the_toolchain():
    assert shutil.which("python3")  # the name of this file is the toolchain's own
    import onnxruntime

    assert onnxruntime is not backend
    assert hasattr(onnxruntime, "InferenceSession")


def test_nothing_is_left_in_the_home_of_who_runs_it(tmp_path):
    code = "from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime; assert OnnxRuntime().probe().usable"
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
