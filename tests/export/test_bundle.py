import contextlib
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest

from robustdeploy.core.load import load_target
from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError
from robustdeploy.export.bundle import GOLDEN, MANIFEST, golden_from, golden_images, read_bundle, write_bundle
from robustdeploy.nets.store import NetInfo

INFO = NetInfo(
    net=Choice(name="resnet8"), classes=tuple("abcde"), image_shape=(3, 4, 4), mean=(0.5,) * 3, std=(0.5,) * 3
)
FILES = {"model.onnx": b"onnx" * 500, "agent.pyz": b"agent" * 100}


@pytest.fixture
def bundle(tmp_path, images):
    path = tmp_path / "bundle.zip"
    labels = np.arange(len(images))
    golden = golden_images(images, labels, np.zeros((len(images), 5), np.float32))
    write_bundle(path, {**FILES, GOLDEN: golden}, load_target("jetson-orin"), {"classes": ["a", "b"]})
    return path


def test_a_bundle_holds_what_went_in(bundle, images):
    held = read_bundle(bundle)
    assert {name: held[name] for name in FILES} == FILES
    about = json.loads(held[MANIFEST])
    assert about["files"]["model.onnx"] == hashlib.sha256(FILES["model.onnx"]).hexdigest()
    assert about["engine"]["backend"] == "tensorrt"
    assert about["classes"] == ["a", "b"]
    np.testing.assert_array_equal(golden_from(held[GOLDEN], INFO)["images"], images)


def test_equal_content_gives_equal_bytes(bundle, tmp_path):
    held = read_bundle(bundle)
    files = {name: held[name] for name in reversed([*FILES, GOLDEN])}
    write_bundle(tmp_path / "again.zip", files, load_target("jetson-orin"), {"classes": ["a", "b"]})
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def rewritten(bundle, change):
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files = change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    bundle.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda files: {**files, "model.onnx": b"other"}, "model.onnx"),
        (lambda files: {**files, GOLDEN: files[GOLDEN] + b"x"}, GOLDEN),
        (lambda files: {k: v for k, v in files.items() if k != "agent.pyz"}, "agent.pyz"),
        (lambda files: {k: v for k, v in files.items() if k != MANIFEST}, MANIFEST),
        (lambda files: {**files, "stowaway.sh": b"rm"}, "stowaway.sh"),
        (lambda files: {**files, MANIFEST: b"{}"}, "files"),
        (lambda files: {**files, MANIFEST: b"[]"}, "bundle"),
        (lambda files: {**files, MANIFEST: b"not json"}, "bundle"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused(bundle, change, word):
    rewritten(bundle, change)
    with pytest.raises(ArtifactError) as caught:
        read_bundle(bundle)
    assert word in str(caught.value)
    assert "export --force" in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_bundle_is_refused(bundle, share):
    content = bundle.read_bytes()
    bundle.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match="is not a sound bundle"):
        read_bundle(bundle)


def test_a_flipped_byte_anywhere_is_refused_or_harmless(bundle, tmp_path):
    content, sound = bundle.read_bytes(), read_bundle(bundle)
    for position in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path = tmp_path / "damaged.zip"
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(ArtifactError):
            assert read_bundle(path) == sound  # a detail of the zip itself


def test_a_missing_bundle_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.zip is not a sound bundle"):
        read_bundle(tmp_path / "gone.zip")
