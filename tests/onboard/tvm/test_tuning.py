"""Tuning: a search that is stopped costs nothing but its time, and what was found builds an engine again."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from robustdeploy.errors import ArtifactError, ToolchainError
from robustdeploy.onboard.backends.onnxruntime import OnnxRuntime
from robustdeploy.onboard.backends.tvm import Tvm
from robustdeploy.onboard.tvm import tuning
from robustdeploy.onboard.tvm.compiling import (
    Processor,
    fused,
    image_shape,
    imported,
    read_graph,
    target_for,
    vectors_of,
)
from robustdeploy.onboard.tvm.graph import prepared
from robustdeploy.onboard.tvm.installed import compiler

PROBE = Tvm().probe()
pytestmark = pytest.mark.skipif(
    not (PROBE.usable and PROBE.details["compiles"]), reason=f"TVM's compiler is not here: {PROBE.fix}"
)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    draw = np.random.default_rng(0)
    weights = {"w": draw.normal(size=(16, 3, 3, 3)) / 5, "m": draw.normal(size=(4, 16)), "n": draw.normal(size=4)}
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "m", "n"], ["scores"], transB=1),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])
    held = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    graph = helper.make_graph(nodes, "g", [given], [answered], held)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def engine_of(net, folder, **options):
    folder.mkdir(exist_ok=True)
    backend = Tvm(**options)
    backend.compile(net, folder)
    images = np.random.default_rng(1).random((2, 3, 8, 8), dtype=np.float32)
    with backend.open(folder) as model:
        np.testing.assert_allclose(model(images), OnnxRuntime().load(net)(images), atol=1e-5)
    return json.loads((folder / "engine.json").read_text())["notes"], sorted(path.name for path in folder.iterdir())


def test_a_search_that_takes_too_long_is_stopped_and_our_schedule_stays(net, tmp_path):
    notes, names = engine_of(net, tmp_path / "engine", tune_trials=4, tune_limit_s=1)
    assert notes == [
        "tuning of 4 trials was stopped after 1 s and found 0 functions that run faster than by our schedule"
    ]
    assert names == ["engine.json", "net.so"]


def test_a_search_that_fails_says_why_and_our_schedule_stays(net, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_CODE", "raise SystemExit('no tuner here')")
    notes, names = engine_of(net, tmp_path / "engine", tune_trials=4)
    assert notes == [
        "tuning of 4 trials ended early (no tuner here) and found 0 functions that run faster than by our schedule"
    ]
    assert names == ["engine.json", "net.so"]


def test_what_was_found_builds_an_engine_again(net, tmp_path, monkeypatch):
    tvm = compiler()
    processor = Processor()
    target = target_for(tvm, processor)
    vectors = vectors_of(tvm, target, processor.machine)
    model = read_graph(net)
    module = imported(tvm, prepared(model, vectors, "auto"), image_shape(model, "net"))
    module = fused(tvm, module, target, vectors)
    (tmp_path / "found").mkdir()
    kept = tuning._json_database(tvm, tmp_path / "found")
    database = tvm.s_tir.meta_schedule.database
    tasks = tvm.s_tir.meta_schedule.relax_integration.extract_tasks(module, target, {})
    task = next(task for task in tasks if tuning._matters(tvm, task.dispatched[0]["main"]))
    # Any schedule that is not ours: the rectifier is left a loop of its own.
    loops = tvm.s_tir.Schedule(task.dispatched[0])
    loops.unroll(loops.get_loops("tiled")[-1])
    tried = database.MemoryDatabase()
    record = database.TuningRecord(loops.trace, tried.commit_workload(task.dispatched[0]), [1.0], target)
    tried.commit_tuning_record(record)
    monkeypatch.setattr(tuning, "_ROUNDS", 1)
    times = iter([2.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(tuning, "_timed", lambda *of: lambda: next(times))
    for expected in (0, 1):  # slower than ours, then faster
        tuning._keep_if_faster(tvm, task.dispatched[0], target, vectors, tried, kept)
        assert len(tuning._lines(tmp_path / "found" / tuning.DATABASE[1])) == expected
    notes, names = engine_of(net, tmp_path / "engine", tuned=str(tmp_path / "found"))
    assert notes == ["schedules were taken from an earlier tuning"]
    assert names == ["engine.json", "net.so", *sorted(tuning.DATABASE)]
    ours, again = tmp_path / "ours", tmp_path / "again"
    engine_of(net, ours)
    engine_of(net, again, tuned=str(tmp_path / "engine"))
    assert (again / "net.so").read_bytes() == (tmp_path / "engine" / "net.so").read_bytes()
    assert (again / "net.so").read_bytes() != (ours / "net.so").read_bytes()


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "records").write_text('[1]\n[2]\n[3, "cu')
    assert tuning._lines(tmp_path / "records") == ["[1]", "[2]"]


def test_what_cannot_be_tuned_is_refused(net, tmp_path, monkeypatch):
    with pytest.raises(ArtifactError, match="name the folder of an engine that was tuned"):
        engine_of(net, tmp_path / "engine", tuned=str(tmp_path))
    with pytest.raises(ToolchainError, match="set build_on: board"):
        engine_of(net, tmp_path / "engine", triple="aarch64-linux-gnu", cc="cc", tune_trials=1)
    monkeypatch.setattr(tuning, "FFI", "9.9")
    with pytest.raises(ToolchainError, match=r"crashes when TVM tunes; .* 'apache-tvm-ffi==9\.9'"):
        engine_of(net, tmp_path / "engine", tune_trials=1)


@pytest.mark.parametrize("options", [{"tune_trials": -1}, {"tune_limit_s": 0}, {"tune_limit_s": 1e9}])
def test_limits_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="tune_trials from 0"):
        Tvm(**options)
