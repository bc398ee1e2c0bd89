"""Archives and files that somebody else made: bounded before anything is unpacked, and each fault one sentence."""

import io
import json
import os
import stat
import zipfile

import numpy as np
import pytest

from robustdeploy.core.archive import arrays_from, check_arrays, unpacked
from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.reading import parse_json, read_bounded, read_json
from robustdeploy.errors import ArtifactError

MIB = 2**20


def zipped(entries, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            entry = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            entry.compress_type = method
            archive.writestr(entry, content)
    return buffer.getvalue()


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def claiming(size, content=b"x" * 100):
    """An archive whose entry claims another size than it has, in both places where that stands."""
    made = bytearray(zipped([("a", content)], zipfile.ZIP_STORED))
    for at, offset in ((made.find(b"PK\x03\x04"), 22), (made.find(b"PK\x01\x02"), 24)):
        made[at + offset : at + offset + 4] = size.to_bytes(4, "little")
    return bytes(made)


def encrypted():
    made = bytearray(zipped([("a", b"secret")]))
    for at, offset in ((made.find(b"PK\x03\x04"), 6), (made.find(b"PK\x01\x02"), 8)):
        made[at + offset] |= 1
    return bytes(made)


BAD = {
    "empty": (b"", "does not end as a zip archive does"),
    "text": (b"hello" * 100, "does not end as a zip archive does"),
    "cut": (zipped([("a", b"x" * 5000)])[:-30], "is damaged"),
    "upwards": (zipped([("../../x", b"")]), "no plain name"),
    "absolute": (zipped([("/etc/x", b"")]), "no plain name"),
    "drive": (zipped([("C:x", b"")]), "no plain name"),
    "backslash": (zipped([("a\\..\\x", b"")]), "no plain name"),
    "folder": (zipped([("a/", b"")]), "no plain name"),
    "escape": (zipped([("a\x1b[2J", b"")]), r"'a\x1b[2J'"),
    "link": (zipped([(link("a"), b"/etc/passwd")]), "as a link"),
    "encrypted": (encrypted(), "encrypted"),
    "other method": (zipped([("a", b"x")], zipfile.ZIP_BZIP2), "packed in a way that is not ours"),
    "a bomb": (zipped([("a", bytes(64 * MIB))]), "would unpack to 64.0 MiB ('a' alone to 64.0 MiB)"),
    "many small ones": (zipped([(f"a{i}", bytes(MIB)) for i in range(40)]), "would unpack to 40.0 MiB"),
    "claims too much": (claiming(3 * 2**30), "would unpack to 3.0 GiB"),
    "claims too little": (claiming(10), "is damaged"),
    "many entries": (zipped([(f"{i:060}", b"") for i in range(12_000)]), "table of contents above 1.0 MiB"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", BAD)
def test_an_archive_that_is_not_ours_is_refused_in_one_sentence(what):
    content, words = BAD[what]
    with pytest.raises(ArtifactError) as caught:
        unpacked(content, "sent.zip", 32 * MIB)
    assert str(caught.value).startswith("sent.zip")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused():
    with pytest.raises(ArtifactError, match="'a' twice"):
        unpacked(zipped([("a", b"1"), ("a", b"2")]), "sent.zip", MIB)


def test_a_sound_archive_is_unpacked_whatever_it_was_packed_with():
    entries = [("a", b"1" * 1000), ("b/c", b"")]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert unpacked(zipped(entries, method), "ours", MIB) == dict(entries)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(header, data=b""):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return zipped([("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)])


BAD_ARRAYS = {
    "pickled": (npz(a=np.array([{"x": 1}], object)), "pickled objects, which are never unpickled"),
    "text": (npz(a=np.array(["x"])), "no numbers"),
    "times": (npz(a=np.array(["2020"], "datetime64[s]")), "no numbers"),
    "no array": (zipped([("a.npy", b"hello")]), "is no array of numpy"),
    "an npz of nothing": (zipped([("a.npy", b"")]), "is no array of numpy"),
    "code in the header": (npy("__import__('os').system('false')"), "is no array of numpy"),
    "more than there is": (
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }", b"x"),
        "says uint8 of shape (1000000000000,) and holds 1 bytes",
    ),
    "less than there is": (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", b"xyz"), "holds 3 bytes"),
    "negative": (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }", b"x"), "'a"),
    "a bomb": (npz(a=np.zeros(64 * MIB, np.uint8)), "would unpack to 64.0 MiB"),
}


@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_arrays_that_are_not_ours_are_refused_in_one_sentence(what):
    content, words = BAD_ARRAYS[what]
    with pytest.raises(ArtifactError) as caught:
        arrays_from(content, "sent.npz", 32 * MIB)
    assert "sent.npz" in str(caught.value)
    assert words in str(caught.value)


def test_sound_arrays_come_back_as_they_were_and_can_be_written_to():
    arrays = {"x/y": np.arange(6, dtype=np.int64).reshape(2, 3), "f": np.asfortranarray(np.eye(3, dtype=np.float32))}
    held = arrays_from(npz(**arrays), "ours", MIB)
    for name, array in arrays.items():
        np.testing.assert_array_equal(held[name], array)
        assert held[name].dtype == array.dtype
        held[name][:] = 0


IMAGES = {"images": ("uint8", (3, 2, 2)), "labels": ("int64", ())}
SOUND = {"images": np.zeros((4, 3, 2, 2), np.uint8), "labels": np.zeros(4, np.int64)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "holds no array 'labels'"),
        ({"images": SOUND["images"].astype(np.float32)}, r"'images' in x is float32 .* must be uint8"),
        ({"images": SOUND["images"][:, :1]}, r"\(4, 1, 2, 2\); it must be uint8 of shape \(n, 3, 2, 2\)"),
        ({"images": SOUND["images"][:2]}, "the same n"),
        ({"labels": np.zeros((4, 1), np.int64)}, "'labels' in x"),
        ({"images": np.zeros((), np.uint8)}, "'images' in x"),
        ({"images": SOUND["images"][:0], "labels": SOUND["labels"][:0]}, "n ≥ 1"),
    ],
)
def test_arrays_of_another_kind_or_shape_are_told(change, words):
    arrays = {name: array for name, array in {**SOUND, **change}.items() if array is not None}
    check_arrays(SOUND, "x", IMAGES)
    with pytest.raises(ArtifactError, match=words):
        check_arrays(arrays, "x", IMAGES)


def test_scores_that_are_not_finite_are_told():
    for value in (np.nan, np.inf):
        with pytest.raises(ArtifactError, match="not finite"):
            check_arrays({"s": np.array([value], np.float32)}, "x", {"s": ("float32", ())})


def pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "is missing"),
        (lambda path: path.mkdir(), "it is a folder"),
        (pipe, "it is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.symlink_to(path), "cannot read"),
        (lambda path: path.write_bytes(bytes(101)), "has 101 bytes, more than the 100 bytes"),
    ],
)
def test_only_regular_files_of_bounded_size_are_read(tmp_path, make, words):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(ArtifactError, match=words):
        read_bounded(path, 100)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), pipe, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_hashed_for_ever(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises((ArtifactError, OSError)):
        sha256_of_file(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "nests too deeply"),
        ("9" * 1_000_000, "a number of 1,000,000 digits"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        ("[" * 65 + "]" * 65, "nests too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "nests too deeply"),
        (f"[{'9' * 4000}]", "a number of 4,000 digits"),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("\udcff", "decode"),
        ('{"a": -Infinity}', "-Infinity"),
    ],
)
def test_json_that_could_do_harm_is_a_sentence(tmp_path, text, words):
    (tmp_path / "x.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError) as caught:
        read_json(tmp_path / "x.json")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_json_reads_as_usual():
    value = {"a": [1, 2.5, None, True, "ü"], "n": 2**70}
    assert parse_json(json.dumps(value).encode(), "x") == value
