"""A net whose scores are not an image's own does not get through: not prune, not export, and not judging."""

import textwrap

import pytest

NETS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Convolutions, then a step that looks at the whole batch: always, or only once the net has been trained."""

    def __init__(self, classes, channels, always):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc, self.always = nn.Linear(8, classes), always
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, images):
        x = self.body(images).mean((2, 3))
        if self.training:
            self.steps += 1
        share = torch.ones(()) if self.always else torch.clamp(self.steps, max=1.0)
        return self.fc(x - share * x.mean(0))


def always(classes, channels):
    return Net(classes, channels, True)


def later(classes, channels):
    return Net(classes, channels, False)
'''
RECIPE = """
    name: alone
    net: alone_nets:always
    threat: {norm: linf, eps: 0.1}
    train: {task: standard, epochs: 1, batch_size: 64, device: cpu}
    baseline: false
"""
SAID = "the scores of an image depend on the images beside it; the cause is mean in the net itself, a Net."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "alone_nets.py").write_text(NETS)
    (tmp_path / "alone.yaml").write_text(textwrap.dedent(RECIPE))
    return tmp_path


def test_prune_refuses_it_before_training(folder, command):
    done = command(folder, "prune", "alone.yaml")
    assert done.code == 2
    assert f"net 'alone_nets:always': {SAID}" in done.err
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_export_refuses_what_became_of_it(folder, command):
    assert command(folder, "prune", "alone.yaml", "--set", "net=alone_nets:later").code == 0
    done = command(folder, "export")
    assert done.code == 2
    assert SAID in done.err
