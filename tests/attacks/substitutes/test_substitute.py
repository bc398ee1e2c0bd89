"""Papernot's substitute: what it asks for, what it learns, and that all of it follows from its key."""

import pytest
import torch
from torch import nn

from robustdeploy.attacks.substitutes.substitute import Substitute


class Victim:
    """A linear net that tells labels alone, and keeps what it was asked."""

    def __init__(self):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        self.asked = []

    def __call__(self, images):
        self.asked.append(images)
        with torch.no_grad():
            return self.net(images).argmax(1)


@pytest.fixture
def seeds():
    return torch.randint(0, 256, (20, 1, 4, 4), generator=torch.Generator().manual_seed(1)).float() / 255


@pytest.fixture
def fresh():
    """Images that no substitute has been told of."""
    return torch.rand(500, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def test_each_round_asks_about_as_many_images_as_there_are(seeds):
    victim = Victim()
    Substitute(rounds=4, epochs=1)(victim, seeds, 3, key=7)
    assert [len(images) for images in victim.asked] == [20, 20, 40, 80]
    assert torch.equal(victim.asked[0], seeds)


def test_new_images_are_whole_grey_levels_one_step_from_old_ones(seeds):
    victim = Victim()
    Substitute(rounds=2, epochs=1, step=0.1)(victim, seeds, 3, key=7)
    moved = victim.asked[1]
    assert torch.equal(torch.round(moved * 255) / 255, moved)
    assert (moved.min(), moved.max()) >= (0, 0)
    inside = (seeds > 0.2) & (seeds < 0.8)
    step = (moved - seeds).abs()[inside]
    assert step.max() <= 26 / 255 + 1e-6
    assert step.min() >= 25 / 255 - 1e-6


def test_the_step_turns_round(seeds):
    """From images that its own net labels, one way makes their label likelier, the other way less likely."""
    changes = {}
    for turn in (1, 9):
        victim = Victim()
        net = Substitute(rounds=3, epochs=40, turn=turn, lr=0.01)(victim, seeds, 3, key=7)
        before, after = torch.cat(victim.asked[:2]), victim.asked[2]
        with torch.no_grad():
            own = victim.net(before).argmax(1)[:, None]
            changes[turn] = (net(after).gather(1, own) - net(before).gather(1, own)).mean().item()
    assert changes[1] < 0 < changes[9]


def test_it_learns_to_answer_as_the_victim_and_more_rounds_help(seeds, fresh):
    def agreement(rounds):
        victim = Victim()
        net = Substitute(rounds=rounds, epochs=20, lr=0.005)(victim, seeds, 3, key=7)
        return (net(fresh).argmax(1) == victim.net(fresh).argmax(1)).float().mean().item()

    assert agreement(1) < agreement(6)
    assert agreement(6) > 0.8


def test_the_key_alone_decides(seeds, fresh):
    def scores(key):
        torch.manual_seed(int(torch.randint(1000, (1,))))  # whatever the state of the generator
        return Substitute(rounds=2, epochs=2)(Victim(), seeds, 3, key)(fresh)

    assert torch.equal(scores(7), scores(7))
    assert not torch.equal(scores(7), scores(8))


def test_its_label_names_what_follows_it():
    assert Substitute().label == "substitute-fgsm"
    from robustdeploy.core.recipe import Choice

    assert Substitute(attack=Choice(name="pgd", options={"steps": 5})).label == "substitute-pgd-5"
