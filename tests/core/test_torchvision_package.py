import sys

import pytest

from robustdeploy.core.torchvision_package import part_of_torchvision
from robustdeploy.errors import ToolchainError


def test_a_torchvision_that_cannot_be_imported_is_told_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    with pytest.raises(ToolchainError, match=r"torchvision cannot be imported .*install torch and torchvision in one"):
        part_of_torchvision("ops")


def test_a_torchvision_of_another_build_is_told_too(tmp_path, monkeypatch):
    """What torchvision says of a torch that lacks its operators is a RuntimeError."""
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ToolchainError, match="operator torchvision::nms does not exist"):
        part_of_torchvision("models")
