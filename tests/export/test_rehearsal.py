"""What an export would find wrong after the training is said before it, of each net by its true reason."""

from __future__ import annotations

import sys
import textwrap

import pytest

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Choice
from robustdeploy.data.load import load_data
from robustdeploy.errors import RobustdeployError, UsageError
from robustdeploy.export.precision import fp16
from robustdeploy.export.rehearsal import rehearse
from robustdeploy.nets import twin

NETS = """
import torch
from torch import nn
from torch.nn import functional as F


class Base(nn.Module):
    def __init__(self, num_classes, in_channels, features=64):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, 8, 3, padding=1), nn.LazyLinear(num_classes)
        self.make()

    def make(self):
        pass

    def forward(self, x):
        return self.fc(self.between(F.relu(self.conv(x))).flatten(1))


class MaxPooled(Base):
    def between(self, x):
        return F.adaptive_max_pool2d(x, (3, 5))

class UnevenMeans(Base):
    def between(self, x):
        return F.adaptive_avg_pool2d(x, (3, 5))

class Columns(Base):
    def make(self):
        self.rnn = nn.LSTM(8, 5, bidirectional=True, batch_first=True)
    def between(self, x):
        return self.rnn(x.mean(1))[0][:, -1]

class Cosine(Base):
    def make(self):
        self.classes = nn.Parameter(torch.randn(6, 8))
    def between(self, x):
        return F.linear(F.normalize(x.mean((2, 3))), F.normalize(self.classes))

class Twice(Base):
    def between(self, x):
        return F.avg_pool2d(x, 2) * torch.sigmoid(F.avg_pool2d(x, 2))

class Encoded(Base):
    def make(self):
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    def between(self, x):
        return self.encoder(F.interpolate(x, (3, 5), mode="bilinear").flatten(2).transpose(1, 2))

class Spectrum(Base):
    def between(self, x):
        return torch.fft.rfft2(x).abs()

class Projected(Base):
    def make(self):
        self.rnn = nn.LSTM(8, 5, proj_size=3, batch_first=True)
    def between(self, x):
        return self.rnn(x.mean(1))[0][:, -1]

class Standardised(Base):
    def between(self, x):
        weight = self.conv.weight.mean((1, 2, 3), keepdim=True) / self.conv.weight.std()
        return x * weight.flatten()[:, None, None]

class Profiled(Base):
    def between(self, x):
        with torch.profiler.record_function("between"):
            return x * 2

class Unregistered(Base):
    def make(self):
        self.more = [nn.Conv2d(8, 8, 1)]
    def between(self, x):
        return self.more[0](x)

class NoBuffer(Base):
    def make(self):
        self.scale = torch.rand(8, 1, 1)
    def between(self, x):
        return x * self.scale

class OtherEachTime(Base):
    def make(self):
        width = int(torch.randint(1000, ()))
        self.first, self.second = nn.Linear(8, width), nn.Linear(width, 8)
    def between(self, x):
        return self.second(self.first(x.mean((2, 3))))

class Clamped(Base):
    def between(self, x):
        return x.clamp(0, 0.9)

class Decides(Base):
    def between(self, x):
        return x if x.mean() > 0.1 else -x

class Selects(Base):
    def between(self, x):
        return x.masked_select(x > -1).view(x.shape)

class KernelOfImage(Base):
    def make(self):
        self.bank = nn.Parameter(torch.randn(8, 8))
    def between(self, x):
        n, c, h, w = x.shape
        kernels = (x.mean((2, 3)) @ self.bank).view(n * c, 1, 1, 1)
        return F.conv2d(x.reshape(1, n * c, h, w), kernels, groups=n * c).view(n, c, h, w)

class FakelyQuantised(Base):
    def between(self, x):
        return torch.fake_quantize_per_tensor_affine(x, 0.01, 0, 0, 255)

class NamesTheBatch(Base):
    def between(self, x):
        return torch.stack([x[i] * 2 for i in range(len(x))])

class NoNumbers(Base):
    def between(self, x):
        return x / (x - x)

class Indices(Base):
    def between(self, x):
        x, at = F.adaptive_max_pool2d(x, 4, return_indices=True)
        return x + at
"""
FINE = [
    "MaxPooled",
    "UnevenMeans",
    "Columns",
    "Cosine",
    "Twice",
    "Encoded",
    "Standardised",
    "Profiled",
]
REFUSED = {
    "Spectrum": "cannot be counted: nobody knows what torch's 'aten._fft_r2c' multiplies",
    "Projected": "exports to an ONNX file that ONNX Runtime does not run",
    "Unregistered": "some of its numbers are neither parameters nor buffers",
    "NoBuffer": "some of its numbers are neither parameters nor buffers",
    "OtherEachTime": "is another net each time it is built: Error(s) in loading state_dict",
    "Clamped": "this Clamped cannot be exported to ONNX: torch's 'aten.clamp' has no ONNX form for what it is given",
    "Decides": "this Decides cannot be exported to ONNX: its forward pass decides by computed values",
    "Selects": "this Selects cannot be exported to ONNX: torch's 'aten.masked_select' has no ONNX form",
    "FakelyQuantised": "torch's 'aten.fake_quantize_per_tensor_affine_cachemask' has no ONNX form",
    "KernelOfImage": "a number that follows from the number of images, such as the groups of a convolution",
    "NamesTheBatch": "its forward pass must not name a number of images (x.shape[0], not len(x))",
    "NoNumbers": "gives scores that are not finite for the first training images",
    "Indices": "gives other scores as an ONNX file than in torch for 4 images together",
}


@pytest.fixture(scope="module", autouse=True)
def nets(tmp_path_factory):
    """A folder with the module that the nets here are in, on the path."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "rehearsed_nets.py").write_text(textwrap.dedent(NETS))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def digits():
    return load_data(load_recipe("digits-resnet8").data)


def recipe_of(net):
    return load_recipe("digits-resnet8", (f"net=rehearsed_nets:{net}",))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("net", FINE)
def test_nets_that_export_are_let_through(net, digits):
    rehearse(recipe_of(net), digits)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("net", REFUSED)
def test_the_others_are_told_why_in_one_sentence(net, digits):
    with pytest.raises(RobustdeployError) as told:
        rehearse(recipe_of(net), digits)
    said = str(told.value)
    assert REFUSED[net] in said
    assert "\x1b" not in said
    assert "\n" not in said


def test_a_net_that_passed_is_not_rehearsed_again(digits, monkeypatch):
    recipe = load_recipe("digits-resnet8", ("net={name: resnet8, width: 4}",))
    rehearse(recipe, digits)
    monkeypatch.setattr("robustdeploy.export.rehearsal.export_onnx", lambda *given: pytest.fail("exported again"))
    rehearse(recipe, digits)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("net", ["Spectrum", "Decides"])
def test_the_command_ends_at_once_and_leaves_no_run(net, command, tmp_path):
    done = command(
        tmp_path, "prune", "--set", f"net=rehearsed_nets:{net}", "--set", "prune=weights", "--ops-target", "0.5"
    )
    assert done.code == 2
    assert REFUSED[net].split(" cannot")[-1] in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs").exists()


def test_a_net_that_a_precision_cannot_hold_is_refused_before_the_training(digits, monkeypatch):
    recipe, choice = load_recipe("digits-resnet8"), Choice(name="fp16")
    assert rehearse(recipe, digits, precisions=[choice, Choice(name="int8"), Choice(name="fp32")]) == ()
    # Weights beyond what 16 bits hold: of another precision's limits, since no fresh net has such weights.
    monkeypatch.setattr(fp16, "_LARGEST", 1e-3)
    with pytest.raises(UsageError, match=r"net 'resnet8' cannot be computed in fp16: the weights .* reach .*"):
        rehearse(recipe, digits, precisions=[choice])


def test_a_net_whose_twin_cannot_be_attacked_is_told_before_the_training(digits, monkeypatch):
    recipe, without = (
        load_recipe("digits-resnet8"),
        {name: each for name, each in twin.OPERATORS.items() if name != "Gemm"},
    )
    monkeypatch.setattr(twin, "OPERATORS", without)
    (note,) = rehearse(recipe, digits, precisions=[Choice(name="int8", options={"count": 2})])
    assert "rules on its robustness will be INCONCLUSIVE: there is no torch form of the ONNX operator Gemm" in note
