from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from robustdeploy.train.allocator import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    print(keep_freed_memory())

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def layers():
    return [torch.zeros(2**20) for _ in range(24)]  # 4 MiB each

layers(), layers()
before = faults()
for _ in range(4):
    layers()
print(faults() - before)
"""
PAGES = 4 * 24 * 2**22 // 4096
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc")


def told(how: str, **settings: str) -> list[str]:
    """What the script prints; without the settings that torch or glibc would take from these tests' surroundings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=kept | settings, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@glibc
def test_layers_reuse_the_memory_of_others() -> None:
    (left_alone,) = told("leave")
    answer, kept = told("keep")
    assert answer == "True"
    assert int(kept) < PAGES / 10
    assert int(left_alone) > PAGES / 4, "nothing to gain on this system, so the test shows nothing"


@glibc
def test_settings_of_the_user_stay() -> None:
    answer, faults = told("keep", MALLOC_MMAP_THRESHOLD_="65536")
    assert answer == "False"
    assert int(faults) > PAGES / 4
