import json

import pytest

from robustdeploy.core.profile import Device, LayerKind, Profile, ProfiledLayer, ProfiledNet
from robustdeploy.core.recipe import Choice
from robustdeploy.core.subject import Subject
from robustdeploy.devices.profiles import profile_path
from robustdeploy.report.layer_times import layer_times

SUBJECT = Subject("pruned", "fp32", "here")
IDENTITY = {"machine": "x86_64", "cpu_model": "one"}


@pytest.fixture
def places(tmp_path):
    """A profile with steps of 4 channels, and a net that keeps 5 of 8 in one layer and 4 of 8 in another."""
    counts = tuple(range(1, 9))
    stairs = tuple(tuple(10.0 * -(-o // 4) for o in counts) for _ in counts)
    flat = tuple(tuple(30.0 for _ in counts) for _ in counts)
    kind = {"inputs": counts, "outputs": counts}
    net = ProfiledNet(net=Choice(name="small"), classes=2, image_shape=(1, 8, 8))
    profile = Profile(
        target="here", precision="fp32", net=net, overhead_us=5, dense_us=75, measured=9, turns=1, error_median=0,
        error_worst=0, seconds=1,
        device=Device(backend="null", version="1", identity={**IDENTITY, "board_model": ""}),
        kinds=(
            LayerKind(name="conv", us=stairs, output_quantum=4, **kind),
            LayerKind(name="dense", us=flat, **kind),
        ),
        layers=tuple(
            ProfiledLayer(name=name, kind=kind, inputs=8, outputs=8)
            for name, kind in (("net.a", "conv"), ("net.b", "conv"), ("net.c", "dense"), ("net.d", "conv"))
        ),
    )  # fmt: skip
    path = profile_path(tmp_path / "profiles", "here", "fp32", net)
    path.parent.mkdir()
    path.write_text(profile.model_dump_json())
    sizes = {"net.a": (3, 5), "net.b": (8, 4), "net.c": (4, 4)}
    modules = {name: {"inputs": i, "outputs": o, "groups": 1} for name, (i, o) in sizes.items()}
    told = {"net": {"name": "small"}, "classes": ["x", "y"], "image_shape": [1, 8, 8], "modules": modules}
    (tmp_path / "net.json").write_text(json.dumps(told))
    return tmp_path


def lines_of(places, **other):
    return layer_times(
        places / "profiles", SUBJECT, places, **{"backend": "null", "version": "1", "identity": IDENTITY, **other}
    )


def test_each_layer_is_told_with_its_time_and_why_it_gains_nothing(places):
    a, b, c, d = lines_of(places)
    assert (a.layer, a.us, a.dense_us, a.ops_kept) == ("a", 20, 20, pytest.approx(15 / 64, abs=1e-4))
    assert a.why == "5 outputs are no multiple of 4"
    assert (b.us, b.ops_kept, b.why) == (10, 0.5, "")  # a step down, as its operations
    assert c.why == "little of its time follows its channels"
    assert (d.ops_kept, d.us, d.why) == (1, 20, "")  # whole, so nothing was to be gained


@pytest.mark.parametrize(
    "other", [{"version": "2"}, {"backend": "onnxruntime"}, {"identity": {**IDENTITY, "cpu_model": "two"}}]
)
def test_a_profile_of_another_device_tells_nothing(places, other):
    assert lines_of(places, **other) == ()


def test_without_a_profile_there_is_nothing_to_tell(places):
    assert layer_times(places / "elsewhere", SUBJECT, places, "null", "1", IDENTITY) == ()
