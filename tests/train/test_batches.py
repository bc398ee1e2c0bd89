from __future__ import annotations

import pytest
import torch

from robustdeploy.data.noise import Noise
from robustdeploy.onboard.draws import key
from robustdeploy.train.batches import Batches

STEPS, SIZE = 5, 24


@pytest.fixture
def plan(make_plan):
    return make_plan(epochs=3, steps=STEPS, batch_size=SIZE, seed=4, mirror=True)


def numbers(noise):
    return noise.uniform(0, (3,))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_every_image_is_seen_once_per_epoch_over_all_processes(world, plan):
    shares = [Batches(plan, rank, world) for rank in range(world)]
    for epoch in range(3):
        seen = []
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            parts = [share.at(step) for share in shares]
            assert [len(part.labels) for part in parts] == [SIZE // world] * world
            seen += [int(i) for part in parts for i in part.noise.ids]
        assert sorted(seen) == list(range(STEPS * SIZE))


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_the_parts_of_any_number_of_processes_are_the_same_batch(world, plan):
    """The same images in the same order, augmented alike, under the same noise."""
    alone, shares = Batches(plan), [Batches(plan, rank, world) for rank in range(world)]
    for step in (0, 3, STEPS, 2 * STEPS + 1):
        whole, parts = alone.at(step), [share.at(step) for share in shares]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
        assert torch.equal(torch.cat([part.noise.ids for part in parts]), whole.noise.ids)
        assert torch.equal(torch.cat([numbers(part.noise) for part in parts]), numbers(whole.noise))


def test_a_batch_is_a_function_of_its_step_alone(plan):
    forward, backward = Batches(plan), Batches(plan)
    one = [forward.at(step) for step in range(3 * STEPS)]
    other = [backward.at(step) for step in reversed(range(3 * STEPS))][::-1]
    for ours, theirs in zip(one, other, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(numbers(ours.noise), numbers(theirs.noise))


def test_labels_pixels_and_noise_belong_to_the_image(make_plan):
    plan = make_plan(epochs=2, steps=STEPS, batch_size=SIZE, shift=0)
    for step in range(2 * STEPS):
        batch = Batches(plan).at(step)
        rows = batch.noise.ids
        assert torch.equal(batch.labels, plan.train.labels[rows])
        assert torch.equal(batch.images, plan.train.images[rows].float() / 255)
        assert torch.equal(numbers(batch.noise), numbers(Noise(key(plan.seed, "attack", step // STEPS), rows)))


def test_epochs_differ_in_order_noise_and_augmentation(plan):
    batches = Batches(plan)
    epochs = []
    for epoch in range(2):
        parts = [batches.of_epoch(epoch, position) for position in range(STEPS)]
        order = torch.cat([part.noise.ids for part in parts])
        back = order.argsort()
        images = torch.cat([part.images for part in parts])[back]
        noise = torch.cat([numbers(part.noise) for part in parts])[back]
        epochs.append((order, images, noise))
    assert not torch.equal(epochs[0][0], epochs[1][0])
    changed = [
        (one != other).flatten(1).any(1).float().mean() for one, other in zip(*epochs, strict=True) if one.dim() > 1
    ]
    assert changed[0] > 0.8  # 9 shifts, mirrored or not: few images get the same twice
    assert changed[1] == 1


@pytest.mark.parametrize("replays", [1, 2, 3, 8])
def test_a_replaying_task_sees_each_batch_that_often_in_a_row(replays, make_plan):
    plan = make_plan(epochs=3, steps=STEPS, batch_size=SIZE)
    replayed, once = Batches(plan), Batches(plan)
    for step in range(plan.steps):
        ours, theirs = replayed.at(step, replays), once.at(step // replays)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(numbers(ours.noise), numbers(theirs.noise))


def test_full_batches_only_and_what_is_left_out_differs(make_plan, digits):
    plan = make_plan(epochs=2, steps=2, batch_size=SIZE, train=digits.train.select(torch.arange(2 * SIZE + 7)))
    batches = Batches(plan)
    assert plan.steps == 4
    seen = [{int(i) for step in (e, e + 1) for i in batches.at(step).noise.ids} for e in (0, 2)]
    assert [len(ids) for ids in seen] == [2 * SIZE, 2 * SIZE]
    assert seen[0] != seen[1]


def test_fewer_images_than_a_batch_are_one_batch(make_plan, digits):
    plan = make_plan(epochs=2, batch_size=SIZE, train=digits.train.select(torch.arange(9)))
    assert plan.steps == 2
    assert [sorted(Batches(plan).at(step).noise.ids.tolist()) for step in (0, 1)] == [list(range(9))] * 2
