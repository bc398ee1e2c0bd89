"""The information of masks, against torch.func and against linear algebra spelt out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call, grad, vmap
from trainings import step_of

from robustdeploy.core.recipe import Budget
from robustdeploy.data.noise import Noise
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.onboard.types import Threat
from robustdeploy.prune import masks
from robustdeploy.prune.information import worth_in_order
from robustdeploy.prune.masks import Masks
from robustdeploy.train.mixing import both
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.pgd import PgdAt
from robustdeploy.train.tasks.trades import divergence

SHAPE = (3, 16, 16)


def batch(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, generator=generator), torch.randint(10, (count,), generator=generator)


def loss_of(net, images, labels):
    return nn.functional.cross_entropy(net(images), labels)


class Gated(nn.Module):
    """A gate in squeeze-and-excitation's style, and a product of two maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.left, self.right = nn.Conv2d(16, 8, 3), nn.Conv2d(16, 8, 3)
        self.out = nn.Linear(8, 10)
        nn.init.normal_(self.excite.bias, 0, 2)

    def forward(self, images):
        maps = torch.relu(self.norm(self.conv(images)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(maps.mean((2, 3))))))
        maps = maps * gate[:, :, None, None]
        return self.out((self.left(maps) * self.right(maps)).mean((2, 3)))


class Tokens(nn.Module):
    """Linear layers whose channels come last, behind as many tokens."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16)
        self.up, self.down, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images):
        tokens = torch.relu(self.norm(self.patches(images))).flatten(2).transpose(1, 2)
        return self.out(torch.relu(self.down(torch.relu(self.up(tokens)))).mean(1))


class Mirrored(nn.Module):
    """The mean of an image's scores and its mirror image's."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
        self.out = nn.Linear(8, 10)

    def forward(self, images):
        scores = self.out(self.net(torch.cat([images, images.flip(3)])).mean((2, 3)))
        return (scores[: len(images)] + scores[len(images) :]) / 2


def nets():
    torch.manual_seed(0)
    return {
        "gated": Gated(),
        "tokens": Tokens(),
        "mirrored": Mirrored(),
        "residual": ResidualNet(1, (8, 16, 32), 10, 3),
        "in place": torchvision.models.resnet18(num_classes=10),
        "depthwise": torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35),
        "plain": nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2304, 10),
        ),
    }


@pytest.mark.parametrize("name", list(nets()))
@pytest.mark.parametrize("masked", [False, True])
def test_over_all_images_it_is_the_gradient_in_the_masks(name, masked):
    """In training mode, where images share the statistics, and for masked channels too."""
    pruning = Masks().wrap(nets()[name], SHAPE, Budget(ops=0.4)).train()
    if masked:
        pruning.after_step(0.25)
    images, labels = batch()
    loss_of(pruning, images, labels).backward()
    ((gates),) = pruning._image_gradients._gates
    summed = torch.cat([gate.grad.sum(0) for gate in gates])
    slope = 0.5 * (1 - torch.tanh(pruning.logits.detach()) ** 2)
    expected = pruning.logits.grad / slope
    assert float(expected.abs().max()) > 0
    assert torch.allclose(summed, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", list(nets()))
def test_the_gradient_in_a_mask_counts_what_is_read_of_its_channel_once(name):
    """Scaling a channel wherever a layer reads it: the sum of input · gradient over all readers, in evaluation mode."""
    pruning = Masks().wrap(nets()[name], SHAPE, Budget(ops=0.4)).train()
    pruning.net.double().eval()
    modules, read = dict(pruning.net.named_modules()), {}

    def reading(layer):
        def hook(module, inputs):
            read[layer] = inputs[0].clone()
            read[layer].retain_grad()
            return (read[layer],)

        return hook

    readers = {member.layer for group in pruning.groups for member in group.members if member.side == "in"}
    for layer in readers:
        modules[layer].register_forward_pre_hook(reading(layer))
    images, labels = batch()
    loss_of(pruning, images.double(), labels).backward()
    expected = [torch.zeros(group.size, dtype=torch.float64) for group in pruning.groups]
    for group, total in zip(pruning.groups, expected, strict=True):
        for member in group.members:
            if member.side == "in":
                taken, slope = read[member.layer], read[member.layer].grad
                if isinstance(modules[member.layer], nn.Linear):
                    taken, slope = taken.movedim(-1, 1), slope.movedim(-1, 1)
                scaled = (taken * slope).detach().reshape(*taken.shape[:2], -1).sum((0, 2))
                total.index_add_(0, member.channels, scaled[member.positions])
    slope = 0.5 * (1 - torch.tanh(pruning.logits.detach()) ** 2)
    found, told = pruning.logits.grad / slope, torch.cat(expected).float()
    assert torch.allclose(found, told, rtol=1e-3, atol=1e-4 * float(told.abs().max()))


@pytest.mark.parametrize("name", ["residual", "depthwise", "gated", "tokens", "mirrored"])
def test_it_is_the_mean_over_images_of_their_own_gradients(name):
    """torch.func gives the gradient of each image's loss in a mask of its own; statistics are fixed for that."""
    pruning = Masks(lr=0.25).wrap(nets()[name], SHAPE, Budget(ops=0.4)).train()
    pruning.net.eval()
    images, labels = batch()

    def own_loss(masks, image, label):
        masked = pruning._folding.folded(torch.split(masks, pruning.sizes))
        scores = functional_call(pruning.net, masked, (image[None],))
        return nn.functional.cross_entropy(scores, label[None])

    gradients = vmap(grad(own_loss), (None, 0, 0))(torch.ones(sum(pruning.sizes)), images, labels).double().detach()
    loss_of(pruning, images, labels).backward()
    pruning.before_step(step_of(len(images)))  # with lr 1/4 and a look every fourth step, one look is all there is
    for found, own in zip(pruning._information(), gradients.split(pruning.sizes, 1), strict=True):
        expected = own.T @ own / len(images)
        assert torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("task", [0.0, 1e-6, 0.25, "trades"])
@pytest.mark.parametrize("passes", [1, 2])
def test_what_clean_and_attacked_images_tell_is_one_gradient_per_image(task, passes):
    """Whether the task scores them in one pass or, as one that is not ours might, in two."""
    pruning = Masks(lr=0.25).wrap(nets()["residual"], SHAPE, Budget(ops=0.4)).train()
    pruning.net.eval()
    images, labels = batch()
    attacked = batch(seed=1)[0]

    def loss(scores, on_clean, labels):
        if task == "trades":
            return nn.functional.cross_entropy(on_clean, labels) + 6 * divergence(scores, on_clean) / len(labels)
        ours, theirs = (nn.functional.cross_entropy(each, labels) for each in (scores, on_clean))
        return (1 - task) * ours + task * theirs

    def own_loss(masks, image, other, label):
        masked = pruning._folding.folded(torch.split(masks, pruning.sizes))
        scores = functional_call(pruning.net, masked, (torch.stack([other, image]),))
        return loss(scores[:1], scores[1:], label[None])

    whole = torch.ones(sum(pruning.sizes))
    gradients = vmap(grad(own_loss), (None, 0, 0, 0))(whole, images, attacked, labels).double().detach()
    scored = both(pruning, attacked, images) if passes == 1 else (pruning(attacked), pruning(images))
    loss(*scored, labels).backward()
    pruning.before_step(step_of(len(images)))
    for found, own in zip(pruning._information(), gradients.split(pruning.sizes, 1), strict=True):
        expected = own.T @ own / len(images)
        assert torch.allclose(found.double(), expected, rtol=2e-3, atol=1e-3 * float(expected.abs().max()))


def test_only_passes_whose_weights_learn_are_looked_at():
    pruning = Masks().wrap(nets()["residual"], SHAPE, Budget(ops=0.4)).train()
    images, labels = batch()
    moved = images.clone().requires_grad_()
    torch.autograd.grad(loss_of(pruning, moved, labels), moved)
    assert pruning._image_gradients.take(len(images)) is None
    with torch.no_grad():
        pruning(images)
    pruning.eval()
    loss_of(pruning, images, labels).backward()
    assert pruning._image_gradients.take(len(images)) is None
    pruning.train().after_step(1.0)
    loss_of(pruning, images, labels)
    assert pruning._image_gradients.take(len(images)) is None  # frozen


@pytest.mark.parametrize(("task", "watched"), [(FastAt(), 1), (PgdAt(steps=3), 1), (FastAt(clean=0.5), 1)])
def test_the_passes_of_an_attack_are_not_watched(task, watched):
    pruning = Masks().wrap(nets()["residual"], SHAPE, Budget(ops=0.4)).train()
    images, labels = batch()
    noise = Noise(0, torch.arange(len(images)))
    task(pruning, images, labels, Threat(eps=8 / 255), noise)["loss"].backward()
    assert len(pruning._image_gradients._gates) == watched
    assert pruning._image_gradients.take(len(images)) is not None


class Aside(nn.Module):
    """The second head learns nothing from the scores."""

    def __init__(self):
        super().__init__()
        self.first, self.aside, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(16, 10)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        maps = torch.relu(self.first(images))
        other = self.head(torch.relu(self.aside(maps)).mean((2, 3)))
        return self.out(maps.mean((2, 3))) + (other.detach() if self.training else other)


def test_a_group_that_the_loss_does_not_reach_is_worth_nothing():
    pruning = Masks().wrap(Aside(), SHAPE, Budget(ops=0.7)).train()
    images, labels = batch()
    loss_of(pruning, images, labels).backward()
    pruning.before_step(step_of(len(images)))
    worth = dict(zip((group.name for group in pruning.groups), torch.split(pruning.worth, pruning.sizes), strict=True))
    assert (worth["aside"] == 0).all()
    assert float(worth["first"].min()) > 0
    pruning.after_step(1.0)
    assert len(pruning.kept()["aside"]) < len(pruning.kept()["first"])


def test_it_looks_every_fourth_step_and_leaves_the_training_as_it_is():
    """The weights get the same gradients, bit for bit, whether the pass is watched or not."""
    images, labels = batch()
    pruning = Masks().wrap(nets()["residual"], SHAPE, Budget(ops=0.4)).train()
    found = []
    for step in range(6):
        pruning.zero_grad(set_to_none=True)
        loss_of(pruning, images, labels).backward()
        looked = bool(pruning._image_gradients._gates)
        assert looked == (step % 4 == 0)
        found.append({name: value.grad.clone() for name, value in pruning.net.named_parameters()})
        pruning.before_step(step_of(len(images)))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_wide_groups_are_worked_out_at_fewer_looks(monkeypatch):
    """What that takes grows with the cube of a group's channels; one that has learnt nothing yet does not wait."""
    monkeypatch.setattr(masks, "NARROW", 16)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 48, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10)]
    net = nn.Sequential(*layers)
    pruning = Masks().wrap(net, (3, 5, 5), Budget(ops=0.7)).train()
    images, labels = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    wide, narrow = pruning.worth.split(pruning.sizes)
    changed = []
    for _ in range(25):
        before = narrow.clone(), wide.clone()
        loss_of(pruning, images, labels).backward()
        pruning.before_step(step_of(len(images)))
        changed.append(tuple(not torch.equal(was, now) for was, now in zip(before, (narrow, wide), strict=True)))
        with torch.no_grad():
            net[0].weight.mul_(1.01)
    assert pruning.sizes == [48, 16]
    assert [step for step, (of_narrow, _) in enumerate(changed) if of_narrow] == list(range(0, 25, 4))
    assert [step for step, (_, of_wide) in enumerate(changed) if of_wide] == [0, 12, 24]


@pytest.mark.parametrize("seed", range(3))
def test_what_the_last_channels_add_is_the_schur_complement(seed):
    """The sum over the channels given up is 1ᵀ (C_RR − C_RK C_KK⁻¹ C_KR) 1, up to the ridge."""
    size = 9
    draws = torch.randn(200, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    draws *= torch.tensor([3.0**-i for i in range(size)], dtype=torch.float64)  # steep, so that nothing is pooled
    matrix = draws.T @ draws / len(draws)
    ridged = (matrix + 1e-3 * matrix.diagonal().mean() * torch.eye(size)).numpy()
    worth = worth_in_order(matrix).numpy()
    assert (np.diff(worth) <= 0).all()
    for kept in range(1, 5):
        k, r = np.arange(kept), np.arange(kept, size)
        explained = ridged[np.ix_(r, k)] @ np.linalg.solve(ridged[np.ix_(k, k)], ridged[np.ix_(k, r)])
        assert worth[kept:].sum() == pytest.approx((ridged[np.ix_(r, r)] - explained).sum(), rel=1e-6)


def test_a_channel_that_repeats_another_is_worth_nothing():
    said = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    repeated = torch.cat([said, said[:, :1]], 1)
    worth = worth_in_order(repeated.T @ repeated / 500).numpy()
    assert worth[2] < 0.01 * worth[1]
    assert worth.sum() == pytest.approx(float(repeated.sum(1).square().mean()), rel=0.01)


def test_worth_never_rises_and_numbers_that_cannot_be_factored_still_give_some():
    rising = torch.diag(torch.arange(1.0, 9.0))
    worth = worth_in_order(rising).numpy()
    assert np.allclose(worth, worth.mean())
    assert worth.sum() == pytest.approx(36, rel=0.01)
    broken = torch.tensor([[1.0, 5.0], [5.0, 1.0]])  # no matrix of squares
    assert torch.isfinite(worth_in_order(broken)).all()


def test_autocast_to_bf16_tells_nearly_the_same():
    def information(precision):
        pruning = Masks(lr=0.25).wrap(nets()["residual"], SHAPE, Budget(ops=0.4)).train()
        pruning.after_step(0.2)
        images, labels = batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = nn.functional.cross_entropy(pruning(images).float(), labels)
        loss.backward()
        pruning.before_step(step_of(len(images)))
        return torch.stack([matrix.trace() for matrix in pruning._information()])

    exact = information(torch.float32)
    assert float(exact.min()) > 0
    assert torch.allclose(information(torch.bfloat16), exact, rtol=0.2)
