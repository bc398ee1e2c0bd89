"""Every training task, held to the contract of ``Task``."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from robustdeploy.core.registry import TASKS
from robustdeploy.data.noise import Noise
from robustdeploy.errors import TrainingError
from robustdeploy.onboard.types import Threat

EPS = 0.1
REACH = {"standard": 0.0, "n-fgsm": 3 * EPS}
"""How far from its image the net may be fed one, where that is not eps."""
MIXING = [
    name
    for name in TASKS.names()
    if ("clean", 0.0) in {(f.name, f.default) for f in dataclasses.fields(TASKS.get(name))}
]
CHOICES = [
    *((name, {}) for name in TASKS.names()),
    *((name, {"clean": 0.25}) for name in MIXING),
    ("standard", {"l1": 0.1}),
    ("pgd", {"clean": 0.25, "l1": 0.1}),
    ("fgsm", {"draw": "truncated-normal"}),
]
ATTACKING = [choice for choice in CHOICES if choice[0] != "standard"]

NOISY = [(name, options) for name, options in ATTACKING if name not in ("free", "fgsm") or "draw" in options]
"""Those whose attack hangs on the noise."""


def called(choice):
    return "-".join([choice[0], *map(str, choice[1])])


@pytest.fixture(params=CHOICES, ids=called)
def choice(request):
    return request.param


def run(choice, net, batch, **changed):
    images, labels, noise = batch
    given = {"images": images, "labels": labels, "threat": Threat(eps=EPS), "noise": noise, **changed}
    return TASKS.build(*choice)(net, given["images"], given["labels"], given["threat"], given["noise"])


def test_the_tasks_that_take_clean_images_are_these():
    assert set(MIXING) >= {"fastat", "fgsm", "free", "n-fgsm", "pgd"}


def test_the_net_is_fed_images_inside_the_ball_and_the_box(choice, seen, plain_net, batch):
    net, (images, labels, noise) = seen(plain_net()), batch(40)
    run(choice, net, (images, labels, noise))
    for fed in net.images:
        halves = fed.split(len(images))
        assert len(halves) in (1, 2)
        assert all(float((half - images).abs().max()) <= REACH.get(choice[0], EPS) + 1e-6 for half in halves)
        assert fed.min() >= 0
        assert fed.max() <= 1


@pytest.mark.parametrize("choice", ATTACKING, ids=called)
def test_the_loss_is_taken_where_the_attack_has_gone(choice, seen, plain_net, batch):
    net, (images, labels, noise) = seen(plain_net()), batch()
    run(choice, net, (images, labels, noise))
    last = net.images[-1]
    way = (last[: len(images)] - images).abs()[(images > 0.2) & (images < 0.8)]
    assert float(way.mean()) > EPS / (4 if "draw" in choice[1] else 2)
    if len(last) > len(images):
        assert torch.equal(last[len(images) :], images)


def test_it_gives_scalars_and_leaves_all_else_alone(choice, plain_net, batch):
    net, (images, labels, noise) = plain_net(), batch()
    net[1].eval()  # someone froze this layer
    modes, before, generator = [m.training for m in net.modules()], images.clone(), torch.get_rng_state()
    parts = run(choice, net, (images, labels, noise))
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert images.grad is None
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert {"loss", "accuracy"} <= parts.keys()
    attacked = parts.pop("adversarial", None)
    assert (attacked is None) == (choice[0] == "standard")
    assert attacked is None or (attacked.shape == images.shape and not attacked.requires_grad)
    assert all(part.dim() == 0 and torch.isfinite(part) for part in parts.values())
    assert {name for name, part in parts.items() if part.requires_grad} == parts.keys() & {"loss", "mask_loss"}
    parts["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())
    assert images.grad is None


def test_the_mode_comes_back_even_when_the_net_fails(choice, plain_net, batch):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain_net()

        def forward(self, images):
            raise RuntimeError("out of memory")

    net = Failing()
    net.inner[1].eval()
    modes = [m.training for m in net.modules()]
    with pytest.raises(RuntimeError, match="out of memory"):
        run(choice, net, batch())
    assert [m.training for m in net.modules()] == modes


def test_the_same_noise_gives_the_same_bits(choice, seen, plain_net, batch):
    one, two = seen(plain_net()), seen(plain_net())
    torch.manual_seed(1)
    first = run(choice, one, batch())
    torch.manual_seed(2)
    second = run(choice, two, batch())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(a, b) for a, b in zip(one.images, two.images, strict=True))
    with torch.no_grad():
        third = run(choice, plain_net(), batch())
    assert all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("choice", NOISY, ids=called)
def test_other_noise_gives_another_attack(choice, seen, plain_net, batch):
    one, two = seen(plain_net()), seen(plain_net())
    run(choice, one, batch())
    run(choice, two, batch(), noise=Noise(8, torch.arange(16)))
    assert not torch.equal(one.images[-1], two.images[-1])


def test_an_image_is_attacked_alike_wherever_it_stands_in_the_batch(choice, seen, plain_net, batch):
    images, labels, noise = batch()
    images = images.double()  # so that sums of another order do not flip a sign
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    one, two = seen(plain_net().double()), seen(plain_net().double())
    parts = run(choice, one, (images, labels, noise))
    permuted = run(choice, two, (images[order], labels[order], noise.select(order)))
    for mine, other in zip(one.images, two.images, strict=True):
        for half, there in zip(mine.split(len(images)), other.split(len(images)), strict=True):
            assert torch.allclose(half[order], there, atol=1e-9, rtol=0)
    assert parts["loss"].item() == pytest.approx(permuted["loss"].item(), rel=1e-5)
    assert parts["accuracy"].item() == pytest.approx(permuted["accuracy"].item())


@pytest.mark.slow
def test_training_on_it_teaches_something(choice, plain_net):
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(64) % 4
    images = 0.3 * torch.rand(64, 3, 8, 8, generator=generator)
    for label in range(4):  # each class has one bright quarter
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[labels == label, :, row : row + 4, column : column + 4] += 0.6
    net, noise = plain_net(), Noise(5, torch.arange(64))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        parts = run(choice, net, (images, labels, noise))
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        losses.append(parts["loss"].item())
    assert losses[-1] < 0.5 * losses[0]
    assert parts["accuracy"].item() > 0.9


class Cut(nn.Module):
    """A net that quantises its input and has no gradient there."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner((images.detach() * 255).round() / 255)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("choice", ATTACKING, ids=called)
def test_a_net_that_cuts_the_graph_is_refused(choice, trainable, plain_net, batch):
    net = Cut(plain_net()).requires_grad_(trainable)
    with pytest.raises(TrainingError, match=r"cuts the graph between pixels and scores, so .* no gradient to follow"):
        run(choice, net, batch())


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_it_trains_a_masked_net_in_either_precision(choice, device, precision, frozen, make_pruning, digits, seen):
    _, pruning = make_pruning()
    if frozen:
        pruning.after_step(1.0)
    net = seen(pruning.to(device).train())
    images, labels = digits.train.images[:32].to(device).float() / 255, digits.train.labels[:32].to(device)
    noise = Noise(7, torch.arange(32, device=device))
    with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        parts = run(choice, net, (images, labels, noise))
    parts.pop("adversarial", None)
    assert all(part.dtype == torch.float32 and torch.isfinite(part) for part in parts.values())
    assert all(fed.dtype == torch.float32 for fed in net.images)
    parts["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pruning.net.parameters())
    assert (pruning.logits.grad is None) == frozen
    if choice[0] != "standard":
        way = (net.images[-1][:32] - images).abs().flatten(1).amax(1)
        # No image stays behind, as one without a slope would; where the lengths are drawn, some are short.
        assert float(way.min()) > EPS / (1000 if "draw" in choice[1] else 2)


@pytest.mark.parametrize("name", MIXING)
def test_clean_images_count_only_where_they_have_a_share(name, plain_net, batch):
    alone = run((name, {}), plain_net(), batch())
    none = run((name, {"clean": 0.0}), plain_net(), batch())
    half = run((name, {"clean": 0.5}), plain_net(), batch())
    assert set(alone) == set(none) == {"loss", "accuracy", "adversarial"}
    assert torch.equal(alone["loss"], none["loss"])
    assert set(half) == {"loss", "accuracy", "clean_accuracy", "adversarial"}
    assert half["loss"] < alone["loss"]


WRONG = [
    ("fastat", {"alpha": 0.0}, r"alpha must be in \(0, 1\], not 0"),
    ("n-fgsm", {"alpha": -0.1}, r"alpha must be in \(0, 1\], not -0.1"),
    ("n-fgsm", {"noise": -1.0}, "noise must be a multiple of eps, 0 or more, not -1"),
    ("n-fgsm", {"noise": float("inf")}, "noise must be a multiple of eps, 0 or more, not inf"),
    ("pgd", {"alpha": 1.5}, r"alpha must be in \(0, 1\], not 1.5"),
    ("pgd", {"alpha": float("nan")}, r"alpha must be in \(0, 1\], not nan"),
    ("pgd", {"steps": 0}, "steps must be at least 1, not 0"),
    ("trades", {"steps": -1}, "steps must be at least 1, not -1"),
    ("trades", {"alpha": 2.0}, r"alpha must be in \(0, 1\], not 2"),
    ("trades", {"beta": 0.0}, "beta must be above 0, not 0"),
    ("trades", {"beta": float("nan")}, "beta must be above 0, not nan"),
    ("anp-vs", {"suppression": -1.0}, "suppression must be 0 or more, not -1"),
    ("anp-vs", {"clean": 1.0}, r"clean must be in \[0, 1\)"),
    ("anp-vs", {"steps": 0}, "steps must be at least 1, not 0"),
    ("free", {"replays": 0}, "replays must be at least 1, not 0"),
    *((name, {"l1": l1}, "l1 must be 0 or more") for name in ("standard", *MIXING) for l1 in (-0.1, float("nan"))),
    *((name, {"clean": share}, r"clean must be in \[0, 1\)") for name in MIXING for share in (1.0, -0.1, float("nan"))),
]


@pytest.mark.parametrize(("name", "options", "sentence"), WRONG)
def test_an_option_out_of_range_is_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TASKS.get(name)(**options)
