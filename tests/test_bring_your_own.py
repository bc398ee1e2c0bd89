"""docs/how-to/bring-your-own-net.md in an empty folder: its Python and its commands, as a newcomer types them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

PAGE = (Path(__file__).parents[1] / "docs/how-to/bring-your-own-net.md").read_text()
PYTHON = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL).group(1)
COMMANDS = [
    shlex.split(line)
    for line in re.findall(r"^    robustdeploy (.*)$|`robustdeploy ((?:run|import) \S+ --.*?)`", PAGE, re.MULTILINE)
    for line in filter(None, line)
]
MINE = {
    "name": "mine",
    "data": {"name": "digits", "size": 32},
    "net": "resnet8",
    "threat": {"eps": 0.1},
    "evaluate": {"limit": 20, "curve_limit": 10, "eps_curve": [1], "attacks": ["fgsm"]},
}
OWN = """
from torch import nn

def small(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, num_classes))
"""
SHORT = ["train.epochs=1", "evaluate.limit=20", "evaluate.curve_limit=10", "evaluate.eps_curve=[1]"]
SHORT += ["evaluate.attacks=[fgsm]", "baseline=false", "train.device=cpu", "gate=[]"]


def write_cifar10(folder):
    """A hundred and twenty images of noise in CIFAR-10's own form."""
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"):
        labels = np.arange(20, dtype=np.uint8)[:, None] % 10
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        (folder / "cifar-10-batches-bin" / name).write_bytes(np.hstack([labels, pixels]).tobytes())


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """An empty folder with what the page says that its reader has: weights, a recipe, a module, images."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path.parent / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    import timm

    from robustdeploy.core.recipe import Choice
    from robustdeploy.nets.build import build_net

    (tmp_path / "my_nets.py").write_text(OWN)
    (tmp_path / "my-recipe.yaml").write_text(yaml.safe_dump(MINE))
    write_cifar10(tmp_path / "data/cifar10")
    theirs = build_net(Choice(name="resnet20"), 10, (3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    torch.save(theirs.net.state_dict(), tmp_path / "weights.pt")
    save_file(timm.create_model("resnet18", num_classes=10, in_chans=1).state_dict(), tmp_path / "best.safetensors")
    held = {"1.weight": torch.rand(10, 1024), "1.bias": torch.zeros(10)}
    torch.save({"ema": {"state_dict": held}, "epoch": 3}, tmp_path / "last.ckpt")
    return tmp_path


def test_the_page_has_commands_for_each_kind_of_file():
    assert {words[0] for words in COMMANDS} == {"import", "evaluate", "report", "run", "prune"}
    named = {Path(word).suffix for words in COMMANDS for word in words[1:2]}
    assert {".onnx", ".pt", ".safetensors", ".ckpt"} <= named


@pytest.mark.exhaustive
def test_every_command_of_the_page_works_in_an_empty_folder(newcomer, command):
    done = subprocess.run([sys.executable, "-c", PYTHON], cwd=newcomer, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in COMMANDS:
        # A training of many epochs is cut short.
        more = [each for words_ in SHORT for each in ("--set", words_)] if words[0] == "prune" else []
        told = command(newcomer, *words, *more)
        assert told.code in ((0, 1, 3) if words[0] == "run" else (0,)), (words, told.err)
    assert (newcomer / "runs/theirs/report.html").is_file()
    assert (newcomer / "runs/behind/nets/imported/net.json").is_file()
