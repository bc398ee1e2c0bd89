import hashlib
import os

import pytest

from robustdeploy.errors import ArtifactError, BoardError, UsageError
from robustdeploy.onboard.engine import EngineFile
from robustdeploy.onboard.store import PIECE_BYTES, Store

DATA = b"0123456789" * 10
SHA = hashlib.sha256(DATA).hexdigest()


def test_a_file_comes_in_pieces_and_is_found_by_its_hash(tmp_path):
    store = Store(tmp_path)
    assert not store.has(SHA)
    assert store.put("net.onnx", SHA, 0, 100, DATA[:60]) == 60
    assert not store.has(SHA)
    assert store.put("net.onnx", SHA, 60, 100, DATA[60:]) == 100
    assert store.has(SHA)
    assert store.path(SHA).read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == [SHA]


def test_an_empty_file_is_a_file(tmp_path):
    sha = hashlib.sha256(b"").hexdigest()
    assert Store(tmp_path).put("empty", sha, 0, 0, b"") == 0
    assert Store(tmp_path).has(sha)


def test_a_transfer_starts_again_at_zero_only(tmp_path):
    store = Store(tmp_path)
    store.put("n", SHA, 0, 100, DATA[:60])
    with pytest.raises(BoardError, match="holds 60 bytes"):
        store.put("n", SHA, 50, 100, DATA[50:])
    store.put("n", SHA, 0, 100, DATA[:10])
    store.put("n", SHA, 10, 100, DATA[10:])
    assert store.has(SHA)


def test_every_single_changed_byte_is_found(tmp_path):
    store = Store(tmp_path)
    store.put("n", SHA, 0, 100, DATA)
    for position in range(100):
        damaged = bytearray(DATA)
        damaged[position] ^= 1
        (tmp_path / SHA).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="it was changed"):
            store.path(SHA)
    assert not store.has(SHA)
    with pytest.raises(ArtifactError, match="has no file"):
        store.path(SHA)


def test_a_file_of_another_hash_is_not_kept(tmp_path):
    with pytest.raises(ArtifactError, match="arrived with hash"):
        Store(tmp_path).put("n", "0" * 64, 0, 100, DATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".hidden", "-rf", "a\0b", "a" * 101, 7, None, "ü"])
def test_only_plain_names_are_taken(tmp_path, name):
    with pytest.raises(UsageError, match="plain file name"):
        Store(tmp_path).put(name, SHA, 0, 100, DATA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sha", ["../../etc/passwd", SHA.upper(), SHA + "\n", SHA[:-1], None, 5])
def test_only_hashes_name_content(tmp_path, sha):
    for act in (Store(tmp_path).has, Store(tmp_path).path, lambda s: Store(tmp_path).put("n", s, 0, 100, DATA)):
        with pytest.raises(UsageError, match="SHA-256"):
            act(sha)


@pytest.mark.parametrize(
    ("offset", "total"), [(-1, 100), (0, 99), (50, 100), (0, 1 << 60), (0.0, 100), (True, 101), (0, None)]
)
def test_pieces_that_do_not_fit_are_refused(tmp_path, offset, total):
    with pytest.raises(UsageError, match="does not fit"):
        Store(tmp_path).put("n", SHA, offset, total, DATA)


def test_a_file_is_given_in_pieces(tmp_path):
    store = Store(tmp_path)
    large = os.urandom(2 * PIECE_BYTES + 7)
    sha = hashlib.sha256(large).hexdigest()
    (tmp_path / sha).write_bytes(large)
    got = b""
    while len(got) < len(large):
        piece, total = store.get(sha, len(got))
        assert total == len(large)
        got += piece
    assert got == large
    assert store.get(sha, len(large)) == (b"", len(large))


@pytest.mark.parametrize("offset", [-1, 101, 1.0, True, None, "0", 1 << 70])
def test_a_piece_that_is_not_there_is_refused(tmp_path, offset):
    store = Store(tmp_path)
    store.put("n", SHA, 0, 100, DATA)
    with pytest.raises(UsageError, match="no piece at byte"):
        store.get(SHA, offset)
    with pytest.raises(ArtifactError, match="has no file"):
        store.get("0" * 64, offset)


def test_a_damaged_file_is_not_begun(tmp_path):
    (tmp_path / SHA).write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ArtifactError, match="it was changed"):
        Store(tmp_path).get(SHA, 0)


def test_an_engine_is_put_together_from_the_store_and_replaces_the_one_before(tmp_path):
    store, folder = Store(tmp_path), tmp_path / "engine.open"
    store.put("n", SHA, 0, 100, DATA)
    folder.mkdir()
    (folder / "old").write_bytes(b"old")
    store.assemble([EngineFile("a.so", SHA, 100), EngineFile("b.so", SHA, 100)], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.so": DATA, "b.so": DATA}
    with pytest.raises(ArtifactError, match=r"a\.so has 100 bytes on the board, not 99; build it again"):
        store.assemble([EngineFile("a.so", SHA, 99)], folder)
    with pytest.raises(ArtifactError, match="has no file"):
        store.assemble([EngineFile("a.so", "0" * 64, 100)], folder)
