import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from robustdeploy.core.profile import ProfiledNet
from robustdeploy.core.recipe import Choice
from robustdeploy.core.target import Target
from robustdeploy.cost.layer_times import LayerTimes
from robustdeploy.cost.memory import without_values
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.devices.profiles import check_device, load_profile, profile_path
from robustdeploy.errors import ArtifactError, ToolchainError, UsageError
from robustdeploy.evaluate import profiling
from robustdeploy.evaluate.profiling import Sample, Samples, drawn_counts, profile_net, resizable
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.prune.groups import traced_groups
from robustdeploy.prune.layers import net_layers

SHAPE = (1, 8, 8)
FP32 = Choice(name="fp32")


class Mixed(nn.Module):
    """Layers of many kinds: plain, depthwise, a shortcut without weights, a sum, a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.wide = nn.Conv2d(8, 12, 3, padding=1, stride=2)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.short = ChannelPad(8, 12, 2)
        self.out = nn.Linear(12 * 16, 3)

    def forward(self, images):
        images = self.stem(images)
        return self.out((torch.relu(self.deep(torch.relu(self.wide(images)))) + self.short(images)).flatten(1))


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    net = Mixed().eval()
    return net, traced_groups(net, SHAPE).groups


def test_layers_are_told_by_the_work_they_do_and_follow_what_is_kept(mixed):
    net, groups = mixed
    layers = net_layers(net, groups, SHAPE)
    kinds = dict(zip(layers.names, layers.kinds, strict=True))
    assert kinds["stem.0"] == "conv 3×3 on 8×8"
    assert kinds["wide"].startswith("conv 3×3/2 on 4×4")
    assert kinds["deep"].startswith("depthwise conv 3×3 on 4×4")
    assert kinds["short"] == "shortcut/2 on 4×4"
    assert kinds["out"] == "dense"
    inputs, outputs = layers.channels(np.array([[group.size // 2 for group in groups]]))
    found = {name: (int(i), int(o)) for name, i, o in zip(layers.names, inputs[0], outputs[0], strict=True)}
    assert found["stem.0"] == (1, 4)
    assert found["out"] == (96, 3)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_resized_file_runs_and_has_the_shapes_of_an_export(mixed, precision):
    net, groups = mixed
    file = resizable(net, groups, SHAPE, 20, Choice(name=precision))
    for number in range(4):
        counts = drawn_counts(number, groups)
        made = file.resized(profiling._sizes(without_values(net), groups, counts))
        session = onnxruntime.InferenceSession(made.SerializeToString())
        assert session.run(None, {"images": np.zeros((2, *SHAPE), np.float32)})[0].shape == (2, 3)
        weights = {tuple(tensor.dims) for tensor in made.graph.initializer}
        stem = counts[[group.name for group in groups].index("stem.0")]
        assert (stem, 1, 3, 3) in weights


def test_a_net_that_decides_by_its_channels_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.out = nn.Conv2d(1, 16, 3), nn.Linear(16, 3)

        def forward(self, images):
            images = self.one(images)
            images = torch.relu(images) if images.shape[1] % 2 else torch.tanh(torch.relu(images))
            return self.out(images.mean((2, 3)))

    torch.manual_seed(0)
    net = Branching().eval()
    with pytest.raises(ArtifactError, match="profile"):
        resizable(net, traced_groups(net, SHAPE).groups, SHAPE, 20, FP32)


def test_samples_of_an_interrupted_call_are_used_again_and_those_of_others_are_not(tmp_path):
    path = tmp_path / "deep" / "samples"
    Samples(path, {"device": "a"}).add([Sample((3, 4), 0.5, 700.0)])
    assert Samples(path, {"device": "a"}).all == [Sample((3, 4), 0.5, 700.0)]
    assert Samples(path, {"device": "b"}).all == []


def about(net="mixed"):
    return ProfiledNet(net=Choice(name=net), classes=3, image_shape=SHAPE)


@pytest.mark.slow
def test_a_profile_is_measured_kept_and_held_against_the_device(mixed, agent, tmp_path, monkeypatch):
    net, groups = mixed
    monkeypatch.setattr(profiling, "FEWEST", 11)
    monkeypatch.setattr(profiling, "TURNS", 2)
    target = Target(name="here")
    with fleet_of(target, agent, print, deadline_s=60) as fleet:
        board = fleet.boards[0]
        profile = profile_net(
            net, groups, about(), target, FP32, board, agent, tmp_path / "samples", lambda *told: None, seconds=0.01
        )
        now = profiling.device_of(board, target)
    assert profile.measured == 11
    assert profile.dense_us > 1
    layers = net_layers(net, groups, SHAPE)
    dense = float(LayerTimes(profile).of(*layers.channels(layers.sizes)))
    assert dense == pytest.approx(profile.dense_us, rel=0.25)
    path = profile_path(tmp_path, "here", "fp32", about())
    path.write_text(profile.model_dump_json())
    assert load_profile(tmp_path, "here", "fp32", about(), "again") == profile
    check_device(profile, now, "again")
    other = now.model_copy(update={"identity": {**now.identity, "cpu_model": "Cortex-A78AE"}})
    with pytest.raises(ToolchainError, match=r"cpu_model.*Cortex-A78AE.*run `again`"):
        check_device(profile, other, "again")
    with pytest.raises(ToolchainError, match=r"2\.0 is there; run `again`"):
        check_device(profile, now.model_copy(update={"version": "2.0"}), "again")
    with pytest.raises(ToolchainError, match="other options"):
        check_device(profile, now.model_copy(update={"options": {"threads": 4}}), "again")


def test_a_profile_that_is_not_there_or_was_edited_is_told_with_what_makes_it(tmp_path):
    with pytest.raises(UsageError, match=r"there is no profile of mixed in fp32 on here.*`make it` first"):
        load_profile(tmp_path, "here", "fp32", about(), "make it")
    profile_path(tmp_path, "here", "fp32", about()).write_text('{"target": 3}')
    with pytest.raises(ArtifactError, match=r"json is no profile \(.*\); run `make it` again"):
        load_profile(tmp_path, "here", "fp32", about(), "make it")
