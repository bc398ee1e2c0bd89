"""What is said of a net beside its export."""

import pytest

from robustdeploy.core.load import load_target
from robustdeploy.core.recipe import Budget
from robustdeploy.core.records import ChannelCount, NetRecord
from robustdeploy.export.exporting import target_notes

TARGET = load_target("host-cpu").model_copy(update={"channel_multiple": 8})


def notes(budget, *kept, dense=32):
    channels = tuple(ChannelCount(layer=str(number), kept=each, dense=dense) for number, each in enumerate(kept))
    record = NetRecord(
        macs=1, params=1, memory_bytes=1, dense_macs=1, dense_params=1, dense_memory_bytes=1, channels=channels, data={}
    )
    return list(target_notes(TARGET, budget, record))


@pytest.mark.parametrize(
    ("budget", "fix"),
    [
        (Budget(channel_multiple=1), "prune without budget.channel_multiple (it is 1) to keep such multiples"),
        (Budget(preferred_multiple=4), "prune with `--target host-cpu` to keep such multiples"),
        (Budget(), "prune with `--target host-cpu` to keep such multiples"),
        (Budget(preferred_multiple=8), "where that makes it slow, prune with a limit on the time itself (--latency-"),
        (Budget(channel_multiple=8), "prune with `--target host-cpu` to keep such multiples"),
    ],
)
def test_odd_numbers_of_channels_are_told_with_what_helps(budget, fix):
    (told,) = notes(budget, 7, 16, 20, 32)
    assert told.startswith("2 layers keep a number of channels that is no multiple of 8, which host-cpu runs best; ")
    assert fix in told
    assert notes(budget, 7)[0].startswith("1 layer keeps a number")


def test_whole_layers_and_whole_multiples_are_not_told():
    assert notes(Budget(), 8, 24, 32) == []
    assert notes(Budget(), 30, dense=30) == []
