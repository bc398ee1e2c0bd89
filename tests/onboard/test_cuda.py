"""The CUDA runtime's error paths, against a real libcudart where there is one."""

import ctypes.util

import numpy as np
import pytest

from robustdeploy.errors import ToolchainError
from robustdeploy.onboard import cuda


def runtime():
    try:
        return cuda.load()
    except ToolchainError:
        return None


def gpus():
    found = runtime()
    try:
        return found.devices() if found else 0
    except ToolchainError:
        return 0


needs_runtime = pytest.mark.skipif(runtime() is None, reason="no libcudart here: its error paths cannot be run")


def test_a_missing_library_is_named_with_its_fix():
    with pytest.raises(ToolchainError, match=r"tried libnone\.so\.1.*CUDA_PATH"):
        cuda.load(["libnone.so.1"])


def test_a_library_that_is_no_cuda_runtime_is_passed_over():
    libc = ctypes.util.find_library("c")
    with pytest.raises(ToolchainError, match="no CUDA runtime could be loaded"):
        cuda.load([libc])


def test_the_toolkit_that_is_named_comes_first(monkeypatch, tmp_path):
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart.so.12").touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    assert cuda.candidates()[0] == str(tmp_path / "lib64" / "libcudart.so.12")
    assert "libcudart.so" in cuda.candidates()


@needs_runtime
def test_a_real_runtime_tells_its_version():
    major, minor = cuda.load().version().split(".")
    assert int(major) >= 11
    assert int(minor) >= 0
    assert cuda.load().driver().count(".") == 1


@needs_runtime
@pytest.mark.skipif(gpus() > 0, reason="a GPU is here; this is about a machine without one")
def test_without_a_gpu_every_call_fails_in_cudas_words():
    found = cuda.load()
    with pytest.raises(ToolchainError, match=r"CUDA refused cudaGetDeviceCount: .*\(error \d+\)"):
        found.devices()
    with pytest.raises(ToolchainError, match="CUDA refused cudaGetDeviceProperties"):
        found.name()
    for hold in (found.stream(), found.device_memory(64), found.pinned((2, 3))):
        with pytest.raises(ToolchainError, match="CUDA refused"), hold:
            pytest.fail("something was held without a GPU")


@pytest.mark.skipif(gpus() == 0, reason="no GPU here: its name cannot be read")
def test_a_gpu_tells_its_name_and_its_driver():
    found = cuda.load()
    assert found.name().isprintable()
    assert len(found.name()) > 2
    assert int(found.driver().partition(".")[0]) >= 11


@pytest.mark.skipif(gpus() == 0, reason="no GPU here: copies cannot be run")
def test_what_is_copied_to_the_gpu_comes_back():
    found = cuda.load()
    with found.stream() as stream, found.pinned((2, 3)) as near, found.device_memory(24) as far:
        near[:] = np.arange(6).reshape(2, 3)
        found.to_device(far, near, stream)
        found.wait(stream)
        near[:] = 0
        found.to_host(near, far, stream)
        found.wait(stream)
        assert near.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.skipif(gpus() == 0, reason="no GPU here: copies cannot be run")
def test_moments_of_a_stream_are_in_order():
    found = cuda.load()
    with (
        found.stream() as stream,
        found.event() as one,
        found.event() as other,
        found.pinned((1 << 20,)) as near,
        found.device_memory(4 << 20) as far,
    ):
        found.mark(one, stream)
        found.to_device(far, near, stream)
        found.mark(other, stream)
        found.wait(stream)
        assert found.between_ns(one, other) > 0
