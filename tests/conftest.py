"""The real chain, run once on a tiny recipe through the command line, and ways to call the command line again."""

import atexit
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

# The nets here are tiny: a second thread costs more than it does, above all beside other processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where Python is told to keep no bytecode, each of the many processes here would compile torch and SciPy anew: six
# seconds of a core. Theirs goes to a folder that ends with the tests.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = tempfile.mkdtemp(prefix="robustdeploy-bytecode-")
    sys.dont_write_bytecode = False
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)

TINY = """
    name: tiny
    net: resnet8
    threat: {norm: linf, eps: 0.1}
    train: {task: fastat, epochs: 6, batch_size: 64, lr: 0.2, device: cpu}
    budget: {ops: 0.3}
    evaluate:
      limit: 60
      curve_limit: 30
      eps_curve: [1.0, 4.0]
      attacks: [fgsm, {name: pgd, steps: 5, alpha: 0.05}, {name: square, queries: 30}]
    gate:
      - {id: RD-OPS-01, metric: ops_fraction, at_most: 0.3}
      - {id: RD-ACC-01, metric: clean_accuracy, at_least: 0.05}
"""
QUICK = """
    extends: host-cpu
    name: quick
    latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}
"""
ELSEWHERE = Path(__file__).parent / "devices/elsewhere.py"
MAIN = "from robustdeploy.cli import main; main()"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test that is marked ``alike(n)``, leave n cases spread over all of them, and make the others exhaustive."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("alike"):
            cases[item.path, item.originalname].append(item)
    for its in cases.values():
        (wanted,) = its[0].get_closest_marker("alike").args
        last = max(1, wanted - 1)
        kept = {round(index * (len(its) - 1) / last) for index in range(wanted)}
        for number, item in enumerate(its):
            if number not in kept:
                item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory):
    """Keep what robustdeploy remembers of its user away from who runs these tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster on this machine: where clients reach it, and the port that its processes know each other by."""

    address: str
    port: int


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The one JSON document on stdout; anything beside it is an error."""
        return json.loads(self.out)


def write_words(folder, tiny=TINY, quick=QUICK):
    (folder / "tiny.yaml").write_text(textwrap.dedent(tiny))
    (folder / "quick.yaml").write_text(textwrap.dedent(quick))
    return folder


@pytest.fixture(scope="session")
def command():
    """Call the command line in this process, in a folder: fast, and with warnings as errors."""

    def call(folder, *words):
        from robustdeploy.cli import main

        out, err, argv, here = io.StringIO(), io.StringIO(), sys.argv, Path.cwd()
        sys.argv = ["robustdeploy", *map(str, words)]
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
            code = 0
        except SystemExit as end:
            code = 0 if end.code is None else end.code
        finally:
            sys.argv = argv
            os.chdir(here)
        return Done(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def spawn():
    """Start the command line as a process of its own, in a process group of its own, to be killed or looked at."""

    def start(folder, *words, **environment):
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, words)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def chain(tmp_path_factory, command):
    """A folder with tiny.yaml, quick.yaml and ``runs/tiny``, evaluated and reported; not to be changed."""
    folder = write_words(tmp_path_factory.mktemp("chain"))
    done = command(folder, "run", "tiny.yaml", "--target", "quick.yaml", "--name", "tiny", "--json")
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def desk(chain, tmp_path):
    """A copy of the chain's folder that a test may damage."""
    folder = tmp_path / "desk"
    shutil.copytree(chain, folder, symlinks=True)
    return folder


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    """The agent as it travels."""
    from robustdeploy.export.agent import build_agent

    path = tmp_path_factory.mktemp("agent") / "agent.pyz"
    build_agent(path)
    return path


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here; that needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def cluster():
    """A real cluster of this machine alone, on ports that nobody else uses."""
    pytest.importorskip("ray")
    with socket.socket() as one, socket.socket() as other:
        ports = []
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
            ports.append(each.getsockname()[1])
    program = str(Path(sys.executable).parent / "ray")
    start = [program, "start", "--head", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--num-cpus=2"]
    more = ["--include-dashboard=false", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
    subprocess.run([*start, *more], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    yield Cluster(f"ray://127.0.0.1:{ports[1]}", ports[0])
    subprocess.run([program, "stop", "--force"], check=True, capture_output=True)


@pytest.fixture(scope="session")
def weights():
    """The one matrix of ``net``."""
    return np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)


@pytest.fixture(scope="session")
def net(tmp_path_factory, weights):
    """A linear net as an ONNX file, small enough for any board."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 4, 4])
    answered = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 5])
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    graph = helper.make_graph(nodes, "g", [given], [answered], [numpy_helper.from_array(weights, "w")])
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    # An IR version and an opset that the oldest supported board reads.
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


@pytest.fixture(scope="session")
def images():
    """Images of the size that ``net`` reads."""
    return np.random.default_rng(1).integers(0, 256, (30, 3, 4, 4)).astype(np.uint8)


@pytest.fixture(scope="session")
def made_board(tmp_path_factory, worker_id):
    """An emulated Arm board, made once for all processes of a test run; it is not started here, and not changed."""
    from robustdeploy.devices.emulator.assembly import assemble
    from robustdeploy.devices.emulator.folder import folder_at
    from robustdeploy.errors import EnvironmentFailure, StorageError

    base = tmp_path_factory.getbasetemp()
    folder = folder_at((base if worker_id == "master" else base.parent) / "emulated-board")
    while True:
        try:
            handle = folder.taken()
            break
        except StorageError:  # the other process makes it
            time.sleep(0.5)
    try:
        if folder.facts is None:
            assemble(folder, lambda words: None)
    except EnvironmentFailure as missing:
        pytest.skip(f"no emulated Arm board can be made here: {missing}")
    finally:
        os.close(handle)
    return folder


def board_beside(made, path):
    """A board of its own that shares the files of one that is made: to be started and stopped by one test alone."""
    from robustdeploy.devices.emulator.folder import folder_at

    folder = folder_at(path)
    os.close(folder.taken())
    folder.python.parent.mkdir()
    folder.root.symlink_to(made.root)
    shutil.copy(made.python, folder.python)
    folder.store.mkdir()
    folder.seal(made.facts)
    return folder.path


@pytest.fixture
def own_emulated_board(made_board, tmp_path):
    """The folder of an emulated board that does not run, for one test to do with as it likes."""
    return board_beside(made_board, tmp_path / "board")


@pytest.fixture(scope="session")
def emulated_board(made_board, tmp_path_factory):
    """The folder of an emulated board that runs; its target file lies in it."""
    from robustdeploy.devices.emulator import server
    from robustdeploy.devices.emulator.folder import folder_at
    from robustdeploy.errors import EnvironmentFailure

    folder = folder_at(board_beside(made_board, tmp_path_factory.mktemp("emulated") / "board"))
    try:
        server.start(folder)
    except EnvironmentFailure as missing:
        pytest.skip(f"no emulated Arm board can be started here: {missing}")
    yield folder.path
    server.stop(folder)


class Boards:
    """Links to this machine, each of which can go for good: its agent is killed and cannot be started anew."""

    def __init__(self, folder):
        self.folder = folder

    def link(self, name, *before, machine="", **exports):
        """A link whose agent says that it is on ``machine``, where that is given."""
        path = self.folder / name
        words = f'-E "{ELSEWHERE}" "{machine}"' if machine else ""
        exports |= {"BOARD": name, "BOARDS": self.folder}
        told = "".join(f"export {each}='{value}'\n" for each, value in exports.items())
        path.write_text(f'#!/bin/sh\n{told}exec {" ".join(before)} "{sys.executable}" {words} "$@"\n')
        path.chmod(0o755)
        return {"name": "local", "options": {"python": str(path)}}

    def agents(self, name):
        """Processes of the board ``name`` that this one has started."""
        found = []
        for children in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
            for pid in children.read_text().split():
                with suppress(OSError):  # one that has just ended
                    if f"BOARD={name}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        found.append(int(pid))
        return found

    def everywhere(self):
        """Processes of all boards, whoever has started them."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.folder).encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def lose(self, name):
        (self.folder / name).unlink(missing_ok=True)
        for pid in self.agents(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def boards(tmp_path):
    folder = tmp_path / "boards"
    folder.mkdir()
    return Boards(folder)
