"""Engine attacks: the engine decides, the twin leads the way; each stays in the box and treats an image alone."""

import copy

import pytest
import torch
from torch import nn

from robustdeploy.attacks.engine.divergence import Divergence
from robustdeploy.attacks.engine.protocol import alike
from robustdeploy.attacks.engine.straight_through import StraightThrough
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.registry import ENGINE_ATTACKS
from robustdeploy.data.noise import Noise
from robustdeploy.onboard.types import Threat

THREAT = Threat(eps=16 / 255)
N = 40


@pytest.fixture
def twin():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 5)).eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.randint(0, 256, (N, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float() / 255


class Asked:
    """An engine that counts what it is asked, image by image."""

    def __init__(self, net, change=lambda scores: scores):
        self.net, self.change, self.queries = net, change, torch.zeros(N, dtype=torch.int64)

    def __call__(self, images, places):
        assert torch.equal(torch.round(images * 255) / 255, images)
        assert len(images) == len(places)
        self.queries += torch.bincount(places, minlength=N)
        with torch.no_grad():
            return self.change(self.net(images))


def run(attack, twin, engine, images, labels, places=slice(None)):
    noise = Noise(7, torch.arange(N)[places])
    return attack(twin, engine, images[places], labels[places], THREAT, noise)


@pytest.mark.parametrize("name", ENGINE_ATTACKS.names())
def test_it_stays_in_the_box_and_an_image_does_not_hang_on_its_neighbours(name, twin, images):
    labels, attack = twin(images).argmax(1), ENGINE_ATTACKS.build(name, {})
    engine = copy.deepcopy(twin)
    engine[3].bias += 0.05 * torch.randn(5, generator=torch.Generator().manual_seed(2))
    found = run(attack, twin, Asked(engine), images, labels)
    assert (found - images).abs().max() <= THREAT.eps + 1e-6
    assert torch.equal(torch.round(found * 255) / 255, found)
    assert 0 < (engine(found).argmax(1) != labels).sum() < N
    alone = run(attack, twin, Asked(engine), images, labels, slice(3, 9))
    # Another batch may round a score otherwise, which near a tie is another image.
    assert (alone == found[3:9]).flatten(1).all(1).sum() >= (6 if name == "straight-through" else 4)


def test_where_the_twin_is_the_engine_straight_through_is_pgd(twin, images):
    labels = twin(images).argmax(1)
    for more in ({}, {"restarts": 3, "loss": "margin", "alpha": 2 / 255}):
        found = run(StraightThrough(steps=10, **more), twin, Asked(twin), images, labels)
        plain = Pgd(steps=10, **more)(twin, images, labels, THREAT, Noise(7, torch.arange(N)))
        assert torch.equal(found, plain)


def test_the_engine_decides_what_is_kept_and_when_an_image_rests(twin, images):
    """Of an engine that is another net the attack finds more than what the twin alone would propose."""
    labels, engine = twin(images).argmax(1), copy.deepcopy(twin)
    engine[1].weight += 0.02 * torch.randn(24, 64, generator=torch.Generator().manual_seed(4))
    right = engine(images).argmax(1) == labels
    asked = Asked(engine)
    found = run(StraightThrough(steps=10), twin, asked, images, labels)
    plain = Pgd(steps=10)(twin, images, labels, THREAT, Noise(7, torch.arange(N)))
    fell, by_twin = ((engine(each).argmax(1) != labels) & right for each in (found, plain))
    assert fell.sum() > by_twin.sum()
    # One query for each step and one more; an image that has fallen is asked no more.
    assert asked.queries.max() == 11
    assert (asked.queries[~(engine(found).argmax(1) != labels)] == 11).all()
    assert asked.queries[fell].float().mean() < 11


@pytest.mark.parametrize(
    "change", [lambda s: torch.softmax(100 * s, 1), lambda s: nn.functional.one_hot(s.argmax(1), 5).float()]
)
def test_scores_that_say_nothing_leave_the_slope_to_the_twin(change, twin, images):
    labels = twin(images).argmax(1)
    asked = Asked(twin, change)
    found = run(StraightThrough(steps=10), twin, asked, images, labels)
    plain = Pgd(steps=10)(twin, images, labels, THREAT, Noise(7, torch.arange(N)))
    fell, by_twin = ((twin(each).argmax(1) != labels) for each in (found, plain))
    assert fell.sum() >= by_twin.sum() - 2 > 0


def test_scores_are_alike_up_to_a_quarter_of_their_span():
    own = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    assert alike(own + torch.tensor([[0.9, 0.0], [1.1, 0.0]]), own).tolist() == [True, False]


@pytest.mark.parametrize("steps", [{"steps": 0}, {"restarts": 0}, {"loss": "none"}])
def test_options_that_mean_nothing_are_refused(steps):
    assert ENGINE_ATTACKS.problems("straight-through", steps)


def test_a_divergence_is_one_where_the_twin_is_right_and_nothing_is_found_of_equals(twin, images):
    labels, engine = twin(images).argmax(1), copy.deepcopy(twin)
    labels[:5] = (labels[:5] + 1) % 5
    asked = Asked(twin)
    assert torch.equal(run(Divergence(), twin, asked, images, labels), images)
    # What the twin gets wrong as it is, is left alone.
    assert (asked.queries[:5] == 0).all()
    assert asked.queries[5:].max() == 1 + 5 * 7
    engine[3].weight += 3e-3 * torch.randn(5, 24, generator=torch.Generator().manual_seed(4))
    found = run(Divergence(), twin, Asked(engine), images, labels)
    moved = (found != images).flatten(1).any(1)
    assert moved.sum() > 3
    assert (twin(found).argmax(1)[moved] == labels[moved]).all()
    assert (engine(found).argmax(1)[moved] != labels[moved]).all()
    # As many random images of the box show nothing.
    drawn = (torch.rand(36, *images.shape, generator=torch.Generator().manual_seed(3)) * 2 - 1) * THREAT.eps
    random = torch.round((images + drawn).clamp(0, 1) * 255) / 255
    differ = [(twin(each).argmax(1) == labels) & (engine(each).argmax(1) != labels) for each in random]
    assert torch.stack(differ).any(0).sum() < moved.sum() / 3


def test_a_clean_image_that_divides_the_two_is_one_already(twin, images):
    labels, engine = twin(images).argmax(1), copy.deepcopy(twin)
    engine[3].bias += torch.tensor([0.0, 0.5, -0.5, 0.0, 0.0])
    already = engine(images).argmax(1) != labels
    assert already.any()
    asked = Asked(engine)
    found = run(Divergence(rounds=1, walks=0), twin, asked, images, labels)
    assert torch.equal(found[already], images[already])
    assert (asked.queries[already] == 1).all()
