"""What ``robustdeploy profile`` says of the multiple of channels that its table shows."""

import pytest

from robustdeploy.cli.profile import _multiple_lines
from robustdeploy.core.load import load_target
from robustdeploy.core.profile import Device, MultipleTime, Profile, ProfiledNet
from robustdeploy.core.recipe import Choice


def said(times, own):
    profile = Profile(
        target="host-cpu", precision="fp32", device=Device(backend="onnxruntime", version="1", identity={}),
        net=ProfiledNet(net=Choice(name="resnet8"), classes=10, image_shape=(1, 8, 8)), kinds=(), layers=(),
        overhead_us=0, dense_us=60, measured=44, turns=30, error_median=0.02, error_worst=0.1, seconds=9,
        multiples=tuple(MultipleTime(multiple=multiple, time=time) for multiple, time in times.items()),
    )  # fmt: skip
    target = load_target("host-cpu").model_copy(update={"channel_multiple": own})
    return list(_multiple_lines(profile, target))


MEASURED = {1: 0.97, 2: 0.91, 4: 0.81, 8: 0.74, 16: 0.69, 32: 0.69}


@pytest.mark.parametrize(
    ("times", "best", "also"),
    [
        (MEASURED, 16, 32),
        ({1: 0.7, 2: 0.7, 4: 0.69, 8: 0.68, 16: 0.67}, 1, 16),  # nothing that is worth choices
        ({1: 0.9, 2: 0.9, 4: 0.7, 8: 0.69, 16: 0.75}, 4, 8),
    ],
)
def test_the_smallest_multiple_that_is_nearly_the_quickest_is_told(times, best, also):
    kept = "any number is good here" if best == 1 else f"best kept in multiples of {best} here"
    assert said(times, best)[-1] == f"{kept}, as host-cpu says"
    assert said(times, also)[-1] == f"{kept}; those of {also}, which host-cpu says, are as quick within 5%"
    other = said(times, 3)[-1]
    assert other.startswith(f"{kept}, and host-cpu says 3: prune with --set budget.preferred_multiple={best}, ")


def test_every_multiple_stands_with_its_time():
    head, figures, note, _ = said(MEASURED, 8)
    assert head.split()[-6:] == ["1", "2", "4", "8", "16", "32"]
    assert figures.split()[-6:] == ["97", "91", "81", "74", "69", "69"]
    assert "0.7, 0.5 and 0.3 of its operations" in note


def test_a_profile_of_an_older_version_tells_none():
    assert said({}, 8) == []
