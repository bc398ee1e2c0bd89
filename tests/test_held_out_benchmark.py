"""benchmarks/held_out.py: its figures are those of the nets, and the test set stays out of it."""

import json
import sys
from pathlib import Path

import pytest

from robustdeploy import load_net
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.asked import recipe_for
from robustdeploy.data import digits
from robustdeploy.data.load import load_data
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import held_out


@pytest.fixture
def nets(chain):
    return [chain / "runs/tiny/nets/dense", chain / "runs/tiny"]


def printed(capsys, nets, *more):
    words = [*map(str, nets), "--recipe", "digits-resnet8", "--device", "cpu", *more]
    code = held_out.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_figures_are_those_of_the_nets_on_held_out_images_alone(nets, capsys, monkeypatch):
    read = digits._read
    parts = []
    monkeypatch.setattr(digits, "_read", lambda part, *given: parts.append(part) or read(part, *given))
    code, out, _ = printed(capsys, nets)
    told = json.loads(out)
    assert code == 0
    assert parts == ["train"]
    held = load_data(recipe_for("digits-resnet8").data).validation
    images, labels = held.images.float() / 255, held.labels
    assert told["images"] == f"{len(held)} held out of the training set of digits"
    right = {}
    for folder, its in zip(nets, told["nets"], strict=True):
        net = load_net(folder)
        clean = net(images).argmax(1) == labels
        attacked = Pgd(steps=10)(net, images, labels, Threat(eps=0.1), Noise(0, held.ids))
        eight_bits = (attacked * 255).round() / 255
        robust = clean & (net(eight_bits).argmax(1) == labels)
        right[folder] = clean.double().mean()
        assert its["clean"]["value"] == pytest.approx(float(right[folder]))
        # PGD through the folded copy rounds elsewhere, so single images may differ.
        assert its["pgd10"]["value"] == pytest.approx(float(robust.float().mean()), abs=2 / len(held))
        low, high = its["pgd10"]["interval"]
        assert low < its["pgd10"]["value"] < high
    first, second = told["nets"]
    assert "minus_first" not in first["clean"]
    assert second["clean"]["minus_first"] == pytest.approx(float(right[nets[1]] - right[nets[0]]))
    low, high = second["clean"]["interval_of_that"]
    assert low < second["clean"]["minus_first"] < high


def test_a_limit_takes_the_first_images_and_a_net_for_others_is_refused(nets, capsys):
    code, out, _ = printed(capsys, nets[:1], "--limit", "40")
    assert code == 0
    assert json.loads(out)["images"].startswith("40 held out")
    with pytest.raises(SystemExit):
        printed(capsys, nets[:1], "--limit", "0")
    capsys.readouterr()
    code, out, said = printed(capsys, [nets[0] / "nowhere"])
    assert (code, out) == (2, "")
    assert "there is no net" in said
