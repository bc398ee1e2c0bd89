"""TVM: engines against ONNX Runtime on the same file, for this machine and for another; what is refused, and how."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from robustdeploy.core.load import load_target
from robustdeploy.core.registry import LINKS
from robustdeploy.devices.board import board_from
from robustdeploy.devices.build import build_engine
from robustdeploy.errors import ArtifactError, ToolchainError, UsageError
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.backends.tvm import Tvm
from robustdeploy.onboard.tvm.running import LIBRARY
from robustdeploy.onboard.types import pixels_from_bytes

PROBE = Tvm().probe()
COMPILES = PROBE.usable and PROBE.details["compiles"]
compiles = pytest.mark.skipif(not COMPILES, reason=f"TVM's compiler is not here: {PROBE.fix}")
ARM = "aarch64-linux-gnu-gcc"
arm = pytest.mark.skipif(not shutil.which(ARM), reason=f"{ARM} is not here: apt-get install gcc-aarch64-linux-gnu")


class Graph:
    """An ONNX graph that grows node by node, with random weights."""

    def __init__(self, *image):
        self.image, self.draw = image, np.random.default_rng(0)
        self.nodes, self.weights, self.last = [], [], "images"

    def weight(self, *shape):
        name = f"w{len(self.weights)}"
        values = self.draw.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def constant(self, values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind, *more, at=None, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [at or self.last, *more], [name], **attributes))
        self.last = name
        return name

    def conv(self, before, after, size=3, at=None, **attributes):
        pads = attributes.pop("pads", [size // 2] * 4)
        weight = self.weight(after, before // attributes.get("group", 1), size, size)
        return self.add("Conv", weight, self.weight(after), at=at, pads=pads, **attributes)

    def write(self, path, channels):
        self.add("GlobalAveragePool")
        self.add("Flatten")
        self.add("Gemm", self.weight(5, channels), self.weight(5), transB=1)
        return self.finish(path)

    def finish(self, path):
        self.nodes[-1].output[0] = "scores"
        given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *self.image])
        answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", None])
        graph = helper.make_graph(self.nodes, "g", [given], [answered], self.weights)
        onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
        return path


def residual(path):
    net = Graph(3, 8, 8)
    net.conv(3, 16)
    first = net.add("Relu")
    net.conv(16, 16)
    net.add("Relu")
    net.conv(16, 16)
    net.add("Add", first)
    net.add("Relu")
    net.conv(16, 32, strides=[2, 2])
    net.add("Relu")
    return net.write(path, 32)


def odd(path):
    """Sizes and channels that no vector divides, borders on some sides only, strides and dilation that differ."""
    net = Graph(3, 11, 9)
    net.conv(3, 7, 5, pads=[2, 1, 0, 3])
    net.add("Relu")
    net.conv(7, 13, 3, strides=[2, 1])
    net.add("Relu")
    net.conv(13, 24, 3, dilations=[2, 1], pads=[2, 1, 2, 1])
    net.add("Sigmoid")
    net.conv(24, 21, 1, pads=[0] * 4)
    return net.write(path, 21)


def mobile(path):
    """Depthwise with both strides, its multiplied kind, clipping, and 1×1."""
    net = Graph(3, 12, 12)
    net.conv(3, 16, 3, strides=[2, 2])
    net.add("Clip", net.constant(np.float32(0)), net.constant(np.float32(6)))
    net.conv(16, 16, 3, group=16)
    net.add("Clip", net.constant(np.float32(0)), net.constant(np.float32(6)))
    net.conv(16, 24, 1)
    net.conv(24, 24, 5, group=24, strides=[2, 2])
    net.conv(24, 48, 3, group=24)
    net.conv(48, 10, 1)
    return net.write(path, 10)


def grouped(path):
    """Groups of several channels each, a shuffle of channels, and concatenation."""
    net = Graph(4, 8, 8)
    net.conv(4, 32)
    first = net.add("Relu")
    net.conv(32, 32, 3, group=4)
    net.conv(32, 12, 3, group=2)
    net.add("Reshape", net.constant(np.int64([0, 2, 6, 8, 8])))
    net.add("Transpose", perm=[0, 2, 1, 3, 4])
    net.add("Reshape", net.constant(np.int64([0, 12, 8, 8])))
    net.add("Concat", first, axis=1)
    net.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    net.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    net.conv(44, 16)
    return net.write(path, 16)


def convolved(path):
    """Scores that come straight from a convolution, as SqueezeNet's do."""
    net = Graph(3, 8, 8)
    net.conv(3, 16)
    net.add("Relu")
    net.conv(16, 5)
    net.add("Relu")
    net.add("GlobalAveragePool")
    net.add("Flatten")
    return net.finish(path)


def dense(path):
    """Layers that are matrix products alone, with widths that vectors divide and one that they do not."""
    net = Graph(1, 6, 6)
    net.add("Flatten")
    for before, after in ((36, 64), (64, 48), (48, 10)):
        net.add("Gemm", net.weight(after, before), net.weight(after), transB=1)
        net.add("Relu")
    return net.finish(path)


def attention(path):
    """What a vision transformer does: patches, layer normalisation, products of what was computed, softmax, GELU."""
    net = Graph(3, 8, 8)
    net.conv(3, 16, 4, strides=[4, 4], pads=[0] * 4)
    net.add("Reshape", net.constant(np.int64([0, 16, 4])))
    tokens = net.add("Transpose", perm=[0, 2, 1])
    normed = net.add("LayerNormalization", net.weight(16), net.weight(16), axis=-1)
    query = net.add("MatMul", net.weight(16, 16), at=normed)
    key = net.add("MatMul", net.weight(16, 16), at=normed)
    value = net.add("MatMul", net.weight(16, 16), at=normed)
    turned = net.add("Transpose", perm=[0, 2, 1], at=key)
    net.add("MatMul", turned, at=query)
    net.add("Softmax", axis=-1)
    net.add("MatMul", value)
    net.add("Add", tokens)
    net.add("Erf")
    net.add("ReduceMean", net.constant(np.int64([1])), keepdims=0)
    net.add("Gemm", net.weight(7, 16), net.weight(7), transB=1)
    return net.finish(path)


def recurrent(path):
    net = Graph(1, 6, 8)
    net.add("Squeeze", net.constant(np.int64([1])))
    net.add("Transpose", perm=[1, 0, 2])
    net.nodes.append(
        helper.make_node(
            "LSTM",
            [net.last, net.weight(1, 20, 8), net.weight(1, 20, 5), net.weight(1, 40)],
            ["states", "final"],
            hidden_size=5,
        )
    )
    net.last = "final"
    net.add("Squeeze", net.constant(np.int64([0])))
    net.add("Gemm", net.weight(3, 5), net.weight(3), transB=1)
    return net.finish(path)


def quantised(path):
    """Weights and results in int8, with scales that round many values."""
    net = Graph(3, 8, 8)
    weight = net.constant(net.draw.integers(-127, 128, (16, 3, 3, 3)).astype(np.int8))
    scales = net.constant(np.full(16, 0.01, np.float32))
    real = net.add("DequantizeLinear", scales, net.constant(np.zeros(16, np.int8)), at=weight, axis=0)
    step, zero = net.constant(np.float32(1 / 255)), net.constant(np.uint8(0))
    net.add("QuantizeLinear", step, zero, at="images")
    net.add("DequantizeLinear", step, zero)
    net.add("Conv", real, net.weight(16), pads=[1, 1, 1, 1])
    net.add("Relu")
    coarse, middle = net.constant(np.float32(0.03)), net.constant(np.uint8(3))
    net.add("QuantizeLinear", coarse, middle)
    net.add("DequantizeLinear", coarse, middle)
    return net.write(path, 16)


def half(path):
    """float16 inside, float32 at both ends."""
    net = Graph(3, 8, 8)
    net.add("Cast", to=TensorProto.FLOAT16)
    for before, after in ((3, 16), (16, 16)):
        weight = net.constant((net.draw.normal(size=(after, before, 3, 3)) / 8).astype(np.float16))
        net.add("Conv", weight, net.constant(np.zeros(after, np.float16)), pads=[1, 1, 1, 1])
        net.add("Relu")
    net.add("Cast", to=TensorProto.FLOAT)
    return net.write(path, 16)


NETS = {
    made.__name__: made
    for made in (residual, odd, mobile, grouped, convolved, dense, attention, recurrent, quantised, half)
}


def compiled(path, **options):
    engine = path.parent / "engine"
    engine.mkdir()
    Tvm(**options).compile(path, engine)
    return engine


def scores_of(backend, engine, images):
    with backend.open(engine) as model:
        return model(images)


def told(engine):
    return json.loads((engine / "engine.json").read_text())


PADDED = [(name, "auto") for name in NETS] + [
    (name, pad) for name in ("odd", "grouped", "convolved") for pad in (True, False)
]


@compiles
@pytest.mark.parametrize(("name", "pad"), PADDED)
def test_an_engine_scores_as_onnx_runtime_does(tmp_path, name, pad):
    path = NETS[name](tmp_path / "net.onnx")
    engine = compiled(path, pad=pad)
    images = np.random.default_rng(1).random((3, *told(engine)["image"]), dtype=np.float32)
    expected = OnnxRuntime().load(path)(images)
    scores = scores_of(Tvm(), engine, images)
    assert scores.dtype == np.float32
    assert np.abs(expected).max() > 0.1, "the net says nothing"
    np.testing.assert_allclose(scores, expected, atol=2e-3 if name == "half" else 1e-5)
    np.testing.assert_array_equal(scores_of(Tvm(), engine, images[1:2]), scores[1:2])
    assert scores_of(Tvm(), engine, images[:0]).shape == (0, told(engine)["classes"])
    assert [("Q/DQ" in note) for note in told(engine)["notes"]] == [True] * (name == "quantised")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A net and its engine for this machine."""
    path = residual(tmp_path_factory.mktemp("small") / "net.onnx")
    return path, compiled(path)


@pytest.fixture
def copy(small, tmp_path):
    return Path(shutil.copytree(small[1], tmp_path / "engine"))


@compiles
def test_the_same_file_gives_the_same_bytes(small, tmp_path):
    (tmp_path / "engine").mkdir()
    Tvm().compile(small[0], tmp_path / "engine")
    assert (tmp_path / "engine" / LIBRARY).read_bytes() == (small[1] / LIBRARY).read_bytes()


@compiles
def test_an_engine_runs_where_only_the_runtime_is(small, tmp_path):
    """In a process that has numpy, tvm_ffi and the runtime library, and nothing else of TVM."""
    import tvm_ffi

    packages = Path(tvm_ffi.__file__).parents[1]
    board = tmp_path / "board"
    for name in ("numpy", "tvm_ffi", "typing_extensions.py", *(p.name for p in packages.glob("numpy.libs"))):
        board.mkdir(exist_ok=True)
        (board / name).symlink_to(packages / name)
    library = packages / "tvm" / "lib" / "libtvm_runtime.so"
    (board / "tvm" / "lib").mkdir(parents=True)
    (board / "tvm" / "lib" / library.name).symlink_to(library)
    version = next(packages.glob("apache_tvm-*.dist-info"))
    (board / version.name).symlink_to(version)
    (board / "robustdeploy").mkdir()
    for name in ("__init__.py", "errors.py", "foreign.py", "onboard"):
        (board / "robustdeploy" / name).symlink_to(Path(__file__).parents[3] / "robustdeploy" / name)
    code = (
        "import sys, numpy as np; from pathlib import Path; from robustdeploy.onboard.backends.tvm import Tvm\n"
        "probe = Tvm().probe(); assert probe.usable and not probe.details['compiles'], probe\n"
        "with Tvm().open(Path(sys.argv[1])) as model: print(model(np.ones((2, 3, 8, 8), np.float32)).tolist())\n"
        "assert 'tvm' not in sys.modules and 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(small[1])],
        env={"PYTHONPATH": str(board), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    expected = OnnxRuntime().load(small[0])(np.ones((2, 3, 8, 8), np.float32))
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


@arm
@compiles
@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a78ae", ""])
def test_a_cross_compiled_engine_is_for_its_machine_alone(tmp_path, cpu):
    engine = compiled(residual(tmp_path / "net.onnx"), triple="aarch64-linux-gnu", cpu=cpu)
    header = (engine / LIBRARY).read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    if os.uname().machine != "aarch64":
        with pytest.raises(ArtifactError, match="is for aarch64 and this machine is"):
            scores_of(Tvm(), engine, np.zeros((1, 3, 8, 8), np.float32))


@arm
@compiles
@pytest.mark.exhaustive
def test_an_engine_that_is_compiled_here_runs_on_an_arm_board(tmp_path, emulated_board, agent):
    path = residual(tmp_path / "net.onnx")
    ours = load_target("aarch64-emulated-tvm")
    there = load_target(str(emulated_board / "target.yaml")).link
    with board_from(LINKS.build(there.name, there.options), agent, 60) as board:
        built = build_engine(board, ours, path, agent, tmp_path / "engine", lambda *told: None)
        board.send(tmp_path / "engine", built.files)
        board.open_engine("tvm", built.files, ours.backend.options)
        images = np.random.default_rng(1).integers(0, 256, (3, 3, 8, 8)).astype(np.uint8)
        scores = board.score(images)
    assert (built.where, built.identity["machine"]) == ("host", "aarch64")
    np.testing.assert_allclose(scores, OnnxRuntime().load(path)(pixels_from_bytes(images)), atol=1e-5)


@compiles
def test_a_damaged_engine_is_refused_before_it_is_loaded(copy):
    library = copy / LIBRARY
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    with pytest.raises(ArtifactError, match="is not the file that was built"):
        scores_of(Tvm(), copy, np.zeros((1, 3, 8, 8), np.float32))
    library.write_bytes(data[:1000])
    with pytest.raises(ArtifactError, match="is not the file that was built"):
        scores_of(Tvm(), copy, np.zeros((1, 3, 8, 8), np.float32))


@compiles
@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"version": "0.26.0"}, ToolchainError, r"built by TVM 0\.26\.0, and TVM 0\.27"),
        ({"machine": "riscv64"}, ArtifactError, "is for riscv64"),
        ({"image": [3, 8]}, ArtifactError, "damaged"),
        ({"more": 1}, ArtifactError, "damaged"),
    ],
)
def test_an_engine_of_another_kind_is_refused(copy, change, kind, words):
    (copy / "engine.json").write_text(json.dumps({**told(copy), **change}))
    with pytest.raises(kind, match=words):
        scores_of(Tvm(), copy, np.zeros((1, 3, 8, 8), np.float32))


@compiles
def test_a_library_that_is_no_engine_is_refused(copy):
    (copy / LIBRARY).write_bytes(b"nothing")
    sha = hashlib.sha256(b"nothing").hexdigest()
    (copy / "engine.json").write_text(json.dumps({**told(copy), "sha256": sha}))
    with pytest.raises(ArtifactError, match="cannot load the engine"):
        scores_of(Tvm(), copy, np.zeros((1, 3, 8, 8), np.float32))


@compiles
def test_images_of_another_shape_are_refused(small):
    with pytest.raises(UsageError, match="reads N×3×8×8 images"):
        scores_of(Tvm(), small[1], np.zeros((1, 3, 9, 8), np.float32))


@compiles
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpu": "cortex-a7777"}, "no code for the cpu cortex-a7777 of "),
        ({"triple": "vax-dec-vms", "cc": "cc"}, "no code for the cpu generic of vax-dec-vms"),
        ({"cc": "no-such-cc"}, r"no-such-cc was looked for\); apt-get install gcc"),
        ({"triple": "riscv64-linux-gnu"}, "apt-get install gcc-riscv64-linux-gnu"),
    ],
)
def test_an_option_that_cannot_be_is_told_with_the_fix(small, tmp_path, options, words):
    with pytest.raises(ToolchainError, match=words) as caught:
        Tvm(**options).compile(small[0], tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_padding_that_is_none_is_refused():
    with pytest.raises(ValueError, match="auto, true or false"):
        Tvm(pad="some")


def test_a_triple_that_is_none_is_refused():
    with pytest.raises(ValueError, match="aarch64-linux-gnu"):
        Tvm(triple="arm")


def test_a_runtime_that_is_not_there_is_told():
    probe = Tvm(runtime="/nowhere").probe()
    assert not probe.usable
    assert "the option runtime of tvm names /nowhere" in probe.fix


def test_a_missing_toolchain_is_told_with_the_fix():
    code = (
        "import sys; sys.modules['tvm_ffi'] = None\n"
        "from robustdeploy.onboard.backends.tvm import Tvm; print(Tvm().probe().fix)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'apache-tvm==0.27.*' 'apache-tvm-ffi==" in done.stdout


NODES = {
    "an operator that TVM lacks": ("y = Foreign(images)", "cannot compile"),
    "scores of another shape": ("y = Relu(images)", "must give one row"),
}


@compiles
@pytest.mark.parametrize("what", NODES)
def test_a_graph_that_cannot_be_compiled_is_told_in_one_sentence(tmp_path, what):
    node, words = NODES[what]
    text = f'<ir_version: 9, opset_import: ["" : 18]> g (float[N, 3, 4, 4] images) => (float[N, k] scores) {{ {node}'
    model = parser.parse_model(text.replace("y =", "scores =") + " }")
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match=words) as caught:
        Tvm().compile(tmp_path / "net.onnx", tmp_path)
    assert "\n" not in str(caught.value)


@compiles
@pytest.mark.parametrize(
    ("data", "words"), [(b"not a net", "cannot be read as an ONNX file"), (b"", r"net\.onnx maps")]
)
def test_a_file_that_is_no_net_is_refused(tmp_path, data, words):
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=words):
        Tvm().compile(tmp_path / "net.onnx", tmp_path)
