"""The table of toolchains, opsets and JetPacks, and what it decides before anything is built."""

import pytest

from robustdeploy.devices import releases
from robustdeploy.devices.releases import (
    check_opset,
    jetpack_advice,
    jetpack_of,
    jetpack_with,
    newest_opset,
)
from robustdeploy.errors import ToolchainError


@pytest.mark.parametrize(
    ("backend", "version", "opset"),
    [
        ("onnxruntime", "1.19.2", 21),
        ("onnxruntime", "1.22.1", 22),
        ("onnxruntime", "1.23.2", 23),
        ("onnxruntime", "1.31.1", 26),
        ("onnxruntime", "1.18.0", None),
        ("tensorrt", "10.3.0.30", 20),
        ("tensorrt", "10.13.3.9", 22),
        ("tensorrt", "11.4.1", 25),
        ("tvm", "0.27.0", None),
        ("onnxruntime", "of today", None),
    ],
)
def test_the_newest_opset_of_a_version(backend, version, opset):
    assert newest_opset(backend, version) == opset


def test_an_older_toolchain_refuses_a_newer_file_with_the_fix():
    check_opset("tensorrt", "10.3.0", 20, "orin")
    check_opset("tvm", "0.27.0", 23, "orin")
    with pytest.raises(ToolchainError) as caught:
        check_opset("tensorrt", "10.3.0", 21, "orin")
    assert str(caught.value) == (
        "orin: tensorrt 10.3.0 reads ONNX up to opset 20, and the net is exported with opset 21; set the target's "
        "opset to 20, or install a newer tensorrt there"
    )
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("l4t", "name"),
    [("35.4.1", "JetPack 5"), ("36.3", "JetPack 6.0"), ("36.4.4", "JetPack 6.1 or 6.2"), ("38.2.1", "JetPack 7")],
)
def test_jetpack_is_told_by_jetson_linux(l4t, name):
    assert jetpack_of(l4t).name == name


@pytest.mark.parametrize("l4t", ["", "32.7.1", "unknown"])
def test_no_jetpack_is_made_up(l4t):
    assert jetpack_of(l4t) is None


@pytest.mark.parametrize(
    ("tensorrt", "name"), [("10.3", "JetPack 6.1 or 6.2"), ("8.5", "JetPack 6.0"), ("99", "JetPack 7")]
)
def test_which_jetpack_brings_a_tensorrt(tensorrt, name):
    assert jetpack_with(tensorrt).name == name


@pytest.mark.parametrize(
    ("backend", "l4t", "words"),
    [
        ("tensorrt", "36.3", "(JetPack 6.0) with TensorRT 8.6 and CUDA 12.2; install JetPack 6.1 or 6.2, which brings"),
        ("tensorrt", "36.4.3", "(JetPack 6.1 or 6.2) brings it: `sudo apt-get install nvidia-jetpack`"),
        ("tensorrt", "", ""),
        ("onnxruntime", "36.3", ""),
    ],
)
def test_what_mends_a_jetson(backend, l4t, words):
    advice = jetpack_advice(backend, ">=10.3,<12", l4t)
    assert words in advice
    assert bool(advice) == bool(words)


def test_the_tables_are_in_order():
    for rows in releases.OPSETS.values():
        assert [opset for _, opset in rows] == sorted(opset for _, opset in rows)
    versions = [releases.Version(each.l4t) for each in releases.JETPACKS]
    assert versions == sorted(versions)
