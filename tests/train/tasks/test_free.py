from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from robustdeploy.core.asked import recipe_for
from robustdeploy.core.registry import TASKS
from robustdeploy.data.load import load_data
from robustdeploy.data.noise import Noise
from robustdeploy.errors import TrainingError, UsageError
from robustdeploy.onboard.types import Threat
from robustdeploy.train.protocol import Replaying
from robustdeploy.train.setup import plan_from
from robustdeploy.train.tasks.free import Free

EPS = 0.1


def batches(count, n=16):
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        images = torch.rand(n, 3, 8, 8, generator=generator)
        images[:, :, :2] = images[:, :, :2].round()
        yield images, torch.randint(0, 10, (n,), generator=generator)


def papers_training(model, data, m, lr):
    """Algorithm 1 of Shafahi et al. (2019): one pass back for the weights and for delta, delta never reset."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    delta = torch.zeros(16, 3, 8, 8)
    for x, y in data:
        for _ in range(m):
            perturbed = torch.clamp(x + delta, 0, 1).requires_grad_()
            loss = F.cross_entropy(model(perturbed), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            delta = torch.clamp(delta + EPS * perturbed.grad.sign(), -EPS, EPS)
    return delta, loss


def driven(task, model, data, lr):
    """What a loop does with a replaying task."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    perturbation, seen = None, []
    for images, labels in data:
        perturbation = task.start(images) if perturbation is None else perturbation
        for _ in range(task.replays):
            leaf = perturbation.detach().requires_grad_()
            parts = task.perturbed(model, images, labels, Threat(eps=EPS), leaf)
            optimiser.zero_grad()
            parts["loss"].backward()
            optimiser.step()
            perturbation = task.climb(leaf, leaf.grad, Threat(eps=EPS))
            seen.append(perturbation)
    return seen, parts["loss"]


@pytest.mark.parametrize("m", [1, 4])
def test_it_is_the_papers_training(m, plain_net):
    ours, theirs = plain_net(), plain_net()
    seen, loss = driven(Free(m), ours, batches(3), 0.05)
    delta, expected = papers_training(theirs, batches(3), m, 0.05)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float((seen[-1] - delta).abs().gt(1e-6).float().mean()) < 1e-3
    assert float(delta.abs().mean()) > EPS / 2
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_the_perturbation_stays_in_the_ball_and_the_images_in_the_box(seen, plain_net):
    net = seen(plain_net())
    perturbations, _ = driven(Free(3), net, batches(3), 0.05)
    assert all(float(p.abs().max()) <= EPS + 1e-7 and not p.requires_grad for p in perturbations)
    assert all(fed.min() >= 0 and fed.max() <= 1 for fed in net.images)
    assert len(net.images) == 9


def test_it_starts_from_the_images_themselves(seen, plain_net):
    net, ((images, labels),) = seen(plain_net()), batches(1)
    start = Free().start(images)
    assert (start.shape, start.dtype, start.device) == (images.shape, images.dtype, images.device)
    Free().perturbed(net, images, labels, Threat(eps=EPS), start.requires_grad_())
    assert torch.equal(net.images[0], images)


def test_a_pixel_that_is_cut_can_come_back(plain_net):
    """The slope where image plus perturbation leaves [0, 1] is that of the pixel at the edge."""
    ((images, labels),) = batches(1)
    leaf = torch.full_like(images, -0.05).requires_grad_()
    Free().perturbed(plain_net(), images, labels, Threat(eps=EPS), leaf)["loss"].backward()
    fed = (images - 0.05).clamp(0, 1).requires_grad_()
    F.cross_entropy(plain_net()(fed), labels).backward()
    cut = images < 0.05
    assert 0 < cut.sum() < cut.numel() / 2
    assert leaf.grad[cut].any()
    assert torch.allclose(leaf.grad, fed.grad, atol=1e-7)
    after = Free().climb(leaf, leaf.grad, Threat(eps=EPS))
    assert (after[cut & (leaf.grad > 0)] > 0).all()


def test_a_batch_by_itself_is_climbed_from_zero_with_the_weights_at_rest(seen, plain_net, batch):
    images, labels, noise = batch()
    net, before = seen(plain_net()), plain_net().state_dict()
    parts = Free(2)(net, images, labels, Threat(eps=EPS), noise)
    assert len(net.images) == 3
    assert all(torch.equal(net.inner.state_dict()[name], before[name]) for name, _ in net.inner.named_parameters())
    leaf = torch.zeros_like(images).requires_grad_()
    F.cross_entropy(plain_net()(images + leaf), labels).backward()
    assert torch.equal(net.images[0], images)
    assert torch.allclose(net.images[1], (images + EPS * leaf.grad.sign()).clamp(0, 1), atol=1e-6)
    again = Free(2)(plain_net(), images, labels, Threat(eps=EPS), Noise(99, torch.arange(16)))
    assert torch.equal(again["loss"], parts["loss"])


def test_clean_images_join_each_replay(seen, plain_net):
    net, ((images, labels),) = seen(plain_net()), batches(1)
    driven(Free(2, clean=0.5), net, [(images, labels)], 0.05)
    assert [len(fed) for fed in net.images] == [32, 32]
    assert all(torch.equal(fed[16:], images) for fed in net.images)


def test_a_loop_tells_it_from_the_others():
    assert [name for name in TASKS.names() if isinstance(TASKS.build(name, {}), Replaying)] == ["free"]


def test_fewer_epochs_than_replays_are_refused():
    given = recipe_for("digits-resnet8", overrides=["train.task={name: free, replays: 3}", "train.epochs=2"])
    with pytest.raises(UsageError, match=r"2 would leave images unseen; give 3 or more, or fewer replays"):
        plan_from(given, load_data(given.data), torch.device("cpu"))
    enough = recipe_for("digits-resnet8", overrides=["train.task={name: free, replays: 3}", "train.epochs=3"])
    assert plan_from(enough, load_data(enough.data), torch.device("cpu")).phases[0].objective == Free(replays=3)


def test_without_a_gradient_it_does_not_climb():
    with pytest.raises(TrainingError, match="so Free has no gradient to follow"):
        Free().climb(torch.zeros(2, 3, 8, 8), None, Threat(eps=EPS))
