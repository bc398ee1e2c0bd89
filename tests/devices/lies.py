"""An agent that lies: the real one, with one planted lie. Run as ``python lies.py NAME agent.pyz``; a link's `python`.

Each lie names the request it answers, the field it is about, and words that the host's sentence must hold.
"""

import os
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

SLOW_S = 0.3
"""Pause between two signs of progress of an agent that feigns it."""


@dataclass(frozen=True)
class Lie:
    """What is changed in the answer to ``op``; ``act`` gets head and arrays and may change both in place."""

    name: str
    op: str
    act: Any
    words: str
    field: str = ""


class Frame:
    """Bytes to send in place of the answer."""

    def __init__(self, change):
        self.change = change


def _set(field, value):
    def act(head, arrays):
        place = head
        *path, last = field.split(".")
        for step in path:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value

    return act


def _drop(field):
    return lambda head, arrays: head.pop(field)


def _array(field, change):
    def act(head, arrays):
        arrays[field] = change(arrays[field])

    return act


def _drop_array(field):
    return lambda head, arrays: arrays.pop(field)


# Every field of every answer, and a value of another kind for it.
FIELDS = {
    "hello": dict.fromkeys(("python", "numpy", "machine", "system", "boot_id", "cpu_model", "board_model"), 7)
    | {"backends": "null", "attacks": [1], "os": 7, "l4t": 36, "memory_bytes": "8G"}
    | {"free_memory_bytes": 0.5, "free_disk_bytes": None},
    "probe": {"usable": 1, "version": None, "fix": 3, "details": []},
    "have": {"have": "no"},
    "put": {"held": 1.5},
    "get": {"total": "9"},
    "compile": {"files.0.name": 3, "files.0.sha256": "0" * 63, "files.0.bytes": "many"}
    | {"files": {"engine.json": 9}, "seconds": "soon"},
    "open": {"open": True, "runs": [1]},
    "score": {"queries": None, "spent_ns": 0.5, "queries_total": "30"},
    "attack": {"queries": True, "queries_total": 1e3},
    "time": {"warmup_runs": 2.5, "duration_ns": [1], "before": 5, "after": None, "queries_total": {}}
    | {"warm": 1, "began_ns": "now", "first_ns": 0.5, "peak_memory_bytes": "1G", "parts": "all"},
    "run": {"start_ns": "soon", "load_ns": 0.1, "channels": "all", "words": 3, "open": True},
    "sensors": {"load_1m": "low", "clocks_khz": {"cpu0": 3}, "governors": {"g": 1}, "gpu_clocks_hz": {"g": 0.5}}
    | {"gpu_ranges_hz": {"g": 1}}
    | {"thermal": {"z": {"now_c": "hot"}}, "cooling": {"fan": None}, "throttle_counts": [], "overcurrent_counts": 0},
}
NUMBERS = {
    "put": ("held",),
    "get": ("total",),
    "compile": ("files.0.bytes", "seconds"),
    "score": ("queries", "spent_ns", "queries_total"),
    "attack": ("queries", "queries_total"),
    "time": ("warmup_runs", "duration_ns", "began_ns", "first_ns", "peak_memory_bytes", "queries_total"),
    "run": ("start_ns", "load_ns"),
    "sensors": ("load_1m",),
}
ARRAYS = {
    "get": ("data",),
    "score": ("scores",),
    "attack": ("images", "queries", "spent_ns"),
    "time": ("samples_ns", "starts_ns", "empty_ns", "scores_before", "scores_after"),
    "run": ("telemetry",),
}


def _forms():
    for op, fields in FIELDS.items():
        yield Lie(f"{op}: one field more", op, _set("bonus", 1), "is unknown", "bonus")
        yield Lie(f"{op}: one array more", op, lambda h, a: a.update(loot=np.zeros(3)), "is unknown", "loot")
        for field, value in fields.items():
            yield Lie(f"{op}: {field} of another kind", op, _set(field, value), "must ", field)
        last = list(fields)[-1]
        yield Lie(f"{op}: {last} is missing", op, _drop(last), "is required and missing", last)
    for op, fields in NUMBERS.items():
        for field in fields:
            yield Lie(f"{op}: {field} is negative", op, _set(field, -3), "", field)
            if field != "load_1m":
                yield Lie(f"{op}: {field} is huge", op, _set(field, 10**30), "", field)
    for op, fields in ARRAYS.items():
        for field in fields:
            yield Lie(f"{op}: no {field}", op, _drop_array(field), "is required and missing", field)
            yield Lie(f"{op}: flat {field}", op, _array(field, lambda a: a.reshape(1, 1, -1)), "of shape", field)
            yield Lie(f"{op}: bare {field}", op, _array(field, lambda a: a.astype("int8")), "int8", field)


def _first(value):
    def change(array):
        array = array.copy()
        array[(0,) * array.ndim] = value
        return array

    return change


def _cut(count):
    def act(head, arrays):
        for field in ("samples_ns", "starts_ns"):
            arrays[field] = arrays[field][:count].copy()

    return act


def _files(*names, bytes=5):
    def act(head, arrays):
        head["files"] = [{"name": name, "sha256": "ab" * 32, "bytes": bytes} for name in names]

    return act


FACTS = (
    Lie("put: half the file", "put", _set("held", 5), "must be", "held"),
    Lie("compile: took an hour", "compile", _set("seconds", 3600.0), "the whole call took", "seconds"),
    Lie("compile: an engine of no bytes", "compile", _set("files.0.bytes", 0), "must be at least 1", "files.0.bytes"),
    Lie("compile: an engine of no files", "compile", _set("files", []), "at least 1", "files"),
    Lie("compile: a place above", "compile", _set("files.0.name", "../../x"), "not a plain file name", "files"),
    Lie("compile: a place from the root", "compile", _set("files.0.name", "/etc/passwd"), "not a plain", "files"),
    Lie("compile: a hidden name", "compile", _set("files.0.name", ".bashrc"), "not a plain file name", "files"),
    Lie("compile: one name twice", "compile", _files("a.so", "a.so"), "two files of one name", "files"),
    Lie("compile: one name in two cases", "compile", _files("a.so", "A.so"), "two files of one name", "files"),
    Lie("compile: as many files as there are", "compile", _files(*map(str, range(257))), "at most 256", "files"),
    Lie("compile: more than any disk", "compile", _files("a", "b", bytes=8 << 30), "bytes in all", "files"),
    Lie("compile: a file beyond all bounds", "compile", _set("files.0.bytes", 9 << 30), "and at most", "files.0.b"),
    Lie("get: another size", "get", _set("total", 7), "for engine.json, not 7", "total"),
    Lie("get: nothing", "get", _array("data", lambda a: a[:0]), "of engine.json, not of 0", "data"),
    Lie("get: too much", "get", _array("data", lambda a: np.append(a, a)), "must be a piece of 1 to", "data"),
    Lie("get: another byte", "get", _array("data", lambda a: a ^ (np.arange(a.size) == 3)), "came with the", "data"),
    Lie("open: another engine", "open", _set("open", "ab" * 32), "was to be opened", "open"),
    Lie("score: one image fewer", "score", _array("scores", lambda a: a[1:]), "30×10", "scores"),
    Lie("score: one class fewer", "score", _array("scores", lambda a: a[:, 1:].copy()), "30×10", "scores"),
    Lie("score: not a number", "score", _array("scores", _first(np.nan)), "1 of its values", "scores"),
    Lie("score: infinite", "score", _array("scores", _first(np.inf)), "must be finite", "scores"),
    Lie("score: in float64", "score", _array("scores", lambda a: a.astype("float64")), "float64", "scores"),
    Lie("score: asked twice as often", "score", _set("queries", 60), "must be 30, not 60", "queries"),
    Lie("score: the total stands still", "score", _set("queries_total", 0), "must be 30, not 0", "queries_total"),
    Lie("score: for a minute", "score", _set("spent_ns", 60 * 10**9), "the whole call took", "spent_ns"),
    Lie("attack: over the budget", "attack", _array("queries", _first(11)), "must be at most 10", "queries"),
    Lie("attack: for nothing", "attack", _array("queries", lambda a: 0 * a), "that were changed", "queries"),
    Lie("attack: less than nothing", "attack", _array("queries", _first(-2)), "must be 0 or more", "queries"),
    Lie("attack: in part unknown", "attack", _array("queries", _first(-1)), "must be 0 or more", "queries"),
    Lie("attack: one query too few", "attack", _array("queries", lambda a: a - (a == a.max())), "must be", "queries"),
    Lie("attack: no time", "attack", _array("spent_ns", lambda a: 0 * a - 1), "must be 0 or more", "spent_ns"),
    Lie(
        "attack: less time later", "attack", _array("spent_ns", lambda a: a + (np.arange(11) == 0)), "falls", "spent_ns"
    ),
    Lie("attack: for a minute", "attack", _array("spent_ns", lambda a: a + 2 * 10**9), "whole call took", "spent_ns"),
    Lie("attack: one image more", "attack", _array("images", lambda a: np.concatenate([a, a[:1]])), "30×3", "images"),
    Lie("time: negative", "time", _array("samples_ns", lambda a: 0 * a - 10**6), "must be above 0 ns", "samples_ns"),
    Lie("time: one is negative", "time", _array("samples_ns", _first(-1)), "must be above 0 ns", "samples_ns"),
    Lie("time: nothing", "time", _array("samples_ns", lambda a: 0 * a), "must be above 0 ns", "samples_ns"),
    Lie("time: three samples", "time", _cut(3), "holds 3 samples", "samples_ns"),
    Lie("time: no sample", "time", _cut(0), "holds 0 samples", "samples_ns"),
    Lie("time: fewer starts", "time", _array("starts_ns", lambda a: a[1:].copy()), "of shape", "starts_ns"),
    Lie("time: before the window", "time", _array("starts_ns", lambda a: a - 10**9), "leaves a window", "starts_ns"),
    Lie("time: after the window", "time", _array("starts_ns", lambda a: a + 2**62), "leaves a window", "starts_ns"),
    Lie("time: backwards", "time", _array("starts_ns", lambda a: a[::-1].copy()), "overlap", "samples_ns"),
    Lie("time: a hundredth", "time", _array("samples_ns", lambda a: a // 100 + 2000), "between two", "samples_ns"),
    Lie("time: slow empty calls", "time", _array("empty_ns", lambda a: 0 * a + 50_000), "50,000 ns", "empty_ns"),
    Lie("time: two nanoseconds", "time", _array("samples_ns", lambda a: 0 * a + 2), "an empty call took", "samples_ns"),
    Lie("time: ten times", "time", _array("samples_ns", lambda a: 10 * a), "window", "samples_ns"),
    Lie("time: beyond all sums", "time", _array("samples_ns", lambda a: 0 * a + 2**62), "in a window", "samples_ns"),
    Lie("time: float samples", "time", _array("samples_ns", lambda a: a * 1.0), "float64", "samples_ns"),
    Lie("time: an hour", "time", _set("duration_ns", 3600 * 10**9), "the whole call took", "duration_ns"),
    Lie("time: a moment", "time", _set("duration_ns", 1000), "were asked for", "duration_ns"),
    Lie("time: not warm", "time", _set("warmup_runs", 0), "must be at least 1", "warmup_runs"),
    Lie("time: too warm", "time", _set("warmup_runs", 10**12), "at most were possible", "warmup_runs"),
    Lie("time: empty calls before now", "time", _array("empty_ns", lambda a: a - 10**9), "must be 0 to", "empty_ns"),
    Lie("time: heat in words", "time", _set("before.thermal", {"z": {"now_c": "warm"}}), "number", "before.thermal"),
    Lie("time: a counter below 0", "time", _set("after.throttle_counts", {"c": -1}), "must be", "after.throttle"),
    Lie("time: one run more", "time", lambda h, a: _set("queries_total", h["queries_total"] + 1)(h, a), "must", "quer"),
    Lie("time: parts of another name", "time", _set("parts", ["soup"]), "parts_ns", ""),
    Lie("time: a first call of an hour", "time", _set("first_ns", 3600 * 10**9), "the whole call took", "first_ns"),
    Lie("run: negative", "run", _array("samples_ns", lambda a: 0 * a - 10**6), "must be above 0 ns", "samples_ns"),
    Lie("run: a hundredth", "run", _array("samples_ns", lambda a: a // 100 + 2000), "between two", "samples_ns"),
    Lie("run: another engine", "run", _set("open", "ab" * 32), "which was not asked for", "open"),
    Lie("run: an hour to load", "run", _set("load_ns", 3600 * 10**9), "the whole call took", "load_ns"),
    Lie("run: an hour to start", "run", _set("start_ns", 3600 * 10**9), "the whole call took", "start_ns"),
    Lie(
        "run: a sensor twice", "run", lambda h, a: h["channels"].__setitem__(-1, h["channels"][-2]), "once", "channels"
    ),
    Lie("run: clocks unnamed", "run", lambda h, a: h["channels"].__setitem__(0, "time"), "must begin with", "channels"),
    Lie("run: one reading", "run", _array("telemetry", lambda a: a[:1].copy()), "readings", "telemetry"),
    Lie("run: backwards", "run", _array("telemetry", lambda a: a[::-1].copy()), "order of their times", "telemetry"),
    Lie("run: not watched", "run", _array("telemetry", lambda a: a - 10**12), "does not span", "telemetry"),
    Lie("run: one sensor fewer", "run", _array("telemetry", lambda a: a[:, 1:].copy()), "of shape", "telemetry"),
    Lie("run: a sample short", "run", _cut(3), "holds 3 samples", "samples_ns"),
    Lie("time: other scores", "time", _array("scores_after", lambda a: a[:, :2].copy()), "×10", "scores_after"),
)


def _bytes(change):
    return lambda head, arrays: Frame(change)


def _huge(frame):
    spec = b'{"head":{},"arrays":[{"name":"a","dtype":"uint8","shape":[%d],"nbytes":%d}]}' % (1 << 40, 1 << 40)
    return struct.pack("<4sHHI", b"RDep", struct.unpack("<H", frame[4:6])[0], 0, len(spec)) + spec


def _many(frame):
    spec = b'{"head":{},"arrays":[%s]}' % b",".join([b"{}"] * 65)
    return struct.pack("<4sHHI", b"RDep", struct.unpack("<H", frame[4:6])[0], 0, len(spec)) + spec


def _head(text):
    return lambda frame: struct.pack("<4sHHI", b"RDep", struct.unpack("<H", frame[4:6])[0], 0, len(text)) + text


FRAMES = (
    Lie("frame: half", "score", _bytes(lambda f: f[: len(f) // 2]), "breaks off"),
    Lie("frame: its first bytes", "open", _bytes(lambda f: f[:5]), "breaks off"),
    Lie("frame: all but one byte", "attack", _bytes(lambda f: f[:-1]), "breaks off"),
    Lie("frame: a flipped bit", "score", _bytes(lambda f: f[:-9] + bytes([f[-9] ^ 1]) + f[-8:]), "checksum"),
    Lie("frame: a flipped bit of an engine", "get", _bytes(lambda f: f[:-9] + bytes([f[-9] ^ 1]) + f[-8:]), "checksum"),
    Lie("frame: half of an engine", "get", _bytes(lambda f: f[: len(f) // 2]), "breaks off"),
    Lie("frame: a letter", "probe", _bytes(lambda f: b"Dear host, I hope this finds you well.\n"), "not a message"),
    Lie("frame: a head of 4 GiB", "time", _bytes(lambda f: f[:8] + b"\xff" * 4 + f[12:]), "at most 1048576"),
    Lie("frame: an array of 1 TiB", "time", _bytes(_huge), "impossible shape"),
    Lie("frame: 65 arrays", "score", _bytes(_many), "at most 64"),
    Lie("frame: of another version", "open", _bytes(lambda f: f[:4] + b"\x09\x00" + f[6:]), "wire version 9"),
    Lie("frame: a number beyond floats", "score", _bytes(_head(b'{"head":{"queries":1e999},"arrays":[]}')), "not JSON"),
    Lie("frame: not a number", "score", _bytes(_head(b'{"head":{"queries":NaN},"arrays":[]}')), "not JSON"),
    Lie("frame: deep", "score", _bytes(_head(b'{"head":' + b"[" * 9999 + b"]" * 9999 + b',"arrays":[]}')), "message"),
    Lie("frame: nothing, and gone", "compile", _bytes(lambda f: b""), "the agent is gone"),
)


def _told(*values, pause=0.0):
    """Signs of progress: the running total of queries, given the total before this request."""

    def act(head, arrays):
        before = head["queries_total"] - head["queries"] if "queries" in head else 0
        for value in values:
            yield before + value if isinstance(value, int) else value
            time.sleep(pause)

    return act


def _endless(step, pause):
    def act(head, arrays):
        total = head["queries_total"] - head["queries"]
        while True:
            total += step
            yield total
            time.sleep(pause)

    return act


PROGRESS = (
    Lie("progress: stands still for ever", "score", _endless(0, 0.01), "must rise", "progress"),
    Lie("progress: rises for ever", "attack", _endless(7, 0.01), "to 330 queries at most", "progress"),
    Lie("progress: falls", "attack", _told(9, 8), "must rise", "progress"),
    Lie("progress: in words", "attack", _told("soon"), "whole number", "progress"),
    Lie("progress: beyond all bounds", "score", _told(10**40), "must rise", "progress"),
    Lie("progress: creeps", "attack", _endless(1, SLOW_S), "feigns progress"),
    Lie("progress: while it is timed", "time", _told(1), "is unknown", "progress"),
    Lie("progress: while it opens", "open", _told(1), "is unknown", "progress"),
)


def _say(head, arrays):
    """Answer under the number of the request before."""
    head["id"] -= 1


ORDER = (
    Lie("order: the answer before", "score", _say, "the request's", "id"),
    Lie("order: no number", "probe", lambda h, a: h.update(id=None), "the request's", "id"),
    Lie("order: the answer to something else", "open", lambda h, a: (h.clear(), h.update(have=True)), "", "id"),
)
ENDS = (
    Lie("end: killed", "attack", lambda h, a: os.kill(os.getpid(), 9), "killed by SIGKILL"),
    Lie("end: with status 3", "time", lambda h, a: os._exit(3), "ended with status 3"),
    Lie("end: silent", "score", lambda h, a: time.sleep(60), "no answer for"),
)


def _scores(change):
    """Keep the form of every answer and change its scores, given the first answer's too."""
    first = []

    def act(head, arrays):
        first.append(arrays["scores"].copy())
        del first[1:]
        arrays["scores"] = np.ascontiguousarray(change(arrays["scores"], first[0]), np.float32)

    return act


def _guessed(scores, first):
    return np.random.default_rng(0).uniform(first.min(), first.max(), scores.shape)


# Nothing is wrong with the form of these: each is told in every answer, and an evaluation would go on to its end.
PLAUSIBLE = (
    Lie("score: the same for all", "score", _scores(lambda s, first: np.repeat(first[:1], len(s), 0)), ""),
    Lie("score: the first answer again", "score", _scores(lambda s, first: np.resize(first, s.shape)), ""),
    Lie("score: guessed", "score", _scores(_guessed), ""),
    Lie("score: of the image before", "score", _scores(lambda s, first: np.roll(s, 1, 0)), ""),
    Lie("score: labels alone", "score", _scores(lambda s, first: np.eye(s.shape[1])[s.argmax(1)]), ""),
)
FORMS = tuple(_forms())
LIES = {lie.name: lie for lie in (*FACTS, *FRAMES, *PROGRESS, *ORDER, *ENDS)}
LASTING = {lie.name: lie for lie in PLAUSIBLE}
FORMS_TOLD = "forms"
"""Tells all of `FORMS` in turn, each in answer to the next request of its kind, from the first `sensors` on."""


def _flood():
    while True:
        os.write(2, b"warning: all is well\n" * 3000)


def main(name, agent):
    """Serve as the agent does; the first answer to the lie's request is the lie."""
    sys.path.insert(0, agent)
    from robustdeploy.onboard import __main__ as real
    from robustdeploy.onboard import service, wire

    left = list(reversed(FORMS)) if name == FORMS_TOLD else [each[name] for each in (LIES, LASTING) if name in each]
    honest_until_sensors = [name == FORMS_TOLD]
    if name == "flood":
        threading.Thread(target=_flood, daemon=True).start()
    honest, write, request = service.Service.answer, wire.write_message, []

    def answer(self, asked):
        request[:] = [asked.head.get("op")]
        if name == FORMS_TOLD:
            self._reported = time.monotonic()  # no progress: a new board does not know the total before it
        return honest(self, asked)

    def lying(stream, head, arrays=None, **more):
        op = request[0] if request else None
        if "progress" in head or "error" in head or not left or op != left[-1].op or honest_until_sensors[0]:
            honest_until_sensors[0] &= op != "sensors"
            return write(stream, head, arrays, **more)
        request.clear()
        lie = left[-1] if name in LASTING else left.pop()
        head, arrays = dict(head), dict(arrays or {})
        done = lie.act(head, arrays)
        if isinstance(done, Frame):
            stream.write(done.change(_framed(write, head, arrays)))
            os._exit(0)
        for progress in done if hasattr(done, "__next__") else ():
            write(stream, {"progress": progress, "id": head["id"]})
        return write(stream, head, arrays, **more)

    service.Service.answer, wire.write_message = answer, lying
    return real.main(sys.argv[3:])


def _framed(write, head, arrays):
    import io

    held = io.BytesIO()
    write(held, head, arrays)
    return held.getvalue()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
