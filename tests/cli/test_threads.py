"""How long torch's threads wait for one another: short on a busy machine, unless the user says otherwise."""

import os
import re
import subprocess
import sys

import pytest

from robustdeploy.cli.threads import SPINS, WAIT_SETTINGS

DOCTOR = """
import os, sys
if {load} is None:
    del os.getloadavg
else:
    os.getloadavg = lambda: ({load}, 0.0, 0.0)
sys.argv = ["robustdeploy", "doctor"]
from robustdeploy.cli import main
main()
"""


def spins(folder, load, **settings):
    """How often a waiting thread of torch's looks again, as the OpenMP runtime itself says when it is loaded."""
    bare = {name: value for name, value in os.environ.items() if name not in WAIT_SETTINGS}
    environment = {**bare, "OMP_DISPLAY_ENV": "VERBOSE", **settings}
    command = [sys.executable, "-c", DOCTOR.format(load=load)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = set(re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr))
    if not found:
        pytest.skip("this torch has another OpenMP runtime than GNU's")
    return found


@pytest.mark.exhaustive
def test_threads_wait_briefly_on_a_busy_machine_alone(tmp_path):
    assert spins(tmp_path, load=1.0) == {SPINS}
    assert SPINS not in spins(tmp_path, load=0.1)


@pytest.mark.exhaustive
def test_without_a_load_nothing_is_set(tmp_path):
    assert SPINS not in spins(tmp_path, load=None)


@pytest.mark.alike(1)
@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "17"}, {"OMP_WAIT_POLICY": "PASSIVE"}])
def test_what_the_user_has_set_stays(tmp_path, own):
    assert spins(tmp_path, load=1.0, **own) == {own.get("GOMP_SPINCOUNT", "0")}
