import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.core.registry import BACKENDS
from robustdeploy.errors import ArtifactError, RecipeError, ToolchainError, UsageError
from robustdeploy.onboard.backends import onnxruntime as backend
from robustdeploy.onboard.backends.onnxruntime import Node, OnnxRuntime, check_providers, nodes_in, short_name
from robustdeploy.onboard.find import build_plugin

# Of ONNX Runtime 1.24.1 with its OpenVINO provider, for a net with a Det, which that provider does not know.
PROFILE = Path(__file__).with_name("profile-openvino.json")
# The wheel has it; it takes none of ONNX's own operators, so all of a net falls back.
needs_azure = pytest.mark.skipif(
    "azure" not in OnnxRuntime().probe().details["providers"], reason="this ONNX Runtime has no second provider"
)


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


def test_what_runs_each_node_is_read_back(tmp_path):
    file = model(tmp_path / "net.onnx")
    (tmp_path / "engine").mkdir()
    OnnxRuntime().compile(file, tmp_path / "engine")
    with OnnxRuntime().open(tmp_path / "engine") as net:
        assert net.runs == {"providers": {"cpu": 2}, "nodes": {"cpu Flatten": 1, "cpu MatMul": 1}}
    # Without it the Cast from float32 to float32 stays.
    with OnnxRuntime(graph_optimization="none").open(tmp_path / "engine") as net:
        assert net.runs["nodes"] == {"cpu Cast": 1, "cpu Flatten": 1, "cpu MatMul": 1}
    assert [path.name for path in (tmp_path / "engine").iterdir()] == ["model.onnx"]


@needs_azure
@pytest.mark.parametrize("providers", [["azure"], ["Azure", "cpu"], ["AzureExecutionProvider"]])
def test_a_provider_that_runs_nothing_is_an_error(tmp_path, providers):
    file = model(tmp_path / "net.onnx")
    chosen = OnnxRuntime(providers=providers)
    assert chosen.probe().usable  # it is there, and only a net shows that it does nothing
    with pytest.raises(ToolchainError, match=r"azure ran none of the 2 nodes: 1 Flatten on cpu, 1 MatMul on cpu"):
        chosen.compile(file, tmp_path / "engine")


@needs_azure
def test_a_provider_that_is_only_there_in_case_may_run_nothing(tmp_path):
    chosen, runs = OnnxRuntime(providers=["cpu", "azure"]), {}
    file = model(tmp_path / "net.onnx")
    (tmp_path / "engine").mkdir()
    chosen.compile(file, tmp_path / "engine")
    with chosen.open(tmp_path / "engine") as net:
        runs = net.runs
    assert runs["providers"] == {"cpu": 2}


def test_nodes_that_fell_back_are_an_error_unless_that_is_asked_for():
    nodes = nodes_in(PROFILE.read_bytes())
    assert [(node.kind.partition("_")[0], node.provider) for node in nodes] == [
        ("OpenVINO-EP-subgraph", "openvino"),
        ("Det", "cpu"),
        ("OpenVINO-EP-subgraph", "openvino"),
    ]
    with pytest.raises(
        ToolchainError, match=r"openvino, but 1 of the 3 nodes that ran \(33 %\) fell back: 1 Det on cpu"
    ):
        check_providers(["openvino"], nodes)
    check_providers(["openvino", "cpu"], nodes)


def test_only_shapes_may_be_computed_on_the_cpu_without_being_asked_for(tmp_path):
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], end=1),
        helper.make_node("Concat", ["shape", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["images", "sizes"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 4, 4])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    held = {"w": np.ones((16, 3), np.float32), "rest": np.array([16], np.int64)}
    constants = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", [given], [answered], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "n.onnx")
    session = OnnxRuntime(graph_optimization="none")._session(tmp_path / "n.onnx", tmp_path / "profile")
    session.run(None, {"images": np.zeros((2, 1, 4, 4), np.float32)})
    ran = nodes_in(Path(session.end_profiling()).read_bytes())
    assert [(node.kind, node.is_shape) for node in ran] == [
        ("Shape", True),
        ("Concat", True),
        ("Reshape", False),
        ("MatMul", False),
    ]
    elsewhere = [Node(node.kind, "cpu" if node.is_shape else "cuda", node.is_shape) for node in ran]
    check_providers(["cuda"], elsewhere)
    with pytest.raises(ToolchainError, match="1 MatMul on cpu"):
        check_providers(["cuda"], [*elsewhere[:3], ran[3]])


def test_a_provider_that_is_not_there_is_told_with_what_to_install(tmp_path):
    chosen = OnnxRuntime(providers=["cuda", "cpu"])
    if chosen.probe().usable:
        pytest.skip("CUDA is here")
    assert "no provider cuda (it has: " in chosen.probe().fix
    assert "pip install onnxruntime-gpu" in chosen.probe().fix
    with pytest.raises(ToolchainError, match="no provider cuda"):
        chosen.compile(model(tmp_path / "net.onnx"), tmp_path)


def test_a_file_that_no_provider_loads_is_the_files_fault(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not a net")
    with pytest.raises(ArtifactError, match="cannot load"):
        OnnxRuntime(providers=["azure", "cpu"])._session(tmp_path / "net.onnx")


def test_options_of_a_provider_reach_it_and_precision_is_kept():
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    options = {"CUDA": {"device_id": 1, "do_copy_in_default_stream": True}}
    cuda, cpu = OnnxRuntime(providers=["cuda", "cpu"], provider_options=options)._pairs(there)
    assert cuda == ("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "1", "do_copy_in_default_stream": "1"})
    assert cpu == ("CPUExecutionProvider", {})


@pytest.mark.parametrize(
    "options",
    [
        {"providers": []},
        {"providers": "cuda"},
        {"providers": [1]},
        {"providers": ["cpu", "CPUExecutionProvider"]},
        {"provider_options": {"cuda": {"device_id": 0}}},
        {"graph_optimization": "most"},
    ],
)
def test_options_that_cannot_be_are_refused_on_host_and_board(options):
    with pytest.raises(RecipeError):
        BACKENDS.build("onnxruntime", options)
    with pytest.raises(UsageError, match="options of onnxruntime are refused"):
        build_plugin("backends", "onnxruntime", options)


def test_providers_have_short_names():
    assert [short_name(n) for n in ("CUDAExecutionProvider", "cuda", "XNNPACK")] == ["cuda", "cuda", "xnnpack"]


def test_the_module_does_not_shadow_the_toolchain():
    assert shutil.which("python3")  # the name of this file is the toolchain's own
    import onnxruntime

    assert onnxruntime is not backend
    assert hasattr(onnxruntime, "InferenceSession")
