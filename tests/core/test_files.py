import contextlib
import errno
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from robustdeploy.core.files import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    canonical_json,
    expanded,
    make_folder,
    sha256_of_file,
    storage_errors,
    temporary_folder,
)
from robustdeploy.errors import StorageError, UsageError


def test_canonical_json_is_one_text_for_equal_values():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": math.nan})


def test_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_write_makes_folders_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "a" / "b.json"
    atomic_write_json(path, {"x": 1})
    atomic_write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_failed_write_keeps_the_old_content(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), atomic_path(path) as beside:
        assert beside.suffix == ".npz"
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_new_files_are_readable_by_others_as_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        atomic_write_text(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_disk_that_takes_no_more_is_a_storage_error_and_keeps_the_old_content(tmp_path):
    path = tmp_path / "big"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*big: file too large; allow larger"):
            atomic_write_bytes(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, r"MiB free there\); make room or choose"),
        (errno.EDQUOT, "; make room or choose"),
        (errno.EFBIG, r"file too large; allow larger files \(`ulimit -f unlimited`\) or choose"),
        (errno.EISDIR, "is a directory; remove that folder or choose"),
        (errno.EROFS, "read-only file system; make it writable for this user or choose"),
        (errno.EACCES, "permission denied; make it writable for this user or choose"),
    ],
)
def test_storage_errors_are_told_apart_from_other_errors(tmp_path, number, fix):
    with pytest.raises(StorageError, match=fix), storage_errors(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nothing"), os.mkfifo])
@pytest.mark.parametrize("below", ["", "b/c"])
def test_what_stands_where_a_folder_is_needed_is_named(tmp_path, make, below):
    make(tmp_path / "a")
    with pytest.raises(UsageError, match=r"/a is no folder, and one is needed there; remove it, then repeat"):
        make_folder(tmp_path / "a" / below)
    with pytest.raises(UsageError, match=r"/a is no folder"):
        atomic_write_bytes(tmp_path / "a" / below / "file", b"")


def test_a_home_that_nobody_has_is_left_as_it_is_written(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded(Path("~/images")) == Path("/somewhere/images")
    assert expanded(Path("~nobody-at-all/images")) == Path("~nobody-at-all/images")


def test_a_temporary_folder_that_cannot_be_made_names_what_to_set(tmp_path, monkeypatch):
    with temporary_folder() as folder:
        assert folder.is_dir()
    assert not folder.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"no temporary folder to work in: .*; make room there or set TMPDIR"):
        temporary_folder().__enter__()


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "state"
    code = (
        "import sys; from pathlib import Path; from robustdeploy.core.files import atomic_write_text\n"
        "n = 0\nprint('go', flush=True)\n"
        "while True:\n    n += 1\n    atomic_write_text(Path(sys.argv[1]), str(n % 10) * 200_000)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            while not path.exists():
                pass
            process.kill()
        content = path.read_text()
        assert len(content) == 200_000
        assert len(set(content)) == 1
