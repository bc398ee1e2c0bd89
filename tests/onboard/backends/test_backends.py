"""What every backend owes: an engine is the files in a folder that compute the net, and faults end in a sentence."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.traits import DEVICE, traits_of
from robustdeploy.errors import ArtifactError, RecipeError, ToolchainError, UsageError
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.engine import files_in
from robustdeploy.onboard.find import build_plugin
from robustdeploy.onboard.types import pixels_from_bytes

LEFT_OUT = r"leaves out the antialiasing of a Resize in net\.onnx; resize without it"
WITHOUT_ANTIALIASING = {"openvino": LEFT_OUT, "tvm": LEFT_OUT, "ncnn": r"pnnx makes another net of net\.onnx"}
SHARE = {"ncnn": 1e-3}
"""Of the largest score, by which scores may differ from ONNX Runtime's; 1e-5 where nothing is said."""


@pytest.fixture(params=BACKENDS.names())
def backend(request):
    return BACKENDS.build(request.param, {})


@pytest.fixture
def usable(backend):
    if not backend.probe().usable:
        pytest.skip(f"its toolchain is not usable here: {backend.probe().fix}")
    return backend


@pytest.fixture
def computes(usable):
    if traits_of(type(usable)).stands_in:
        pytest.skip("it computes nothing of the net")
    return usable


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    return folder


def name_of(backend):
    return next(name for name in BACKENDS.names() if BACKENDS.get(name) is type(backend))


def test_an_engine_is_plain_files_that_work_in_any_folder(usable, net, images, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    usable.compile(net, tmp_path / "first")
    listed = files_in(tmp_path / "first")
    for path in (tmp_path / "first").iterdir():
        shutil.move(path, tmp_path / "second" / path.name)
        (tmp_path / "second" / path.name).chmod(0o400)
    pixels = pixels_from_bytes(images)
    with usable.open(tmp_path / "second") as model:
        scores = model(pixels)
    with usable.open(tmp_path / "second") as model:
        np.testing.assert_array_equal(model(pixels), scores)
    assert scores.dtype == np.float32
    assert len(scores) == len(images)
    assert files_in(tmp_path / "second") == listed  # opening it changes nothing


def behind_a_resize(path, antialias):
    """A net behind a Resize, as the steps in front of a net are exported."""
    rng = np.random.default_rng(0)
    weights = {"sizes": np.array([4, 4]), "w": rng.normal(size=(8, 3, 3, 3)), "v": rng.normal(size=(8, 5))}
    kinds = {"sizes": np.int64, "w": np.float32, "v": np.float32}
    held = [numpy_helper.from_array(value.astype(kinds[name]), name) for name, value in weights.items()]
    how = {"mode": "linear", "antialias": antialias, "exclude_outside": antialias}
    nodes = [
        helper.make_node("Shape", ["images"], ["start"], start=0, end=2),
        helper.make_node("Concat", ["start", "sizes"], ["size"], axis=0),
        helper.make_node("Resize", ["images", "", "", "size"], ["small"], **how),
        helper.make_node("Conv", ["small", "w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "v"], ["scores"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 9, 11])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "resized", [images], [scores], held)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.mark.parametrize("antialias", [0, 1])
def test_it_resizes_as_onnx_runtime_does_or_says_that_it_cannot(computes, antialias, engine, tmp_path):
    path = behind_a_resize(tmp_path / "net.onnx", antialias)
    pixels = np.random.default_rng(1).random((2, 3, 9, 11), dtype=np.float32)
    if antialias and (words := WITHOUT_ANTIALIASING.get(name_of(computes))):
        with pytest.raises(ArtifactError, match=words):
            computes.compile(path, engine)
        assert not list(engine.iterdir())
        return
    computes.compile(path, engine)
    with computes.open(engine) as model:
        found = model(pixels)
    np.testing.assert_allclose(found, OnnxRuntime().load(path)(pixels), atol=SHARE.get(name_of(computes), 1e-5))


@pytest.fixture(scope="module")
def zoo_engine(zoo, tmp_path_factory):
    """The folder of the zoo's engine by a backend's name; built once each, as some toolchains take seconds."""
    built = {}

    def engine_of(backend):
        name = name_of(backend)
        if name not in built:
            built[name] = tmp_path_factory.mktemp("engine")
            backend.compile(zoo, built[name])
        return built[name]

    return engine_of


def test_it_computes_every_usual_operator_as_onnx_runtime_does(computes, zoo, zoo_pixels, zoo_engine):
    expected = OnnxRuntime().load(zoo)(zoo_pixels)
    with computes.open(zoo_engine(computes)) as model:
        scores = model(zoo_pixels)
    share = SHARE.get(name_of(computes), 1e-5)
    assert np.abs(scores - expected).max() <= share * np.abs(expected).max()


def test_it_computes_attention_or_says_that_it_cannot(computes, attention, zoo_pixels, engine):
    expected = OnnxRuntime().load(attention)(zoo_pixels)
    if name_of(computes) == "ncnn":
        with pytest.raises(ArtifactError, match=r"^ncnn cannot run what pnnx makes of attention\.onnx: [^\n]+$"):
            computes.compile(attention, engine)
        return
    computes.compile(attention, engine)
    with computes.open(engine) as model:
        assert np.abs(model(zoo_pixels) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_scores_of_an_image_do_not_depend_on_its_batch(usable, zoo_pixels, zoo_engine):
    with usable.open(zoo_engine(usable)) as model:
        together = model(zoo_pixels)
        alone = np.concatenate([model(zoo_pixels[at : at + 1]) for at in range(len(zoo_pixels))])
        assert model(zoo_pixels[:0]).shape == (0, together.shape[1])
        np.testing.assert_array_equal(model(zoo_pixels), together)  # nothing is left of what came between
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(together).max()


def test_the_same_net_gives_the_same_engine(usable, zoo, zoo_engine, engine):
    usable.compile(zoo, engine)
    assert files_in(engine) == files_in(zoo_engine(usable))


def test_what_really_runs_is_told_in_plain_words(usable, zoo_engine):
    with usable.open(zoo_engine(usable)) as model:
        runs = dict(getattr(model, "runs", {}))
    assert json.loads(json.dumps(runs)) == runs
    assert all(len(name) <= 400 for name in runs)


def test_what_is_no_net_for_boards_is_refused_in_one_sentence(computes, refused, engine):
    with pytest.raises((ArtifactError, ToolchainError)) as caught:
        computes.compile(refused, engine)
    said = str(caught.value)
    assert "\n" not in said
    assert 20 < len(said) < 600
    assert str(refused.parent) not in said


@pytest.mark.parametrize("content", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"{\0<"])
def test_a_damaged_engine_is_refused_in_one_sentence(usable, net, engine, content):
    if name_of(usable) == "tvm":
        pytest.skip("half a library ends the process that loads it; the store's hash keeps it from being loaded")
    usable.compile(net, engine)
    for path in sorted(engine.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(content(whole))
        with pytest.raises((ArtifactError, ToolchainError)) as caught, usable.open(engine):
            pytest.fail(f"an engine with a damaged {path.name} was opened")
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    with usable.open(engine):
        pass


def test_an_engine_without_its_file_is_refused(backend, tmp_path):
    (tmp_path / "strange").write_text("x")
    with pytest.raises((ArtifactError, ToolchainError)), backend.open(tmp_path):
        pytest.fail("an engine that is none was opened")


def test_options_that_cannot_be_are_refused(backend):
    name = name_of(backend)
    with pytest.raises(RecipeError):
        BACKENDS.build(name, {"nonsense": 1})
    if not hasattr(backend, "threads"):
        return
    for threads in ("three", -1, 10**9, 1.5, None):
        with pytest.raises(RecipeError, match="threads"):
            BACKENDS.build(name, {"threads": threads})
    for threads in ("3", -1, None):
        with pytest.raises(UsageError, match="options"):
            build_plugin("backends", name, {"threads": threads})


def test_all_cores_may_be_taken(computes, net, images, engine):
    if not hasattr(computes, "threads"):
        pytest.skip("it has no option threads")
    every = BACKENDS.build(name_of(computes), {"threads": 0})
    every.compile(net, engine)
    pixels = pixels_from_bytes(images)
    expected = OnnxRuntime().load(net)(pixels)
    most = SHARE.get(name_of(computes), 1e-5) * np.abs(expected).max()
    with every.open(engine) as model:
        assert np.abs(model(pixels) - expected).max() <= most


OFFLINE = """
import sys
from pathlib import Path
import numpy as np
sys.addaudithook(lambda event, _: sys.exit(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from robustdeploy.core.registry import BACKENDS
backend, engine = BACKENDS.build(sys.argv[1], {}), Path(sys.argv[3])
backend.compile(Path(sys.argv[2]), engine)
with backend.open(engine) as model:
    model(np.zeros((2, 3, 4, 4), np.float32))
"""


def test_it_writes_nothing_into_the_home_of_who_runs_it_and_calls_nobody(usable, net, tmp_path):
    home, engine, work = (tmp_path / name for name in ("home", "engine", "work"))
    for folder in (home, engine, work):
        folder.mkdir()
    hidden = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(home)}
    words = [sys.executable, "-c", OFFLINE, name_of(usable), str(net), str(engine)]
    # Without a network device a call that bypasses Python's sockets fails too.
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0:
        words = ["unshare", "-rn", *words]
    home.chmod(0o500)
    done = subprocess.run(words, env=environment, cwd=work, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [*home.rglob("*"), *work.rglob("*")] == []


def test_what_it_is_tied_to_is_told_by_every_board_or_by_its_probe(usable):
    details = usable.probe().details
    assert [name for name in traits_of(type(usable)).tied_to if name not in (*DEVICE, *details)] == []


def test_what_a_backend_does_not_declare_is_the_careful_answer():
    class Silent:
        pass

    class Cross:
        CROSS_COMPILES = True

    silent = traits_of(Silent)
    assert (silent.tied_to, silent.builds_on_host, silent.cross_compiles, silent.stands_in) == (
        DEVICE,
        False,
        False,
        False,
    )
    assert traits_of(Cross).builds_on_host
