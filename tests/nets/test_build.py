from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
import torch

from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import NETS
from robustdeploy.errors import RecipeError
from robustdeploy.nets.build import build_net
from robustdeploy.nets.normalised import Normalised

FACTORIES = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes, in_channels=3, hidden=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, hidden, 3)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3)))

def of_classes(classes, channels): return Tiny(classes, channels)
def of_anything(**options): return Tiny(**options)
def two_wide(num_classes): return Tiny(num_classes + 2)
def no_module(num_classes): return "net"
def no_classes(hidden): return Tiny(10)
def fails(num_classes): raise KeyError("no such thing")
class Pair(Tiny):
    def forward(self, images): return super().forward(images), 0
number = 3
"""


@pytest.fixture
def mynets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_users_nets.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_users_nets", raising=False)
    return "some_users_nets"


def built(name: str, shape: tuple[int, int, int] = (3, 16, 16), **options: object) -> Normalised:
    return build_net(Choice(name=name, options=options), 5, shape, [0.5] * shape[0], [0.5] * shape[0])


@pytest.mark.parametrize("factory", ["Tiny", "of_classes", "of_anything"])
def test_a_factory_by_name_gives_a_net(mynets: str, factory: str) -> None:
    assert built(f"{mynets}:{factory}")(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_a_factory_gets_channels_and_options(mynets: str) -> None:
    net = built(f"{mynets}:Tiny", (1, 16, 16), hidden=9)
    assert net.get_submodule("net.conv").weight.shape == (9, 1, 3, 3)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("missing", "cannot be imported"),
        ("number", "a factory must be callable"),
        ("no_module", "gave str; it must give a torch.nn.Module"),
        ("no_classes", "must accept num_classes= or classes="),
        ("two_wide", r"must be \(1, 5\)"),
        ("fails", "KeyError"),
        ("Pair", "gives tuple for an image"),
    ],
)
def test_a_factory_that_gives_no_classifier_is_explained(mynets: str, factory: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        built(f"{mynets}:{factory}")


def test_an_option_that_the_factory_lacks_is_explained(mynets: str) -> None:
    with pytest.raises(RecipeError, match="'depth'"):
        built(f"{mynets}:Tiny", depth=3)


def test_a_module_that_is_not_installed_is_explained() -> None:
    with pytest.raises(RecipeError, match="on PYTHONPATH"):
        built("some_package_of_nobody:net")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "torchvision.models:resnet18"])
def test_torchvision_classifiers_are_built_without_weights(name: str) -> None:
    assert built(name, (3, 32, 32))(torch.rand(2, 3, 32, 32)).shape == (2, 5)


def test_torchvision_weights_are_never_fetched() -> None:
    with pytest.raises(RecipeError, match="trained from scratch"):
        built("mobilenet_v3_small", (3, 32, 32), weights="DEFAULT")


def test_torchvision_nets_refuse_grey_images() -> None:
    with pytest.raises(RecipeError, match="reads 3 channels and the images have 1"):
        built("mobilenet_v3_small", (1, 32, 32))


def test_an_unknown_net_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'resnet8'"):
        built("resnet9")


def test_wrong_options_are_all_named() -> None:
    with pytest.raises(RecipeError, match=r"(?s)width.*colour"):
        built("resnet8", width=0, colour=True)
    with pytest.raises(RecipeError, match="6n\\+4"):
        built("wide-resnet", depth=27)


def test_the_net_is_left_in_training_mode_with_untouched_statistics() -> None:
    net = built("resnet8")
    assert all(module.training for module in net.modules())
    assert net.get_buffer("net.bn.num_batches_tracked") == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("torch.jit.script(Tiny(num_classes))", "net 'wrapped_nets:net': it is compiled to TorchScript"),
        ("torch.jit.trace(Tiny(num_classes), torch.zeros(1, 3, 8, 8))", "it is compiled to TorchScript"),
        ("nn.Sequential(torch.jit.script(nn.ReLU()), Tiny(num_classes))", "at 0 it is compiled to TorchScript"),
        (
            "Tiny(num_classes).double()",
            "its parameter conv.weight is float64; nets are trained and exported in",
        ),
        ("partly(Tiny(num_classes))", "its parameter fc.weight is bfloat16"),
    ],
)
def test_layers_that_could_not_be_exported_as_they_are_are_refused(made, said, tmp_path, monkeypatch):
    source = f"import torch\n{FACTORIES}\ndef partly(net):\n    net.fc.bfloat16()\n    return net\n"
    (tmp_path / "wrapped_nets.py").write_text(f"{source}\ndef net(num_classes): return {made}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrapped_nets", raising=False)
    with pytest.raises(RecipeError) as told:
        build_net(Choice(name="wrapped_nets:net"), 10, (3, 8, 8), [0.5] * 3, [0.5] * 3)
    assert said in str(told.value)


@pytest.mark.parametrize("made", ["nn.DataParallel(net)", "torch.compile(net, backend='eager')"])
def test_what_only_says_how_a_net_is_run_is_taken_off(made, tmp_path, monkeypatch):
    source = f"import torch\n{FACTORIES}\ndef net(num_classes):\n    net = Tiny(num_classes)\n    return {made}\n"
    (tmp_path / "wrapped_nets.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrapped_nets", raising=False)
    net = build_net(Choice(name="wrapped_nets:net"), 10, (3, 8, 8), [0.5] * 3, [0.5] * 3)
    assert type(net.net).__name__ == "Tiny"
    assert "net.conv.weight" in net.state_dict()


TOO_LARGE = [
    ("mobilenet_v2", {"width_mult": 10_000}, 10),
    ("resnet50", {"width_per_group": 100_000}, 10),
    ("resnet8", {}, 10**9),
    ("lenet", {"hidden": 65_536}, 10**8),
]


@pytest.mark.parametrize(("name", "options", "classes"), TOO_LARGE)
def test_a_net_that_memory_cannot_hold_is_refused_before_memory_is_taken(name, options, classes):
    shape = (3, 32, 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecipeError, match=r"has weights of .* of memory are to be had here; give it smaller options"):
        build_net(Choice(name=name, options=options), classes, shape, (0.5,) * 3, (0.5,) * 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_a_factory_that_makes_layers_without_end_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "endless.py").write_text(
        "from torch import nn\ndef make(num_classes):\n"
        "    net = nn.Sequential()\n    while True:\n        net.append(nn.ReLU())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="more than 50,000 layers"):
        build_net(Choice(name="endless:make"), 10, (1, 8, 8), (0.5,), (0.5,))


def test_counting_a_net_first_changes_none_of_its_weights():
    def weights(look):
        torch.manual_seed(3)
        if look:
            net = build_net(Choice(name="resnet8"), 10, (1, 8, 8), (0.5,), (0.5,)).net
        else:
            net = NETS.build("resnet8", {})(10, 1)
        return torch.cat([tensor.flatten() for tensor in net.state_dict().values()])

    assert torch.equal(weights(True), weights(False))
