import pytest

from robustdeploy.core.target import Target
from robustdeploy.devices.architecture import architecture_of, check_architecture
from robustdeploy.errors import BoardError

SAME = [("arm64", "aarch64"), ("aarch64", "aarch64"), ("ARM64", "aarch64")]
SAME += [("x86_64", "x86_64"), ("amd64", "x86_64"), ("AMD64", "x86_64"), ("x86-64", "x86_64")]


@pytest.mark.parametrize(("machine", "arch"), SAME)
def test_one_architecture_has_one_name(machine, arch):
    assert architecture_of(machine) == arch
    check_architecture(machine, arch, "board")


@pytest.mark.parametrize("machine", ["armv7l", "armv8l", "i686", "riscv64", "", "aarch64_be", "ppc64le"])
def test_every_other_is_refused_unless_any_will_do(machine):
    check_architecture(machine, "any", "board")
    for arch in ("aarch64", "x86_64"):
        with pytest.raises(BoardError, match=f"board: .* {machine[:60]}, but the target is for {arch}; correct"):
            check_architecture(machine, arch, "board")


@pytest.mark.parametrize(("given", "held"), [("arm64", "aarch64"), ("amd64", "x86_64"), ("any", "any")])
def test_a_target_may_use_either_name(given, held):
    assert Target(name="t", arch=given) == Target(name="t", arch=held)
