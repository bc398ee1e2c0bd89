from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdeploy.data.noise import Noise, mix_
from robustdeploy.data.order import epoch_order
from robustdeploy.onboard.draws import Draws, key

INT64 = st.integers(-(2**63), 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.integers(0, 2**64 - 1) | st.text(max_size=5), min_size=1, max_size=3),
    ids=st.lists(INT64, min_size=1, max_size=4),
    step=st.integers(0, 2**33),
)
def test_torch_and_numpy_draw_the_same_bits(parts: list[int | str], ids: list[int], step: int) -> None:
    folded = key(*parts)
    ours = Noise(folded, torch.tensor(ids)).uniform(step, (2, 3, 4)).numpy()
    theirs = Draws(folded, ids).uniform(step, 24)
    assert ours.shape == (len(ids), 2, 3, 4)
    assert np.array_equal(ours.reshape(len(ids), 24).astype(np.float64), theirs)


def test_numbers_do_not_depend_on_the_batch() -> None:
    noise = Noise(key(1, "fastat", 2), torch.arange(10))
    whole = noise.uniform(3, (3, 4))
    index = torch.tensor([7, 2])
    assert torch.equal(noise.select(index).uniform(3, (3, 4)), whole[index])
    assert torch.equal(noise.uniform(3, (2,)), whole.view(10, 12)[:, :2])


def test_numbers_are_uniform_and_differ_between_keys_steps_and_samples() -> None:
    noise = Noise(key(0), torch.arange(64))
    first, second = noise.uniform(0, (1024,)), noise.uniform(1, (1024,))
    assert 0 <= float(first.min()) < 1e-3
    assert 0.999 < float(first.max()) < 1
    assert abs(float(first.mean()) - 0.5) < 0.005
    assert abs(float(first.var()) - 1 / 12) < 0.002
    for other in (second, Noise(key(1), torch.arange(64)).uniform(0, (1024,)), first.roll(1, 0), first.roll(1, 1)):
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 0.02


def test_mixing_is_one_to_one() -> None:
    assert len(mix_(torch.arange(10_000)).unique()) == 10_000


def test_the_ids_stay_as_they_were() -> None:
    ids = torch.arange(4)
    Noise(5, ids).uniform(0, (2,))
    assert ids.tolist() == [0, 1, 2, 3]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), n=st.integers(0, 300))
def test_an_epochs_order_is_a_permutation_and_always_the_same(seed: int, epoch: int, n: int) -> None:
    order = epoch_order(seed, epoch, n)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(order, epoch_order(seed, epoch, n))


def test_orders_of_epochs_and_seeds_differ() -> None:
    orders = [tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
