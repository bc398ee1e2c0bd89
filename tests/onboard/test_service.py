import platform
import sys

import pytest

from robustdeploy.onboard.service import machine_of


@pytest.mark.parametrize(
    ("machine", "bits", "told"),
    [
        ("aarch64", 64, "aarch64"),
        ("aarch64", 32, "armv8l"),  # a Raspberry Pi with a 64-bit kernel under a 32-bit system
        ("x86_64", 64, "x86_64"),
        ("x86_64", 32, "i686"),
        ("armv7l", 32, "armv7l"),
        ("riscv64", 64, "riscv64"),
    ],
)
def test_a_board_is_what_its_python_runs(machine, bits, told):
    assert machine_of(machine, (1 << (bits - 1)) - 1) == told


def test_this_machine_is_told_as_the_system_names_it():
    assert machine_of(platform.machine(), sys.maxsize) == platform.machine()
