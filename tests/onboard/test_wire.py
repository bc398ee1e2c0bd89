import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robustdeploy.errors import WireError
from robustdeploy.onboard.wire import VERSION, Limits, read_message, write_message

DTYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


def framed(head, arrays=None):
    stream = io.BytesIO()
    write_message(stream, head, arrays)
    return stream.getvalue()


def frame_of(document, body=b""):
    """A frame with any head, its checksum right, as a hostile peer would make it."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    start = struct.pack("<4sHHI", b"RDep", VERSION, 0, len(text)) + text
    return start + body + struct.pack("<I", zlib.crc32(start + body))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4), st.dictionaries(st.text(max_size=20), ARRAYS, max_size=3))
def test_what_is_written_is_read(head, arrays):
    stream = io.BytesIO(framed(head, arrays) * 2)
    for _ in range(2):
        message = read_message(stream)
        assert message.head == head
        assert list(message.arrays) == list(arrays)
        for name, array in arrays.items():
            assert message.arrays[name].dtype == array.dtype
            assert message.arrays[name].shape == array.shape
            assert message.arrays[name].tobytes() == array.tobytes()
    assert read_message(stream) is None


def test_views_and_foreign_byte_order_travel():
    base = np.arange(24, dtype=">i4").reshape(4, 6)
    got = read_message(io.BytesIO(framed({}, {"t": base.T, "s": base[::2, 1::2]}))).arrays
    np.testing.assert_array_equal(got["t"], base.T)
    np.testing.assert_array_equal(got["s"], base[::2, 1::2])
    assert got["t"].dtype == np.int32


SAMPLE = framed(
    {"op": "score", "n": 3}, {"images": np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4), "e": np.zeros((0, 2))}
)


def test_a_break_at_any_byte_is_told():
    for end in range(1, len(SAMPLE)):
        with pytest.raises(WireError, match="breaks off"):
            read_message(io.BytesIO(SAMPLE[:end]))


def test_any_flipped_bit_is_told():
    for position in range(len(SAMPLE)):
        for bit in range(8):
            damaged = bytearray(SAMPLE)
            damaged[position] ^= 1 << bit
            with pytest.raises(WireError):
                read_message(io.BytesIO(damaged))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_garbage_is_told(data, behind_a_prefix):
    start = struct.pack("<4sHHI", b"RDep", VERSION, 0, max(2, len(data) // 2)) if behind_a_prefix else b""
    with pytest.raises(WireError):
        read_message(io.BytesIO(start + data))


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_with_a_right_checksum_is_told_or_read(document):
    with pytest.raises(WireError):
        read_message(io.BytesIO(frame_of({"head": {}, "arrays": [document]})))


GOOD = {"name": "a", "dtype": "uint8", "shape": [2], "nbytes": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "object"}, "of type"),
        ({"dtype": "O"}, "of type"),
        ({"dtype": "V8"}, "of type"),
        ({"dtype": ["uint8"]}, "of type"),
        ({"shape": [-2]}, "impossible shape"),
        ({"shape": [True, 2]}, "impossible shape"),
        ({"shape": [2.0]}, "impossible shape"),
        ({"shape": [1 << 62, 1 << 62]}, "impossible shape"),
        ({"shape": [1 << 28] * 8, "nbytes": 1 << 28}, "shape and type need"),
        ({"shape": [1] * 9}, "impossible shape"),
        ({"shape": 2}, "impossible shape"),
        ({"nbytes": 3}, "shape and type need"),
        ({"nbytes": -2}, "shape and type need"),
        ({"nbytes": "2"}, "shape and type need"),
        ({"name": 7}, "short text"),
        ({"name": "n" * 201}, "short text"),
        ({"extra": 1}, "other keys"),
    ],
)
def test_a_hostile_array_is_refused_before_memory_is_taken(change, words):
    with pytest.raises(WireError, match=words):
        read_message(io.BytesIO(frame_of({"head": {}, "arrays": [{**GOOD, **change}]}, b"xy")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (frame_of(b"{" * 100_000), "not JSON"),
        (frame_of(b"[" * 100_000 + b"]" * 100_000), "not JSON"),
        (frame_of(b'{"head":{"x":NaN},"arrays":[]}'), "NaN"),
        (frame_of(b'{"head":{"x":' + b"9" * 5000 + b'},"arrays":[]}'), "not JSON"),
        (frame_of(b"\xff\xfe\x00"), "not JSON"),
        (frame_of([]), "exactly"),
        (frame_of({"head": [], "arrays": []}), "exactly"),
        (frame_of({"head": {}, "arrays": [], "more": 1}), "exactly"),
        (frame_of({"head": {}, "arrays": {}}), "list its arrays"),
        (frame_of({"head": {}, "arrays": [GOOD] * 65}), "at most 64"),
        (frame_of({"head": {}, "arrays": [GOOD, GOOD]}), "of one name"),
        (struct.pack("<4sHHI", b"RDep", VERSION, 0, 1 << 31), "head of 2147483648 bytes"),
        (struct.pack("<4sHHI", b"RDep", 9, 0, 2), "wire version 9"),
        (b"Welcome to Ubuntu 22.04\n", "login script"),
    ],
)
def test_a_hostile_frame_is_refused(data, words):
    with pytest.raises(WireError, match=words):
        read_message(io.BytesIO(data))


def test_the_sum_of_all_arrays_is_limited():
    halves = [{"name": n, "dtype": "uint8", "shape": [600], "nbytes": 600} for n in "ab"]
    with pytest.raises(WireError, match="1200 bytes"):
        read_message(io.BytesIO(frame_of({"head": {}, "arrays": halves}, b"x" * 1200)), Limits(array_bytes=1000))


@pytest.mark.parametrize(
    ("head", "arrays", "words"),
    [
        ({"x": float("nan")}, {}, "plain JSON"),
        ({"x": b"bytes"}, {}, "plain JSON"),
        ({"x": "a" * (1 << 20)}, {}, "head of"),
        ({}, {"o": np.array([None])}, "type object"),
        ({}, {"b": np.array([True])}, "type bool"),
        ({}, {"big": np.broadcast_to(np.uint8(0), ((256 << 20) + 1,))}, "impossible shape"),
    ],
)
def test_nothing_is_written_of_what_may_not_travel(head, arrays, words):
    stream = io.BytesIO()
    with pytest.raises(WireError, match=words):
        write_message(stream, head, arrays)
    assert stream.getvalue() == b""


class Trickle(io.BytesIO):
    """Gives and takes at most three bytes at a time, as a pipe may."""

    def readinto(self, buffer, /):
        return super().readinto(memoryview(buffer)[:3])

    def write(self, data, /):
        return super().write(memoryview(data)[:3])


def test_short_reads_and_writes_are_continued():
    stream = Trickle()
    write_message(stream, {"a": 1}, {"x": np.arange(10)})
    assert stream.getvalue() == framed({"a": 1}, {"x": np.arange(10)})
    stream.seek(0)
    np.testing.assert_array_equal(read_message(stream).arrays["x"], np.arange(10))
