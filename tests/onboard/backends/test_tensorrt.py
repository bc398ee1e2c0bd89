"""What can be known of the TensorRT backend without a GPU; scoring is not among it."""

import ast
import importlib.util
import inspect
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError, ToolchainError, UsageError
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.precision.fp16 import Fp16
from robustdeploy.export.precision.int8 import Int8
from robustdeploy.nets.build import build_net
from robustdeploy.nets.store import load_net
from robustdeploy.onboard import cuda
from robustdeploy.onboard.backends import tensorrt as backend
from robustdeploy.onboard.backends.tensorrt import (
    Tensorrt,
    build,
    chunks,
    layers_from,
    pinned_timings,
    profile_shapes,
    toolchain,
    version_tuple,
)
from robustdeploy.onboard.find import build_plugin
from robustdeploy.onboard.store import sha256_of

RTX = importlib.util.find_spec("tensorrt_rtx") is not None
STUB = next((p for e in sys.path if (p := Path(e or ".") / "tensorrt_bindings" / "tensorrt.pyi").is_file()), None)
needs_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx is not installed: no engine can be built without a GPU")
# What each local name in the backend is an instance of, for the check of names against the API.
CLASSES = {
    "trt": "",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "fault": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "loader": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "timings": "ITimingCache",
    "kept": "ITimingCache",
    "tensor": "ITensor",
    "inspector": "EngineInspector",
}


def graph(batch="N", op="Conv", bias=0.0):
    """A small net: convolution, ReLU, pooling, linear layer."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "b": np.full(8, bias, np.float32),
        "v": rng.normal(size=(8, 4)).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node(op, ["images", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["scores"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    body = helper.make_graph(nodes, "net", [images], [scores], constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def for_some_gpu(config):
    """Name an architecture, which a product that builds without a GPU asks for."""
    import tensorrt_rtx as trt

    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)


def toolchain_rtx():
    import tensorrt_rtx

    return tensorrt_rtx


def usable():
    return Tensorrt().probe().usable


@needs_rtx
@pytest.mark.parametrize("batch", ["N", 2])
def test_builds_an_engine_from_a_graph_with_free_or_fixed_batch(batch):
    built = build(toolchain_rtx(), graph(batch), Tensorrt(max_batch=8, tune_batch=2), for_some_gpu)
    assert type(built.engine) is bytes
    assert len(built.engine) > 1000
    assert built.timings == b""


@needs_rtx
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")  # there a timing cache is taken and does nothing
def test_takes_every_option(tmp_path):
    plan = Tensorrt(max_batch=4, workspace_mib=64, level=0, tf32=True, timing_cache=str(tmp_path / "timings"))
    assert build(toolchain_rtx(), graph(), plan, for_some_gpu)
    assert (tmp_path / "timings").is_file()
    assert build(toolchain_rtx(), graph(), plan, for_some_gpu)  # and again from the cache that was kept


@needs_rtx
def test_the_profile_spans_one_to_the_largest_batch():
    seen = []

    def look(config):
        for_some_gpu(config)
        seen.append(config.num_optimization_profiles)
        seen.append(config.get_flag(toolchain_rtx().BuilderFlag.TF32))
        seen.append(config.builder_optimization_level)

    build(toolchain_rtx(), graph(), Tensorrt(level=2), look)
    assert seen == [1, False, 2]


@needs_rtx
@pytest.mark.parametrize("broken", [b"", b"not onnx", graph(op="NoSuchOperator")])
def test_a_graph_that_cannot_be_read_is_refused_in_the_parsers_words(broken):
    with pytest.raises(ArtifactError, match=r"cannot read the ONNX graph: .{10}") as caught:
        build(toolchain_rtx(), broken, Tensorrt(), for_some_gpu)
    if b"NoSuchOperator" in broken:
        assert "NoSuchOperator" in str(caught.value)


@needs_rtx
def test_an_engine_of_another_product_is_refused():
    """Deserialising needs a GPU, so here TensorRT's own refusal is what must come through."""
    runtime = cuda.Cuda.__new__(cuda.Cuda)  # never reached: the engine is refused first
    with (
        pytest.raises((ArtifactError, ToolchainError)),
        backend._loaded(toolchain_rtx(), b"no engine" * 100, runtime, {}),
    ):
        pytest.fail("an engine that is none was opened")


def pinned(tmp_path, content=b"timings", sha256=None):
    (tmp_path / "timings").write_bytes(content)
    return Tensorrt(
        timing_cache=str(tmp_path / "timings"), timing_cache_sha256=sha256 or sha256_of(tmp_path / "timings")
    )


def test_a_pinned_timing_cache_is_that_file_and_no_other(tmp_path):
    assert pinned_timings(pinned(tmp_path)) == b"timings"
    with pytest.raises(ToolchainError, match=r"has hash [0-9a-f]{64}, and 0{64} is pinned; put the pinned file there"):
        pinned_timings(pinned(tmp_path, sha256="0" * 64))
    plan = pinned(tmp_path)
    (tmp_path / "timings").unlink()
    with pytest.raises(ToolchainError, match="is not on the board; put the pinned file there"):
        pinned_timings(plan)


@needs_rtx
@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_a_pinned_timing_cache_is_used_kept_and_never_written(tmp_path):
    trt, flags = toolchain_rtx(), []
    first = build(trt, graph(), Tensorrt(timing_cache=str(tmp_path / "timings")), for_some_gpu)
    assert first.timings == (tmp_path / "timings").read_bytes() != b""
    (tmp_path / "timings").chmod(0o400)
    before = (tmp_path / "timings").stat()

    def look(config):
        for_some_gpu(config)
        flags.append(config)

    plan = Tensorrt(timing_cache=str(tmp_path / "timings"), timing_cache_sha256=sha256_of(tmp_path / "timings"))
    assert build(trt, graph(), plan, look).timings == first.timings
    assert flags[0].get_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    assert (tmp_path / "timings").stat().st_mtime_ns == before.st_mtime_ns


# Written by TensorRT's inspector, as NVIDIA's guide for developers shows it, and with names alone.
INSPECTED = b"""{"Layers": [{
  "Name": "res4_0_branch2a_1", "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "x", "Dimensions": [16,512,28,28],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
  "Outputs": [{"Name": "y", "Dimensions": [16,256,28,28],
    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
  "Weights": {"Type": "Int8", "Count": 131072}, "Bias": {"Type": "Float", "Count": 256}
}, {"Name": "to half", "LayerType": "Reformat", "Outputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
{"Name": "head", "LayerType": "gemm", "Outputs": [{"Name": "scores", "Format/Datatype": "Row major linear FP32"}]},
{"Name": "shape", "LayerType": "NoOp", "Outputs": [{"Format/Datatype": "N/A due to dynamic shapes"}]},
{"Name": "end", "LayerType": "kgen", "Outputs": []}, "a name alone"], "Bindings": ["images", "scores"]}"""


def test_what_the_layers_became_is_read_from_the_inspectors_text():
    assert layers_from(INSPECTED)["layers"] == {
        "CaskConvolution i8": 1,
        "Reformat f16": 1,
        "gemm f32": 1,
        "NoOp unknown": 1,
        "kgen unknown": 1,
        "unknown": 1,
    }
    assert layers_from(b"{}") == {"layers": {}}
    with pytest.raises(ArtifactError, match=r"layers\.json is not what"):
        layers_from(b"[not json")


@needs_rtx
@pytest.mark.slow
def test_every_exported_graph_is_built_in_every_precision(tmp_path):
    """The pruned one is the kept net at 30 % of its operations, whose layers have 5, 7, 33 and other odd widths."""
    torch.manual_seed(0)
    nets = {
        "dense": build_net(Choice(name="resnet8"), 10, (3, 8, 8), [0.5] * 3, [0.5] * 3),
        "pruned": load_net(Path(__file__).parents[3] / "docs/results/cifar10-resnet20-ops0.3"),
    }
    for name, net in nets.items():
        widths = {layer.out_channels for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)}
        assert any(width % 2 for width in widths) == (name == "pruned")
        shape = (3, 8, 8) if name == "dense" else (3, 32, 32)
        exported = tmp_path / f"{name}-fp32.onnx"
        export_onnx(net, shape, exported, 18, NO_METADATA)
        images = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
        Fp16().lower(exported, tmp_path / f"{name}-fp16.onnx", None)
        Int8(form="s8s8").lower(exported, tmp_path / f"{name}-int8.onnx", images)
    built = [build(toolchain_rtx(), path.read_bytes(), Tensorrt(), for_some_gpu).engine for path in tmp_path.iterdir()]
    assert len(built) == 6
    assert min(map(len, built)) > 10_000


def names_used():
    """Dotted names such as ``trt.BuilderFlag.TF32`` and ``builder.create_network`` in the backend's source."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(backend))):
        if not isinstance(node, ast.Attribute):
            continue
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in CLASSES:
            found.add((CLASSES[node.id], *reversed(parts)))
        elif isinstance(node, ast.Name) and node.id == "self" and parts[-1] == "context" and len(parts) > 1:
            found.add(("IExecutionContext", *reversed(parts[:-1])))
    return sorted(tuple(part for part in name if part) for name in found)


def not_ours(name):
    """Every module has a version, and none says so."""
    return name != ("__version__",)


def test_the_names_used_are_found():
    names = names_used()
    assert ("BuilderFlag", "TF32") in names
    assert ("IExecutionContext", "execute_async_v3") in names
    assert len(names) > 30


@needs_rtx
def test_every_name_used_exists_in_tensorrt_rtx():
    trt = toolchain_rtx()
    missing = []
    for name in filter(not_ours, names_used()):
        owner = trt
        for part in name:
            owner = getattr(owner, part, None)
        if owner is None:
            missing.append(".".join(name))
    assert missing == []


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_every_name_used_is_in_the_bindings_of_the_oldest_and_the_newest_version(version):
    """The lists are made by scripts/binding-names. They tell a name and not its class, some as the end of another."""
    text = "\n" + (Path(__file__).parent / "names" / f"tensorrt-{version}.txt").read_text()
    used = {part for name in names_used() for part in name if not part.startswith("__")}
    assert len(used) > 50
    assert sorted(part for part in used if f"{part}\n" not in text) == []
    # What TensorRT 11 has no more: flags that let the builder choose a precision.
    assert ("\nFP16\n" in text, "\nEXPLICIT_BATCH\n" in text) == (
        (True, True) if version == "10.3.0" else (False, False)
    )


@pytest.mark.skipif(STUB is None, reason="tensorrt-stubs is not installed: names cannot be held to TensorRT 10's API")
def test_every_name_used_exists_in_the_stubs_of_tensorrt_10():
    known = members_from_stub(STUB.read_text())
    missing = [".".join(name) for name in filter(not_ours, names_used()) if ".".join(name) not in known]
    assert len(known) > 1000
    assert missing == []


def members_from_stub(text):
    """Read dotted names by indentation: the stub is generated and not all of it is valid Python."""
    known, path = set(), {}
    for line in text.splitlines():
        if match := re.match(r"( *)(?:(?:class|def) (\w+)|(\w+): )", line):
            depth = len(match[1]) // 4
            path = {level: name for level, name in path.items() if level < depth} | {depth: match[2] or match[3]}
            known.add(".".join(path[level] for level in sorted(path)))
    return known


def test_a_missing_toolchain_is_named_with_its_fix():
    with pytest.raises(ToolchainError, match=r"No module named 'no_such_tensorrt'.*JetPack"):
        toolchain("no_such_tensorrt")


def test_a_package_without_tensorrt_in_it_is_refused():
    with pytest.raises(ToolchainError, match="holds no TensorRT"):
        toolchain("json")


@needs_rtx
def test_a_version_below_the_oldest_is_refused():
    with pytest.raises(ToolchainError, match=r"TensorRT 1\.\d.* is too old"):
        toolchain("tensorrt_rtx")  # its own numbering starts at 1


@pytest.mark.skipif(usable(), reason="TensorRT works here; this is about a machine where it does not")
def test_without_the_toolchain_everything_says_what_to_do(tmp_path):
    probe = Tensorrt().probe()
    assert not probe.usable
    assert "install" in probe.fix or "check" in probe.fix
    (tmp_path / "net.onnx").write_bytes(graph())
    (engine := tmp_path / "engine").mkdir()
    with pytest.raises(ToolchainError):
        Tensorrt().compile(tmp_path / "net.onnx", engine)
    assert list(engine.iterdir()) == []
    (engine / "engine.plan").write_bytes(b"plan")
    with pytest.raises(ToolchainError), Tensorrt().open(engine):
        pytest.fail("an engine was opened without a toolchain")


@pytest.mark.parametrize(
    ("options", "told"), [({"fp16": True}, "no option 'fp16'"), ({"level": "3"}, "options of tensorrt are refused")]
)
def test_options_it_does_not_have_are_refused_before_anything_is_built(options, told):
    with pytest.raises(UsageError, match=told):
        build_plugin("backends", "tensorrt", options)


@pytest.mark.parametrize(
    "fields",
    [
        *({"max_batch": 0}, {"tune_batch": 0}, {"tune_batch": 65}, {"level": 6}),
        {"timing_cache": "t", "timing_cache_sha256": "F" * 64},
        {"timing_cache_sha256": "f" * 64},
    ],
)
def test_impossible_options_are_refused(fields):
    with pytest.raises(UsageError):
        Tensorrt(**fields)


def test_profile_of_a_free_batch_and_of_a_fixed_one():
    assert profile_shapes((-1, 3, 8, 8), 2, 16) == ((1, 3, 8, 8), (2, 3, 8, 8), (16, 3, 8, 8))
    assert profile_shapes((4, 3, 8, 8), 2, 16) == ((4, 3, 8, 8),) * 3


@pytest.mark.parametrize("shape", [(), (-1, 3, -1, -1), (1, 0, 8, 8)])
def test_only_the_batch_may_be_free(shape):
    with pytest.raises(ArtifactError, match="only the first dimension"):
        profile_shapes(shape, 1, 2)


def test_chunks_cover_every_image_once_within_the_profile():
    assert list(chunks(10, 1, 4)) == [(0, 4, 4), (4, 8, 4), (8, 10, 2)]
    assert list(chunks(5, 4, 4)) == [(0, 4, 4), (4, 5, 4)]  # a fixed batch: the last one is padded
    assert list(chunks(0, 1, 4)) == []


def test_versions_compare_by_number():
    assert version_tuple("10.3.0.26") > version_tuple("9.9")
    assert version_tuple("11.4.0.106.post1") >= (11, 4)
    assert version_tuple("unknown") == ()


def test_the_graph_used_here_is_valid():
    onnx.checker.check_model(onnx.load_from_string(graph()), full_check=True)


class Queue:
    """The CUDA runtime's calls in the order in which they would be queued; nothing is computed here."""

    def __init__(self):
        self.calls = []
        self.events = 0

    @contextmanager
    def event(self):
        self.events += 1
        yield self.events
        self.calls.append(f"end {self.events}")

    def mark(self, event, stream):
        self.calls.append(f"mark {event}")

    def between_ns(self, start, end):
        return 10 * end

    def to_device(self, address, source, stream):
        self.calls.append("copy in")

    def to_host(self, target, address, stream):
        self.calls.append("copy out")

    def wait(self, stream):
        self.calls.append("wait")

    def set_input_shape(self, name, shape):
        return True

    def execute_async_v3(self, stream):
        self.calls.append("compute")
        return True


def scorer(queue, most=4):
    ends = backend.Ends("images", "scores", (1, 2, 2), 3, 1, most)
    arrays = np.zeros((most, 1, 2, 2), np.float32), np.zeros((most, 3), np.float32)
    return backend.Scorer(queue, queue, ends, *arrays, 1, 2, 7, None)


def test_the_parts_of_a_call_lie_between_the_moments_of_its_stream():
    queue = Queue()
    parts = scorer(queue).split(np.zeros((4, 1, 2, 2), np.float32))
    assert queue.calls[:8] == ["mark 1", "copy in", "mark 2", "compute", "mark 3", "copy out", "mark 4", "wait"]
    assert parts == {"host_to_device": 20, "compute": 30, "device_to_host": 40}
    assert scorer(Queue()).split(np.zeros((9, 1, 2, 2), np.float32))["compute"] == 90  # three executions


def test_scoring_alone_marks_no_moment():
    queue = Queue()
    assert scorer(queue)(np.zeros((2, 1, 2, 2), np.float32)).shape == (2, 3)
    assert queue.calls == ["copy in", "compute", "copy out", "wait"]
