"""Images found on another net: what is asked of that net, and which one it may be."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.attacks.transfer import Transfer
from robustdeploy.core.recipe import Choice
from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.attack import adversary_from
from robustdeploy.nets.build import build_net
from robustdeploy.nets.store import NetInfo, load_net, save_net
from robustdeploy.onboard.types import Threat

PGD = Choice(name="pgd", options={"steps": 3})


def saved(folder, seed=0, shape=(1, 28, 28)):
    choice, classes = Choice(name="lenet", options={"first": 2, "second": 2, "hidden": 4}), ("a", "b", "c")
    mean, std = (0.5,), (0.5,)
    torch.manual_seed(seed)
    net = build_net(choice, len(classes), shape, mean, std)
    folder.mkdir(exist_ok=True)
    save_net(folder, net, NetInfo(net=choice, classes=classes, image_shape=shape, mean=mean, std=std))
    return folder


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 1, 28, 28), generator=torch.Generator().manual_seed(3)).float() / 255


def test_it_finds_what_the_attack_finds_on_the_other_net(tmp_path, images):
    other = load_net(saved(tmp_path / "other"))
    labels, noise = other(images).argmax(1), Noise(1, torch.arange(6))
    untouched = nn.Module()  # would fail if it were called
    found = Transfer(tmp_path / "other", PGD)(untouched, images, labels, Threat(eps=0.1), noise)
    assert torch.equal(found, Pgd(steps=3)(other, images, labels, Threat(eps=0.1), noise))
    assert not torch.equal(found, images)


def test_its_rows_say_which_net_it_was(tmp_path):
    folder = saved(tmp_path / "other")
    options = {"source": folder, "attack": {"name": "pgd", "steps": 3}}
    told = adversary_from(Choice(name="transfer", options=options)).settings
    assert (told["attack"], told["runs"]) == ("transfer", {"name": "pgd", "steps": 3})
    before = told["source_sha256"]
    saved(folder, seed=1)
    assert adversary_from(Choice(name="transfer", options=options)).settings["source_sha256"] != before


def test_another_net_in_its_place_is_loaded_anew(tmp_path, images):
    attack, labels, noise = (
        Transfer(saved(tmp_path / "other"), PGD),
        torch.zeros(6, dtype=int),
        Noise(1, torch.arange(6)),
    )
    first = attack(nn.Module(), images, labels, Threat(eps=0.1), noise)
    saved(tmp_path / "other", seed=1)
    assert not torch.equal(attack(nn.Module(), images, labels, Threat(eps=0.1), noise), first)


def test_a_source_that_is_not_there_or_reads_other_images_is_refused(tmp_path, images):
    missing = Transfer(Path(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"finds its images on another net, but there is no net in .*gone"):
        _ = missing.conditions
    wide = Transfer(saved(tmp_path / "wide", shape=(1, 32, 32)))
    with pytest.raises(UsageError, match="reads images of 1×32×32, not 1×28×28"):
        wide(nn.Module(), images, torch.zeros(6, dtype=int), Threat(), Noise(1, torch.arange(6)))
