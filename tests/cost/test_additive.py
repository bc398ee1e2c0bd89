import numpy as np
import pytest

from robustdeploy.core.profile import Device, LayerKind, Profile, ProfiledLayer, ProfiledNet
from robustdeploy.core.recipe import Choice
from robustdeploy.cost.additive import Structure, fit
from robustdeploy.cost.layer_times import LayerTimes, grid, quantum

WIDTHS = (16, 16, 32, 32)
"""A chain of layers; layer i reads the channels before it, the first reads 3."""
STRUCTURE = Structure(np.array([0, 1, 2, 1]), np.array([3, 16, 16, 32]), np.array([16, 16, 32, 32]))


def layers(widths):
    widths = np.atleast_2d(widths)
    return np.column_stack([np.full(len(widths), 3), widths[:, :-1]]), widths


def steps(block, penalty):
    """Time of a net on a toolchain that works on ``block`` channels at once, and slowly on what is no multiple of 4."""

    def time(widths):
        inputs, outputs = layers(widths)
        whole = [-(-side // block) * block for side in (inputs, outputs)]
        slow = 1 + penalty * (inputs % 4 != 0)
        return 20 + (0.02 * whole[0] * whole[1] * slow + 0.3 * outputs).sum(1)

    return time


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    blocks = rng.choice([1, 1, 4, 8], (count, len(WIDTHS)))
    return np.minimum(WIDTHS, np.maximum(1, rng.integers(1, np.array(WIDTHS) + 1, blocks.shape) // blocks * blocks))


@pytest.mark.parametrize(("block", "penalty"), [(1, 0.0), (8, 0.0), (16, 0.5), (1, 0.8)])
def test_the_time_of_nets_that_were_not_measured_is_foretold(block, penalty):
    """Smooth, in steps, and with kernels that odd counts do not get; each with the noise of a busy machine."""
    time, seen, unseen = steps(block, penalty), drawn(100, 0), drawn(40, 1)
    noisy = time(seen) * np.random.default_rng(2).normal(1, 0.01, len(seen))
    found = fit(STRUCTURE, *layers(seen), noisy)
    inputs, outputs = layers(unseen)
    most_in, most_out = STRUCTURE.most
    tables = [found.table(kind, np.arange(1, most_in[kind] + 1), np.arange(1, most_out[kind] + 1)) for kind in range(3)]
    told = found.constant + sum(
        tables[kind][inputs[:, layer] - 1, outputs[:, layer] - 1] for layer, kind in enumerate(STRUCTURE.kinds)
    )
    errors = np.abs(told / time(unseen) - 1)
    assert np.median(errors) < 0.03
    assert errors.max() < 0.2
    # What it says of its own errors is not rosier than the truth.
    assert np.median(np.abs(found.errors)) > 0.5 * np.median(errors)


@pytest.mark.parametrize("block", [2, 4, 8, 16])
def test_the_multiple_is_the_length_of_a_staircases_steps(block):
    counts = grid(64)
    assert quantum(-(-counts // block) * block + 5.0, counts) == (block, 0.0)


def test_without_steps_every_channel_counts():
    counts = grid(64)
    assert quantum(counts * 1.0, counts) == (1, 0.0)
    assert quantum(np.full(64, 1.0), counts)[1] == 0


def test_a_kernel_that_odd_counts_lack_is_a_gain():
    counts = grid(64)
    multiple, gain = quantum(counts * np.where(counts % 8, 1.6, 1.0), counts)
    assert multiple == 8
    assert 5 < gain < 30  # of times from 1 to 100


def test_a_wide_layer_is_tabled_in_a_power_of_two():
    assert grid(64).tolist() == list(range(1, 65))
    assert grid(512).tolist() == list(range(8, 513, 8))
    assert grid(100).tolist() == list(range(2, 101, 2))
    assert grid(1).tolist() == [1]


def test_what_a_table_leaves_out_lies_between():
    kind = LayerKind(name="dense", inputs=(2, 4), outputs=(1, 3), us=((1.0, 3.0), (5.0, 7.0)))
    device = Device(backend="null", version="1", identity={})
    net = ProfiledNet(net=Choice(name="x"), classes=3, image_shape=(1, 4, 4))
    profile = Profile(
        target="t", precision="fp32", device=device, net=net, kinds=(kind,), overhead_us=10, dense_us=17, measured=1,
        layers=(ProfiledLayer(name="a", kind="dense", inputs=4, outputs=3),), turns=1, error_median=0, error_worst=0,
        seconds=1,
    )  # fmt: skip
    times = LayerTimes(profile)
    found = times.of(np.array([[4], [3], [1], [2]]), np.array([[3], [2], [1], [1]]))
    assert found.tolist() == [17, 14, 11, 11]
