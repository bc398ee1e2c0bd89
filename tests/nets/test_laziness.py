from __future__ import annotations

import subprocess
import sys

from robustdeploy.core.registry import DATA, NETS


def test_looking_at_plug_ins_and_their_options_loads_no_torch() -> None:
    modules = [f"robustdeploy.nets.{n}" for n in NETS.names()] + [f"robustdeploy.data.{n}" for n in DATA.names()]
    imports = ", ".join(module.replace("-", "_") for module in modules)
    code = f"import sys, {imports}; print(sorted({{'torch', 'torchvision', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
