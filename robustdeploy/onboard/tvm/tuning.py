"""Tuning: MetaSchedule tries schedules by running them, in a process of its own that may be killed at any moment.

A schedule is kept where it was faster than ours, in a database that is two files of the engine; from these an engine
can be built again without trying anything.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import ToolchainError
from .installed import FFI, runtime
from .operators import DEPTHWISE, TILED
from .schedule import scheduled
from .vectors import Vectors

DATABASE = ("tuning-workloads.json", "tuning-records.json")
"""The files that hold what was found."""
_SEED = 0
_CODE = "from robustdeploy.onboard.tvm.tuner import main; main()"
_ROUNDS = 5
_RUN_S = 0.02


@dataclass(frozen=True)
class Tuning:
    """How long schedules are looked for."""

    trials: int = 0
    """Schedules to try for each function; 0 tries none."""
    limit_s: float = 600.0
    """The most that all of it may take."""
    known: str = ""
    """A folder with the database of an earlier build, which is used as it is."""


def search(tuning: Tuning, question: Mapping[str, Any], folder: Path) -> str:
    """Look for schedules in another process and leave the database in ``folder``; return in words how it went.

    ``question`` is what that process needs to write the same functions. One that crashes or takes too long costs what
    it had not found yet, and nothing else.
    """
    if (ffi := runtime(str(question["runtime"])).ffi_version) != FFI:
        raise ToolchainError(
            f"apache-tvm-ffi {ffi} crashes when TVM tunes; python3 -m pip install 'apache-tvm-ffi=={FFI}', or set "
            "tune_trials to 0"
        )
    asked = json.dumps({**question, "trials": tuning.trials, "folder": str(folder), "parent": os.getpid()})
    # The agent is one file, which Python imports from as from a folder.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", _CODE, asked],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            code = child.wait(tuning.limit_s)
            ended = "" if code == 0 else f" ended early ({_last_words(said)}) and"
        except subprocess.TimeoutExpired:
            ended = f" was stopped after {tuning.limit_s:g} s and"
        finally:
            _stop(child)
    for name in DATABASE:
        # The last line may have been cut off, and TVM reads none of a file with such a line.
        whole = _lines(folder / name)
        (folder / name).write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
    found = len(_lines(folder / DATABASE[1]))
    if not found:  # an empty file is none of an engine's
        for name in DATABASE:
            (folder / name).unlink()
    return f"tuning of {tuning.trials} trials{ended} found {found} functions that run faster than by our schedule"


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[-200:] for line in reversed(lines) if line.strip()), "it said nothing")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _json_database(tvm: Any, folder: Path) -> Any:
    workloads, records = (str(folder / name) for name in DATABASE)
    return tvm.s_tir.meta_schedule.database.JSONDatabase(workloads, records, work_dir=None)


def _lines(path: Path) -> list[str]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            json.loads(line)
        except ValueError:
            continue
        found.append(line)
    return found


def watch_parent(parent: int) -> None:
    """End this process when the one that asked is gone, even if that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def tune(tvm: Any, module: Any, target: Any, vectors: Vectors, trials: int, folder: Path) -> None:
    """Try schedules for one function after another, and keep each that is faster than ours at once."""
    ms = tvm.s_tir.meta_schedule
    kept = _json_database(tvm, folder)
    builder, runner = _builder(tvm), _runner(tvm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = ms.relax_integration.extract_tasks(module, target, {})
        for task in tasks:
            function = task.dispatched[0]["main"]
            if not _matters(tvm, function):
                continue
            with tempfile.TemporaryDirectory() as work:
                contexts, weights = ms.relax_integration.extracted_tasks_to_tune_contexts(
                    [task], work, strategy="replay-trace", num_threads=1, seed=_SEED
                )
                tried = ms.tune.tune_tasks(
                    tasks=contexts,
                    task_weights=weights,
                    work_dir=work,
                    max_trials_global=trials,
                    num_trials_per_iter=min(trials, 16),
                    builder=builder,
                    runner=runner,
                    cost_model="random",
                )
                _keep_if_faster(tvm, task.dispatched[0], target, vectors, tried, kept)


def _matters(tvm: Any, function: Any) -> bool:
    blocks = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    names = {blocks.get(block).name_hint for block in blocks.get_child_blocks(blocks.get_sblock("root"))}
    return bool(names & {TILED, DEPTHWISE})


def _keep_if_faster(tvm: Any, module: Any, target: Any, vectors: Vectors, tried: Any, kept: Any) -> None:
    """Let the best schedule that was found and ours take turns, and keep the first where it is the faster."""
    if not tried.has_workload(module):
        return
    best = tried.get_top_k(tried.commit_workload(module), 1)
    if not best:
        return
    tuned = tvm.s_tir.Schedule(module)
    best[0].trace.apply_to_schedule(tuned, remove_postproc=False)
    ours = scheduled(tvm, tvm.IRModule(dict(module.functions)), vectors)
    runs = [_timed(tvm, candidate, target) for candidate in (tuned.mod, ours)]
    lowest = [min(times) for times in zip(*([run() for run in runs] for _ in range(_ROUNDS)), strict=True)]
    if lowest[0] >= lowest[1]:
        return
    record = tvm.s_tir.meta_schedule.database.TuningRecord
    workload = kept.commit_workload(module)
    kept.commit_tuning_record(record(best[0].trace, workload, [lowest[0]], target, best[0].args_info))


def _timed(tvm: Any, module: Any, target: Any) -> Any:
    """Compile one function; return what runs it and gives its time in seconds."""
    function = module["main"]
    library = tvm.compile(module, target=target)
    draw = np.random.default_rng(0)
    given = [
        tvm.runtime.tensor(
            draw.random([int(size) for size in buffer.shape], dtype=np.float32).astype(str(buffer.dtype))
        )
        for buffer in function.params
    ]
    evaluator = library["main"]

    def run() -> float:
        evaluator(*given)
        lowest, ends = float("inf"), time.perf_counter() + _RUN_S
        while time.perf_counter() < ends:
            started = time.perf_counter()
            evaluator(*given)
            lowest = min(lowest, time.perf_counter() - started)
        return lowest

    return run


def _builder(tvm: Any) -> Any:
    """Return a builder that compiles in this process; TVM's own starts anew for each round, for half a minute."""
    ms = tvm.s_tir.meta_schedule
    local = ms.builder.local_builder

    @tvm.ir.utils.derived_object
    class Here(ms.builder.PyBuilder):  # type: ignore[misc, name-defined]
        def build(self, build_inputs: Any) -> list[Any]:
            return [self._built(given) for given in build_inputs]

        def _built(self, given: Any) -> Any:
            try:
                path = local.default_export(local.default_build(given.mod, given.target, None))
                return ms.builder.BuilderResult(path, None)
            except Exception as error:  # a schedule that cannot be compiled is one that is not taken
                return ms.builder.BuilderResult(None, str(error)[-300:])

    return Here()


def _runner(tvm: Any) -> Any:
    """Return a runner that runs in this process."""
    ms = tvm.s_tir.meta_schedule
    common, device = ms.runner.utils, tvm.cpu()
    config = ms.runner.EvaluatorConfig(number=3, repeat=1, min_repeat_ms=20, enable_cpu_cache_flush=False)

    @tvm.ir.utils.derived_object
    class Done(ms.runner.PyRunnerFuture):  # type: ignore[misc, name-defined]
        def __init__(self, result: Any) -> None:
            self._result = result

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return self._result

    @tvm.ir.utils.derived_object
    class Here(ms.runner.PyRunner):  # type: ignore[misc, name-defined]
        def run(self, runner_inputs: Any) -> list[Any]:
            return [Done(self._ran(given)) for given in runner_inputs]

        def _ran(self, given: Any) -> Any:
            try:
                infos = [info.as_json() for info in given.args_info]
                arguments = common.alloc_argument_common(_fill, device, infos, 1)
                library = tvm.runtime.load_module(given.artifact_path)
                costs = common.run_evaluator_common(library, device, config, arguments)
                return ms.runner.RunnerResult(costs, None)
            except Exception as error:  # as above
                return ms.runner.RunnerResult(None, str(error)[-300:])

    return Here()


def _fill(tensor: Any) -> None:
    """Fill a tensor with small numbers, none of them so small that it would be slow."""
    draw = np.random.default_rng(0)
    tensor.copyfrom(draw.random(tensor.shape, dtype=np.float32).astype(str(tensor.dtype)))


def with_known(tvm: Any, module: Any, target: Any, folder: Path) -> Any:
    """Return ``module`` with the schedules that the database in ``folder`` has for its functions."""
    with target, _json_database(tvm, folder):
        return tvm.relax.transform.MetaScheduleApplyDatabase(enable_warning=False)(module)
