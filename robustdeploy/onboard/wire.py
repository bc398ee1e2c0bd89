"""Messages between a host and an agent: one JSON head and raw arrays, in frames with a length and a checksum.

A frame, all numbers little-endian::

    magic "RDep" | version u16 | 0 u16 | head length u32 | JSON head | array bytes … | CRC-32 u32

The head is ``{"head": …, "arrays": [{"name", "dtype", "shape", "nbytes"}, …]}``. Only plain number types travel,
nothing is ever unpickled, and every size is checked against `Limits` before memory is taken for it. The checksum covers
the whole frame before it, so that a broken pipe never turns into a wrong number.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import WireError

VERSION = 4
_MAGIC = b"RDep"
# Explicit little-endian: native order would also add padding that differs between machines.
_PREFIX = struct.Struct("<4sHHI")
_MOST_LEVELS = 64
_CHECK = struct.Struct("<I")
_DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")

Array = npt.NDArray[Any]


class Source(Protocol):
    """Where frames are read from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill ``buffer`` as far as data is there; 0 says that there will be no more."""
        ...


class Sink(Protocol):
    """Where frames are written to."""

    def write(self, data: memoryview, /) -> int | None:
        """Take some of ``data`` and say how many bytes were taken."""
        ...

    def flush(self) -> None:
        """Pass on what was taken."""
        ...


@dataclass(frozen=True)
class Limits:
    """The most that one frame may hold."""

    head_bytes: int = 1 << 20
    array_bytes: int = 256 << 20
    arrays: int = 64
    dims: int = 8


@dataclass(frozen=True)
class Message:
    """A head of JSON values and the arrays that came with it."""

    head: dict[str, Any]
    arrays: dict[str, Array]


@dataclass(frozen=True)
class _Spec:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def write_message(
    stream: Sink, head: Mapping[str, Any], arrays: Mapping[str, Array] | None = None, limits: Limits = Limits()
) -> None:
    """Write one frame; WireError where ``head`` is not JSON or the frame breaks a limit."""
    raws = {name: _raw(name, array) for name, array in (arrays or {}).items()}
    specs = [
        {"name": name, "dtype": raw.dtype.name, "shape": list(raw.shape), "nbytes": raw.nbytes}
        for name, raw in raws.items()
    ]
    try:
        text = json.dumps({"head": dict(head), "arrays": specs}, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"cannot send a head that is not plain JSON: {error}") from None
    if len(text) > limits.head_bytes:
        raise WireError(f"cannot send a head of {len(text)} bytes: at most {limits.head_bytes} travel in one message")
    # The sender keeps the reader's limits: half a message that is refused there would end the conversation.
    _specs_from_json(specs, limits)
    check = _send(stream, _PREFIX.pack(_MAGIC, VERSION, 0, len(text)) + text, 0)
    for raw in raws.values():
        if raw.nbytes:
            check = _send(stream, raw.reshape(-1).view(np.uint8).data, check)
    _send(stream, _CHECK.pack(check), 0)
    stream.flush()


def read_message(stream: Source, limits: Limits = Limits()) -> Message | None:
    """Read one frame; None where the stream ends between frames, WireError for anything but a whole frame."""
    prefix = bytearray(_PREFIX.size)
    got = _fill(stream, memoryview(prefix))
    if got == 0:
        return None
    _whole(got, _PREFIX.size, "its first bytes")
    length = _head_length(bytes(prefix), limits)
    text = bytearray(length)
    _whole(_fill(stream, memoryview(text)), length, "its head")
    head, specs = _parse_head(bytes(text), limits)
    # CRC-32 finds accidents of a link, not attacks: against those ssh protects, and files have their SHA-256.
    check = zlib.crc32(text, zlib.crc32(prefix))
    arrays: dict[str, Array] = {}
    for spec in specs:
        # Not zeroed, since every byte is read from the pipe or the message is refused.
        raw = np.empty(spec.nbytes, np.uint8)
        _whole(_fill(stream, raw.data), spec.nbytes, f"array {spec.name!r}")
        check = zlib.crc32(raw.data, check)
        # The bytes are little-endian on the wire; on a big-endian board they are turned around here.
        little = raw.view(np.dtype(spec.dtype).newbyteorder("<"))
        arrays[spec.name] = little.astype(spec.dtype, copy=False).reshape(spec.shape)
    tail = bytearray(_CHECK.size)
    _whole(_fill(stream, memoryview(tail)), _CHECK.size, "its checksum")
    if _CHECK.unpack(tail)[0] != check:
        raise WireError("a message arrived damaged: its checksum does not match; the link garbles data")
    return Message(head, arrays)


def _raw(name: str, array: Array) -> Array:
    if array.dtype.name not in _DTYPES:
        raise WireError(f"cannot send array {name!r} of type {array.dtype}: only {', '.join(_DTYPES)} travel")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _send(stream: Sink, data: bytes | memoryview, check: int) -> int:
    view = memoryview(data)
    check = zlib.crc32(view, check)
    while view:
        taken = stream.write(view)
        view = view[taken or 0 :]
    return check


def _fill(stream: Source, view: memoryview) -> int:
    size = len(view)
    done = 0
    while done < size:
        got = stream.readinto(view[done:])
        if not got:
            break
        done += got
    return done


def _whole(got: int, wanted: int, part: str) -> None:
    if got != wanted:
        raise WireError(f"a message breaks off in {part}: {got} of {wanted} bytes came before the pipe closed")


def _head_length(prefix: bytes, limits: Limits) -> int:
    magic, version, zero, length = _PREFIX.unpack(prefix)
    if magic != _MAGIC or zero:
        raise WireError(
            f"what came is not a message of robustdeploy (it begins with {prefix[:8]!r}); "
            "something else writes to the pipe, e.g. a login script"
        )
    if version != VERSION:
        found = f"a message of wire version {version} came, this side speaks {VERSION}"
        raise WireError(f"{found}; use equal versions of robustdeploy")
    if not 2 <= length <= limits.head_bytes:
        raise WireError(f"a message announces a head of {length} bytes: at most {limits.head_bytes} are accepted")
    return int(length)


def _parse_head(text: bytes, limits: Limits) -> tuple[dict[str, Any], list[_Spec]]:
    try:
        # Python reads NaN and Infinity, which are no JSON, and a NaN slips through every later check of a range.
        document = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if nests_deeper(document, _MOST_LEVELS):
            raise RecursionError("it nests too deeply")
    except (ValueError, RecursionError) as error:
        raise WireError(f"the head of a message is not JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict) or set(document) != {"head", "arrays"} or not isinstance(document["head"], dict):
        raise WireError("the head of a message is not an object with exactly 'head' and 'arrays'")
    return document["head"], _specs_from_json(document["arrays"], limits)


def nests_deeper(document: Any, levels: int) -> bool:
    """Say whether lists and objects lie in one another more than ``levels`` deep."""
    # A loop and not a recursion, which the very nesting that it looks for would break.
    level = [document] if isinstance(document, (dict, list)) else []
    for _ in range(levels):
        items = (held.values() if isinstance(held, dict) else held for held in level)
        level = [item for held in items for item in held if isinstance(item, (dict, list))]
    return bool(level)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    """JSON allows 1e999, which Python reads as infinity."""
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(f"{text[:30]} is not a finite number")


def _specs_from_json(listed: Any, limits: Limits) -> list[_Spec]:
    if not isinstance(listed, list) or len(listed) > limits.arrays:
        raise WireError(f"a message must list its arrays, at most {limits.arrays} of them")
    specs = [_spec(item, limits) for item in listed]
    if len({spec.name for spec in specs}) != len(specs):
        raise WireError("a message lists two arrays of one name")
    if (total := sum(spec.nbytes for spec in specs)) > limits.array_bytes:
        raise WireError(f"a message announces {total} bytes of arrays: at most {limits.array_bytes} are accepted")
    return specs


def _spec(item: Any, limits: Limits) -> _Spec:
    if not isinstance(item, dict) or set(item) != {"name", "dtype", "shape", "nbytes"}:
        raise WireError("a message describes an array by other keys than name, dtype, shape and nbytes")
    name, dtype, shape, nbytes = item["name"], item["dtype"], item["shape"], item["nbytes"]
    if not isinstance(name, str) or len(name) > 200:
        raise WireError("a message holds an array whose name is not a short text")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise WireError(f"array {name!r} is of type {str(dtype)[:50]!r}: only {', '.join(_DTYPES)} are accepted")
    if not isinstance(shape, list) or len(shape) > limits.dims or not all(_is_size(n, limits) for n in shape):
        allowed = f"at most {limits.dims} sizes from 0 to {limits.array_bytes}"
        raise WireError(f"array {name!r} has an impossible shape: {allowed} are accepted")
    # Python's integers do not overflow, as numpy's would for a shape that is made to.
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not _is_size(nbytes, limits) or nbytes != size:
        raise WireError(f"array {name!r} announces {str(nbytes)[:30]} bytes, its shape and type need {str(size)[:30]}")
    return _Spec(name, dtype, tuple(shape), size)


def _is_size(value: Any, limits: Limits) -> bool:
    # In Python True is an int; JSON's true is no size.
    return type(value) is int and 0 <= value <= limits.array_bytes
