"""What an agent does on request: keep files, compile, open, score, attack and time."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..errors import ArtifactError, BoardError, RobustdeployError, UsageError
from .draws import Draws
from .engine import EngineFile, Files, checked_files, engine_id, files_in
from .find import build_plugin, plugin_names
from .fresh import Fresh
from .queries import Counted
from .sensors import peak_memory, read_equipment, read_sensors
from .store import Store, is_full
from .telemetry import Watch
from .timing import CHECKED, SPLITS, Plan, measure
from .turns import take_turns
from .types import SIGNS, Backend, Bytes, Model, Pixels, Scores, Threat, pixels_from_bytes
from .wire import VERSION, Array, Message

Progress = Callable[[int], None]
_PROGRESS_S = 1.0
_CHUNK = 256
# Pixels take four times the bytes of the images, and a board shares its memory with the GPU.
_CHUNK_BYTES = 64 << 20


class Service:
    """The state of one agent: its files, the open engine and how often that was asked."""

    def __init__(self, store: Store, progress: Progress, root: Path = Path("/")) -> None:
        self._store = store
        self._progress = progress
        self._root = root
        self._opened = ExitStack()
        self._model: Model | None = None
        self._is_new = False
        self._reopen: Message | None = None
        self._asked = 0
        self._reported = time.monotonic()
        self._operations: Mapping[str, Callable[[Message], Message]] = {
            "hello": self._hello,
            "probe": self._probe,
            "have": self._have,
            "put": self._put,
            "get": self._get,
            "compile": self._compile,
            "open": self._open,
            "score": self._score,
            "attack": self._attack,
            "time": self._time,
            "run": self._run,
            "turns": self._turns,
            "sensors": self._sensors,
            "close": self._close,
        }

    def answer(self, request: Message) -> Message:
        """Do what ``request`` asks; whatever goes wrong becomes the answer."""
        name = request.head.get("op")
        try:
            operation = self._operations.get(name) if isinstance(name, str) else None
            if operation is None:
                known = ", ".join(self._operations)
                raise UsageError(f"the agent has no operation {str(name)[:60]!r} (it has: {known})")
            return operation(request)
        # Whatever happens, the host gets an answer: an agent that ends without one looks like a link that went down.
        except RobustdeployError as error:
            return _error(type(error).__name__, str(error))
        except Exception as error:
            # A full disk is the user's to mend and has its own words; anything else unforeseen is a fault.
            if isinstance(error, OSError) and is_full(error):
                return _error("StorageError", f"{name}: {self._store.full(error)}")
            # The trace is for whoever mends the agent; it goes to standard error, whose tail the host shows.
            sys.excepthook(type(error), error, error.__traceback__)
            return _error("BoardError", f"{name} failed on the board: {type(error).__name__}: {error}")

    def _hello(self, request: Message) -> Message:
        facts = read_sensors(self._root)
        return Message(
            {
                "agent": __version__,
                "protocol": VERSION,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "machine": machine_of(platform.machine(), sys.maxsize),
                "system": platform.platform(),
                "backends": list(plugin_names("backends")),
                "attacks": list(plugin_names("attacks")),
                **{name: facts[name] for name in ("boot_id", "cpu_model", "board_model")},
                **read_equipment(self._root, self._store.folder),
            },
            {},
        )

    def _probe(self, request: Message) -> Message:
        probe = _backend(request.head).probe()
        head = {"usable": probe.usable, "version": probe.version, "fix": probe.fix, "details": dict(probe.details)}
        return Message(head, {})

    def _have(self, request: Message) -> Message:
        return Message({"have": self._store.has(_need(request.head, "sha256"))}, {})

    def _put(self, request: Message) -> Message:
        head, data = request.head, _array(request, "data", "uint8", 1)
        held = self._store.put(
            _need(head, "name"), _need(head, "sha256"), _need(head, "offset"), _need(head, "total"), data.tobytes()
        )
        return Message({"held": held}, {})

    def _get(self, request: Message) -> Message:
        data, total = self._store.get(_need(request.head, "sha256"), _need(request.head, "offset"))
        return Message({"total": total}, {"data": np.frombuffer(data, np.uint8)})

    def _compile(self, request: Message) -> Message:
        backend, onnx = _backend(request.head), self._store.path(_need(request.head, "onnx"))
        folder = self._store.folder / "engine.part"
        shutil.rmtree(folder, ignore_errors=True)  # of an agent that was killed
        try:
            folder.mkdir()
            began = time.monotonic()
            # The clock is read around this alone: what it costs to hash and move the engine is not compile time.
            backend.compile(onnx, folder)
            seconds = time.monotonic() - began
            files = files_in(folder)
            for file in files:
                self._store.import_net(folder / file.name)
            return Message({"files": [asdict(file) for file in files], "seconds": seconds}, {})
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # half an engine, where the toolchain gave up

    def _open(self, request: Message) -> Message:
        # The engine before goes first: two at once may not fit into a GPU's memory.
        self._shut()
        self._reopen = None
        backend, files = _backend(request.head), _files(_need(request.head, "files"))
        folder = self._store.folder / "engine.open"
        # Before the files are put there, so that they are removed even if that fails halfway.
        self._opened.callback(shutil.rmtree, folder, ignore_errors=True)
        self._store.assemble(files, folder)
        self._model = self._opened.enter_context(backend.open(folder))
        self._is_new, self._reopen = True, request
        return Message({"open": engine_id(files), "runs": dict(getattr(self._model, "runs", {}))}, {})

    def _score(self, request: Message) -> Message:
        """Score images in batches of the size asked for; the last one is smaller where the number does not divide."""
        images, batch = _images(request), request.head.get("batch", _CHUNK)
        if type(batch) is not int or batch < 1:
            raise UsageError(f"images are scored in batches of at least 1, not {str(batch)[:60]}")
        # A batch that was asked for is kept to unless its pixels would not fit into memory.
        step = max(1, min(batch, _CHUNK_BYTES // max(1, 4 * images[:1].nbytes)))
        parts, spent_ns = [], 0
        # `max(1, …)`: without any image the engine still gets one empty batch, so that the answer has its width.
        for at in range(0, max(1, len(images)), step):
            pixels = pixels_from_bytes(images[at : at + step])
            began = time.perf_counter_ns()
            parts.append(self._told(pixels))
            spent_ns += time.perf_counter_ns() - began
        head = {"queries": len(images), "spent_ns": spent_ns, "queries_total": self._asked}
        return Message(head, {"scores": np.concatenate(parts)})

    def _attack(self, request: Message) -> Message:
        head, images = request.head, _images(request)
        labels, ids = _array(request, "labels", "int64", 1), _array(request, "ids", "int64", 1)
        if not len(images) == len(labels) == len(ids):
            raise UsageError(f"an attack came with {len(images)} images, {len(labels)} labels and {len(ids)} ids")
        name = _need(head, "name")
        attack = build_plugin("attacks", name, head.get("options", {}))
        threat = _threat(_need(head, "threat"))
        if threat.norm not in getattr(attack, "NORMS", ("linf",)):
            raise UsageError(f"the attack {name} has no {SIGNS[threat.norm]} form")
        counted = Counted(self._told, len(images))
        found = attack(counted, images, labels, threat, Draws(_key(head), ids))
        # A plug-in may return what it likes. The host judges images, so they must at least be images.
        if found.dtype != np.uint8 or found.shape != images.shape:
            got = f"{found.dtype} of shape {found.shape}"
            raise BoardError(f"the attack {name} returned {got} for images of shape {images.shape}")
        arrays = {"images": found, "queries": counted.per_image, "spent_ns": counted.spent_ns}
        return Message({"queries": counted.total, "queries_total": self._asked}, arrays)

    def _time(self, request: Message) -> Message:
        plan, images, model = _plan(_need(request.head, "plan")), _images(request), self._engine()
        # Whole batches alone: a smaller one would be another workload under the same name.
        starts = range(0, len(images) - plan.batch + 1, plan.batch)
        # Converted beforehand: what is timed is the engine, and all samples are of the same work.
        batches = [pixels_from_bytes(images[start : start + plan.batch]) for start in starts]
        if not batches:
            raise UsageError(f"timing a batch of {plan.batch} needs as many images; {len(images)} came")
        # Scored outside of the window: a comparison within it would be a part of the samples.
        checked = batches[:CHECKED]
        is_first, began = self._is_new, time.perf_counter_ns()
        first_scores = self._ask(checked[0])
        first_ns = time.perf_counter_ns() - began
        scores_before = np.concatenate([first_scores, *(self._ask(batch) for batch in checked[1:])])
        turn = _Turn(model, batches)
        before = read_sensors(self._root)
        taken = measure(turn, plan)
        after = read_sensors(self._root)
        parts, parts_ns = _split(model, batches)
        # The timed calls bypass `_ask`, whose checks would be timed as well.
        self._asked += (turn.runs + len(parts_ns)) * plan.batch
        scores_after = np.concatenate([self._ask(batch) for batch in checked])
        head = {
            "warmup_runs": taken.warmup_runs,
            "warm": taken.warm,
            "began_ns": taken.began_ns,
            "duration_ns": taken.duration_ns,
            # What the first call of all costs: memory, kernels, pages of a file that were not read yet.
            "first_ns": first_ns if is_first else None,
            "peak_memory_bytes": peak_memory(),
            "parts": parts,
            "before": before,
            "after": after,
            "queries_total": self._asked,
        }
        arrays = {"samples_ns": taken.samples_ns, "starts_ns": taken.starts_ns, "empty_ns": taken.empty_ns}
        arrays |= {"scores_before": scores_before, "scores_after": scores_after, "parts_ns": parts_ns}
        return Message(head, arrays)

    def _run(self, request: Message) -> Message:
        """Time an engine in a fresh process, and read the board's sensors meanwhile in this one."""
        _plan(_need(request.head, "plan"))
        # Here it makes room, since two at once may not fit into a GPU's memory; it is opened again when it is asked.
        self._shut()
        opening = {name: _need(request.head, name) for name in ("backend", "files")}
        opening["options"] = request.head.get("options", {})
        began = time.monotonic_ns()
        with Fresh(self._store.folder) as fresh:
            fresh.ask("sensors", {})
            started = time.monotonic_ns()
            opened = fresh.ask("open", opening)
            loaded = time.monotonic_ns()
            if "error" in opened.head:
                return opened
            watch = Watch(self._root, fresh.pid)
            before = read_sensors(self._root)
            watch.take()
            answer = fresh.ask("time", {"plan": request.head["plan"]}, request.arrays, watch)
            watch.take()
            after = read_sensors(self._root)
        if "error" in answer.head:
            return answer
        self._asked += answer.head["queries_total"]
        head = {
            **answer.head,
            "open": opened.head["open"],
            "start_ns": started - began,
            "load_ns": loaded - started,
            "before": before,
            "after": after,
            "channels": watch.channels,
            "words": watch.words,
            "queries_total": self._asked,
        }
        return Message(head, {**answer.arrays, "telemetry": np.array(watch.readings, np.int64)})

    def _turns(self, request: Message) -> Message:
        """Open several engines beside each other and let them take turns; none is open afterwards."""
        self._shut()
        self._reopen = None
        head, pixels = request.head, pixels_from_bytes(_images(request))
        backend, listed = _backend(head), _need(head, "engines")
        if not isinstance(listed, list):
            raise UsageError("engines take turns by a list of their files")
        folder = self._store.folder / "engines.turns"
        with ExitStack() as opened:
            opened.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)
            models = []
            for number, files in enumerate(listed):
                self._store.assemble(_files(files), folder / str(number))
                models.append(opened.enter_context(backend.open(folder / str(number))))
            quickest, queries = take_turns(models, pixels, _need(head, "turns"), _need(head, "turn_s"))
        self._asked += queries
        return Message({"queries": queries, "queries_total": self._asked}, {"quickest_ns": quickest})

    def _sensors(self, request: Message) -> Message:
        return Message(read_sensors(self._root), {})

    def _close(self, request: Message) -> Message:
        self._shut()
        return Message({"queries_total": self._asked}, {})

    def _shut(self) -> None:
        self._model = None
        self._opened.close()

    def _engine(self) -> Model:
        if self._model is None and self._reopen is not None:
            self._open(self._reopen)
        if self._model is None:
            raise UsageError("no engine is open on the board; open one first")
        return self._model

    def _ask(self, images: Pixels) -> Scores:
        """Score with the open engine, count, and hold the engine to what a model must answer."""
        scores = self._engine()(images)
        self._is_new = False
        self._asked += len(images)
        if scores.dtype != np.float32 or scores.ndim != 2 or len(scores) != len(images):
            raise ArtifactError(f"the engine answered {scores.dtype} of shape {scores.shape} to {len(images)} images")
        # argmax takes NaN for the highest score: a broken engine would get a class, and an accuracy by chance.
        if not np.isfinite(scores).all():
            broken = int((~np.isfinite(scores)).any(1).sum())
            raise ArtifactError(f"the engine's scores are not finite for {broken} of {len(images)} images")
        return scores

    def _told(self, images: Pixels) -> Scores:
        """Score, and tell the host about once a second how many images were scored since the start."""
        scores = self._ask(images)
        if time.monotonic() - self._reported > _PROGRESS_S:
            self._reported = time.monotonic()
            self._progress(self._asked)
        return scores


class _Turn:
    """Run the model on one batch after another, all over again; no batch follows itself unless it is the only one."""

    def __init__(self, model: Model, batches: list[Pixels]) -> None:
        self._model = model
        self._batches = batches
        self.runs = 0

    def __call__(self) -> None:
        # A batch that follows itself finds its data in the caches, and a toolchain that caches answers would look fast.
        self._model(self._batches[self.runs % len(self._batches)])
        self.runs += 1


def _split(model: Model, batches: list[Pixels]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the parts that the model tells apart, and what they took in a few calls; none where it tells none."""
    split = getattr(model, "split", None)
    if split is None:
        return [], np.zeros((0, 0), np.int64)
    found: list[Mapping[str, int]] = [split(batches[index % len(batches)]) for index in range(SPLITS)]
    names = list(found[0])
    return names, np.array([[int(parts[name]) for name in names] for parts in found], np.int64)


def machine_of(machine: str, largest: int) -> str:
    """Return the architecture that this Python runs programs of; a kernel of 64 bits may have a system of 32 on it.

    ``largest`` is the interpreter's ``sys.maxsize``.
    """
    narrow = {"aarch64": "armv8l", "arm64": "armv8l", "x86_64": "i686", "AMD64": "i686"}
    return narrow.get(machine, machine) if largest < 1 << 32 else machine


def _error(kind: str, message: str) -> Message:
    return Message({"error": {"kind": kind, "message": message[:4000]}}, {})


def _need(head: Mapping[str, Any], name: str) -> Any:
    if name not in head:
        raise UsageError(f"the request {head.get('op')} lacks {name!r}; use equal versions of robustdeploy")
    return head[name]


def _key(head: Mapping[str, Any]) -> int:
    key = _need(head, "key")
    # In Python True is an int, and a float would lose the low bits of a 64-bit key.
    if type(key) is not int or not 0 <= key < 1 << 64:
        raise UsageError(f"the key {str(key)[:60]} is not an integer from 0 to 2^64 − 1")
    return key


def _files(listed: Any) -> Files:
    """Read the list of an engine's files from a request."""
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise UsageError("an engine is opened by the list of its files")
    try:
        return checked_files(EngineFile(**item) for item in listed)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the files of an engine are refused: {error}") from None


def _backend(head: Mapping[str, Any]) -> Backend:
    backend: Backend = build_plugin("backends", _need(head, "backend"), head.get("options", {}))
    return backend


def _array(request: Message, name: str, dtype: str, dims: int) -> Array:
    array = request.arrays.get(name)
    if array is None or array.dtype != dtype or array.ndim != dims:
        found = "none" if array is None else f"{array.dtype} with {array.ndim}"
        raise UsageError(f"the request needs an array {name!r} of {dtype} with {dims} dimensions; {found} came")
    return array


def _images(request: Message) -> Bytes:
    return _array(request, "images", "uint8", 4)


def _threat(head: Any) -> Threat:
    eps, norm = (head.get("eps"), str(head.get("norm"))) if isinstance(head, Mapping) else (None, "")
    # A radius beyond any image's diameter would only overflow.
    if not isinstance(eps, (int, float)) or norm not in SIGNS or not 0 <= eps <= (1 if norm == "linf" else 1e4):
        raise UsageError(f"the threat {str(head)[:100]} is not a ball in {', '.join(SIGNS)} with eps from 0")
    return Threat(norm, float(eps))


def _plan(head: Any) -> Plan:
    try:
        return Plan(**head)
    except TypeError as error:
        raise UsageError(f"the latency plan is refused: {error}") from None
