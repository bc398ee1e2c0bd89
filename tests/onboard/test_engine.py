import hashlib
import json
import os

import pytest

from robustdeploy.errors import ArtifactError
from robustdeploy.onboard.engine import EngineFile, checked_files, engine_id, file_of, files_in, size_of

SHA = "ab" * 32


def file(name="a.so", sha256=SHA, size=5):
    return EngineFile(name, sha256, size)


def test_an_engine_is_listed_by_name_hash_and_size(tmp_path):
    (tmp_path / "b.params").write_bytes(b"22")
    (tmp_path / "a.so").write_bytes(b"1")
    first, second = files_in(tmp_path)
    assert (first.name, first.sha256, first.bytes) == ("a.so", hashlib.sha256(b"1").hexdigest(), 1)
    assert (second.name, second.bytes, size_of([first, second])) == ("b.params", 2, 3)


def test_its_name_is_over_the_names_and_hashes_in_order():
    one, two = file("a.so"), file("b.so", "cd" * 32)
    text = json.dumps([["a.so", SHA], ["b.so", "cd" * 32]], separators=(",", ":"))
    assert engine_id([one, two]) == engine_id([two, one]) == hashlib.sha256(text.encode()).hexdigest()
    assert (
        len({engine_id(files) for files in ([one], [two], [one, two], [file("c.so")], [file("a.so", "cd" * 32)])}) == 5
    )


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"name": name}
            for name in ("", ".", "..", ".x", "-x", "a/b", "../a", "/a", "a\\b", "a\0", "a" * 101, "ä", "a\n")
        ),
        *({"name": name} for name in (None, 5, b"a")),
        *({"sha256": sha} for sha in ("", SHA.upper(), SHA[:-1], SHA + "0", SHA + "\n", None, 5)),
        *({"size": size} for size in (0, -1, (8 << 30) + 1, 1.0, True, "5", None)),
    ],
)
def test_what_cannot_be_a_file_of_an_engine_is_refused(fields):
    with pytest.raises(ValueError, match=r"plain file name|SHA-256|must have 1 to"):
        file(**fields)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "1 to 256 files, not 0"),
        ([file(f"f{number}") for number in range(257)], "not 257"),
        ([file(), file()], "two files of one name: a.so"),
        ([file("a.so"), file("A.SO")], "two files of one name: a.so"),
        ([file("a", size=8 << 30), file("b", size=1)], "bytes in all"),
    ],
)
def test_files_that_cannot_be_one_engine_are_refused(files, words):
    with pytest.raises(ValueError, match=words):
        checked_files(files)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "not 0"),
        (lambda folder: (folder / "sub").mkdir(), "'sub' is a folder"),
        (lambda folder: (folder / "to").symlink_to("/etc/passwd"), "'to' is a link"),
        (lambda folder: (folder / "to").symlink_to("/etc"), "'to' is a link"),
        (lambda folder: os.mkfifo(folder / "pipe"), "'pipe' is no regular file"),
        (lambda folder: (folder / "empty").touch(), "empty must have 1 to"),
        (lambda folder: (folder / "a b").write_text("x"), "'a b' is not a plain file name"),
    ],
)
def test_a_folder_that_holds_anything_else_is_no_engine(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(ArtifactError, match=words) as caught:
        files_in(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_an_engine_lacks_is_told_with_those_it_has(tmp_path):
    (tmp_path / "other.plan").write_text("x")
    assert file_of(tmp_path, "other.plan") == tmp_path / "other.plan"
    with pytest.raises(ArtifactError, match=r"no file engine\.plan \(it has: other\.plan\); compile it again"):
        file_of(tmp_path, "engine.plan")
    with pytest.raises(ArtifactError, match=r"\(it has: none\)"):
        file_of(tmp_path / "no", "engine.plan")
