"""Weights of others: found in their file, fitted to their net, and never executed."""

import os
import pickle
import sys
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from robustdeploy.core.recipe import Choice
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.imports.asked import Asked
from robustdeploy.imports.checkpoint import import_checkpoint
from robustdeploy.nets.build import build_net
from robustdeploy.nets.store import load_net

SMALL = Choice(name="resnet8", options={"width": 4})
OWN = """
from torch import nn

def small(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    return build_net(SMALL, 10, (1, 8, 8), (0.0,), (1.0,)).eval()


@pytest.fixture
def small(recipe):
    return recipe.model_copy(update={"net": SMALL})


def taken(path, recipe, digits, folder, **said):
    _, told = import_checkpoint(path, Asked(**said), recipe, digits, folder)
    return load_net(folder), " | ".join(told)


def half_precision(state):
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


FORMS = {
    "plain": (lambda s: s, {}, ""),
    "of-data-parallel": (lambda s: {f"module.{k}": v for k, v in s.items()}, {}, "'module.' was taken from"),
    "compiled-and-parallel": (lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()}, {}, "'_orig_mod.module.'"),
    "of-lightning": (
        lambda s: {"state_dict": {**{f"model.{k}": v for k, v in s.items()}, "loss.weight": torch.ones(3)}, "epoch": 3},
        {},
        "key state_dict",
    ),
    "with-an-optimiser": (
        lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
        {},
        "key model: weights lie there",
    ),
    "averaged-beside": (lambda s: {"ema": {k: v * 2 for k, v in s.items()}, "net": s}, {}, "beside ema"),
    "far-down": (lambda s: {"epoch": 3, "checkpoint": {"model": {"weights": s}}}, {}, "key checkpoint.model.weights"),
    "beside-words": (lambda s: {**s, "version": "1.0"}, {}, "at the top of the file, beside version"),
    "behind-a-name-of-their-own": (lambda s: {f"their_net.{k}": v for k, v in s.items()}, {}, "'their_net.' was taken"),
    "told-where": (lambda s: {"a": {"b": s}, "model": {k: v * 2 for k, v in s.items()}}, {"key": "a.b"}, ""),
    "without-counters": (lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")}, {}, ""),
    "an-averaged-model": (
        lambda s: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}},
        {},
        "",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_and_give_the_nets_own_scores(form, net, small, digits, tmp_path):
    make, said, words = FORMS[form]
    torch.save(make(net.net.state_dict()), tmp_path / "net.pt")
    found, told = taken(tmp_path / "net.pt", small, digits, tmp_path, mean=(0.0,), std=(1.0,), **said)
    assert words in told
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(found(images), net(images), atol=1e-5, rtol=1e-5)


def test_safetensors_and_halves_are_read_too(net, small, digits, tmp_path):
    state = net.net.state_dict()
    images = torch.rand(5, 1, 8, 8)
    save_file(state, tmp_path / "net.safetensors")
    torch.save(half_precision(state), tmp_path / "net.pth")
    for name, bound in (("net.safetensors", 1e-5), ("net.pth", 0.05)):
        found, _ = taken(tmp_path / name, small, digits, tmp_path, values=(0.0, 1.0))
        with torch.no_grad():
            assert (found(images) - net(images)).abs().max() < bound


def test_the_weights_of_an_exported_program_are_read_without_it(net, small, digits, tmp_path, monkeypatch):
    count = torch.export.Dim("N", min=1, max=64)
    program = torch.export.export(net.net, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: count},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of the views among a net's weights
        torch.export.save(program, tmp_path / "net.pt2")
    monkeypatch.delattr(torch.export, "load")
    monkeypatch.delattr(torch, "load")
    found, _ = taken(tmp_path / "net.pt2", small, digits, tmp_path, mean=(0.0,), std=(1.0,))
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(found(images), net(images), atol=1e-5, rtol=1e-5)


def test_a_normalisation_is_told_or_guessed_as_the_data_sets(net, small, digits, tmp_path):
    torch.save(net.net.state_dict(), tmp_path / "net.pt")
    images = torch.rand(5, 1, 8, 8)
    for said, entered in (
        ({"mean": (0.2,), "std": (0.5,)}, (images - 0.2) / 0.5),
        ({"values": (-1.0, 1.0)}, images * 2 - 1),
        ({"values": (0.0, 255.0)}, images * 255),
        ({}, (images - digits.mean[0]) / digits.std[0]),
    ):
        found, told = taken(tmp_path / "net.pt", small, digits, tmp_path, **said)
        assert ("that of the data set" in told) == (not said)
        with torch.no_grad():
            wanted = net.net(entered)
            torch.testing.assert_close(found(images), wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-4)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_file_that_would_run_code_runs_none(ending, net, small, digits, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / f"net{ending}"
    whole = {"state_dict": net.net.state_dict(), "args": Canary(canary)}
    torch.save(whole, path, _use_new_zipfile_serialization=ending != ".pth")
    if ending == ".ckpt":
        path.write_bytes(pickle.dumps(whole))
    with pytest.raises(ArtifactError, match=r"nothing of it was run|cannot read"):
        taken(path, small, digits, tmp_path)
    assert not canary.exists()
    torch.save(net, path)  # a whole module: its class would be imported
    with pytest.raises(ArtifactError, match=r"holds more than weights.* torch.save\(net.state_dict"):
        taken(path, small, digits, tmp_path)


def test_torchscript_is_refused_with_the_fix(small, digits, tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:  # the members that torch.jit.save writes
        for name in ("net/data.pkl", "net/code/__torch__/net.py", "net/constants.pkl", "net/version"):
            archive.writestr(name, b"x")
    with pytest.raises(ArtifactError, match=r"is TorchScript, .* which is not run here. Give its weights"):
        taken(tmp_path / "net.pt", small, digits, tmp_path)


NOT_WEIGHTS = {
    "not-finite": (lambda w: w.fill_(torch.nan), "has numbers that are not finite .* before the training broke down"),
    "complex": (lambda w: w.to(torch.complex64), "is complex; save weights as dense tensors of floats"),
    "sparse": (lambda w: w.to_sparse(), "is sparse; save"),
    "without-values": (lambda w: w.to("meta"), "is without values; save"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
@pytest.mark.filterwarnings("ignore")  # torch's own, of sparse tensors
def test_weights_that_no_net_can_hold_are_named(kind, net, small, digits, tmp_path):
    make, words = NOT_WEIGHTS[kind]
    state = {name: value.clone() for name, value in net.net.state_dict().items()}
    state["conv.weight"] = make(state["conv.weight"])
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ArtifactError, match=f"the weight conv.weight {words}"):
        taken(tmp_path / "net.pt", small, digits, tmp_path)
    assert not (tmp_path / "net.json").exists()


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html></html>", b"\x89HDF\r\n\x1a\n" + bytes(300), b"\x1f\x8b" + bytes(50), bytes(400)],
    ids=["page", "hdf5", "gzip", "zeros"],
)
def test_what_is_no_file_of_torch_is_not_called_dangerous(content, small, digits, tmp_path):
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is no file of PyTorch, or was damaged|cannot read"):
        taken(tmp_path / "net.pt", small, digits, tmp_path)


def test_numbers_that_say_no_normalisation_are_refused(net, small, digits, tmp_path):
    torch.save(net.net.state_dict(), tmp_path / "net.pt")
    for said, words in (
        ({"mean": (float("nan"),), "std": (1.0,)}, "must be finite numbers"),
        ({"mean": (0.0,), "std": (float("inf"),)}, "must be finite numbers"),
        ({"values": (255.0, 0.0)}, "of weights it must rise"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "--mean has 3 numbers, and images have 1 channels"),
    ):
        with pytest.raises(UsageError, match=words):
            taken(tmp_path / "net.pt", small, digits, tmp_path, **said)


def test_weights_of_another_net_are_told_by_what_differs(net, small, digits, tmp_path):
    state, path = net.net.state_dict(), tmp_path / "net.pt"
    first, *_, last = state
    cases = [
        ({k: v for k, v in state.items() if k != first}, f"1 of its .* are missing, such as {first}"),
        ({**state, "head.weight": torch.ones(1)}, "1 are not of it, such as head.weight"),
        ({**state, last: torch.ones(7)}, "number of classes differs: name data with as many"),
        ({**state, first: torch.ones(7)}, "name the net with the options"),
        ({}, "holds no weights by name"),
        ({"epoch": 3}, "holds no weights by name .it has epoch."),
        ([1], "holds list and no weights"),
    ]
    for given, words in cases:
        torch.save(given, path)
        with pytest.raises(ArtifactError, match=words):
            taken(path, small, digits, tmp_path)
    torch.save({"model": state}, path)
    with pytest.raises(UsageError, match="no such key; did you mean 'model'"):
        taken(path, small, digits, tmp_path, key="modle")
    with pytest.raises(UsageError, match="are for ONNX files"):
        taken(path, small, digits, tmp_path, layout="nhwc")
    for name, content in (("a.pt", b""), ("b.pt", path.read_bytes()[:500]), ("c.safetensors", b"text"), ("d.pt", b"t")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=r"is empty|cannot read|more than weights"):
            taken(tmp_path / name, small, digits, tmp_path)


def test_a_factory_of_the_users_own_is_called_on_the_users_word_alone(command, tmp_path, digits, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "their_nets.py").write_text(OWN + "\nfrom pathlib import Path\nPath('ran').touch()\n")
    torch.save({"1.weight": torch.rand(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "net.pt")
    (tmp_path / "recipe.yaml").write_text("name: theirs\nnet: their_nets:small\nthreat: {norm: linf, eps: 0.1}\n")
    words = ["import", "net.pt", "--mean", "0", "--std", "1"]
    done = command(tmp_path, *words)  # the recipe beside the file is whoever's the file is
    assert done.code == 2
    assert "repeat with --trust" in done.err
    assert not (tmp_path / "ran").exists()
    done = command(tmp_path, *words, "--net", "their_nets:small")
    assert done.code == 0, done.err
    assert (tmp_path / "ran").exists()
    assert "next: robustdeploy evaluate runs/net" in done.out
