"""Every pruner: the contract of ``Pruning``; those that remove channels on every net."""

from __future__ import annotations

import copy
import re
from itertools import product

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn
from trainings import step_of

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.recipe import Budget
from robustdeploy.core.registry import NETS, PRUNERS
from robustdeploy.cost import flop_counter, onnx_graph
from robustdeploy.cost.module import macs
from robustdeploy.data.noise import Noise
from robustdeploy.errors import BudgetError, TrainingError
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.nets.store import NetInfo, load_net, save_net
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.probing import operation_model
from robustdeploy.prune.protocol import PhaseInfo, StepData, lacking, load_own_state, own_parameters, own_state
from robustdeploy.prune.rehearsal import find_groups

OPS = (0.7, 0.3, 0.1)
REMOVE_CHANNELS = [name for name in PRUNERS.names() if getattr(PRUNERS.build(name, {}), "removes_channels", True)]
"""Pruners that make the net smaller; the others keep its shape and have tests of their own too."""


@pytest.fixture(params=REMOVE_CHANNELS)
def pruner(request):
    return PRUNERS.build(request.param, {})


@pytest.fixture
def masks():
    """The in-train masks, for what is theirs alone."""
    return PRUNERS.build("masks", {})


def randomised(net, generator):
    """Values that a training could leave: nothing may depend on a fresh net's ones and zeros."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return net


def begun(pruner, net, shape, ops, multiple=1):
    """Begin with a budget of ``ops``; return the pruning and the budget that it keeps to.

    The small nets cannot reach every one: the error must then name the nearest, which trying all choices confirms and
    which is taken instead.
    """
    try:
        return pruner.wrap(net, shape, Budget(ops=ops, channel_multiple=multiple)), ops
    except BudgetError as error:
        found = re.search(r"(allow is|found below it is) ([\d.e+-]+) of the operations \(([\d,]+) MACs\)", str(error))
        told, count = float(found[2]), int(found[3].replace(",", ""))
        below, above = nearest(net, shape, ops, multiple)
        assert told >= count / macs(net, shape) == pytest.approx(told, rel=1e-3)
        assert below is None or below <= 0.97 * ops * macs(net, shape)
        assert (count == below) if below is not None else (count == above)
        return pruner.wrap(net, shape, Budget(ops=told, channel_multiple=multiple)), told


def nearest(net, shape, ops, multiple):
    """The most MACs below a budget and the fewest above it, over every choice of channels in ``multiple``."""
    groups = find_groups(net, shape).groups
    model = operation_model(net, groups, shape)
    ladders = [sorted({*range(multiple, g.size, multiple), g.size}) for g in groups]
    table = np.array(list(product(*ladders)), dtype=float)
    counted = np.round(model.of(table))
    limit = ops * macs(net, shape)
    below, above = counted[counted <= limit], counted[counted > limit]
    return (int(below.max()) if below.size else None), (int(above.min()) if above.size else None)


def trained_by_chance(pruner, subject, ops, multiple=1, seed=0):
    """Attach, give the masks random values, and freeze; return the pruning, the dense MACs and the budget kept to."""
    generator = torch.Generator().manual_seed(seed)
    net = randomised(subject.net(), generator)
    dense = macs(net, subject.shape)
    pruning, ops = begun(pruner, net, subject.shape, ops, multiple)
    with torch.no_grad():
        for group in pruning.own_parameters():
            for parameter in group["params"]:
                parameter.normal_(0, 0.8, generator=generator)
        worths = torch.split(pruning.worth, pruning.sizes) if hasattr(pruning, "worth") else ()
        for worth in worths:  # groups differ in it, as in a training
            factor = float(torch.rand((), generator=generator)) + 0.05
            worth.copy_(factor / torch.arange(1, len(worth) + 1))
    pruning.after_step(0.3)
    pruning.after_step(1.0)
    return pruning.eval(), dense, ops


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.alike(20)
def test_the_budget_is_met_and_the_compact_net_is_the_masked_one(pruner, subject, ops):
    pruning, dense, ops = trained_by_chance(pruner, subject, ops)
    compact = pruning.compact()
    kept = pruning.kept()
    module = macs(compact, subject.shape)
    assert 0.97 * ops * dense < module <= ops * dense
    assert round(pruning.costs()["ops"]) == module == flop_counter.macs(compact, subject.shape)
    assert pruning.status()["ops"] == pytest.approx(module / dense, rel=1e-12)
    assert min(map(len, kept.values())) >= 1
    images = torch.randint(0, 256, (6, *subject.shape), generator=torch.Generator().manual_seed(5)) / 255
    labels = torch.arange(6)
    attacked = Fgsm()(compact, images, labels, Threat(eps=8 / 255), Noise(0, labels))
    proof = prove_equal(pruning, compact, images, attacked)
    assert (proof.precision, proof.n) == ("float64", 6)
    assert max(proof.clean, proof.adversarial) < 1e-5
    assert pruning.net.training is False
    assert macs(pruning.net, subject.shape) == dense  # the masked net itself keeps its size


@pytest.mark.parametrize("multiple", [4, 8])
@pytest.mark.alike(14)
def test_channels_are_kept_in_multiples(pruner, subject, multiple):
    pruning, *_ = trained_by_chance(pruner, subject, 0.5, multiple)
    sizes = dict(zip(pruning.kept(), (group.size for group in pruning.groups), strict=True))
    assert all(len(index) % multiple == 0 or len(index) == sizes[name] for name, index in pruning.kept().items())
    images = torch.rand(2, *subject.shape)
    prove_equal(pruning, pruning.compact(), images, images)


@pytest.mark.alike(9)
def test_every_mask_learns_from_the_loss(masks, subject):
    generator = torch.Generator().manual_seed(0)
    pruning, _ = begun(masks, randomised(subject.net(), generator), subject.shape, 0.7)
    own = [parameter for group in pruning.own_parameters() for parameter in group["params"]]
    with torch.no_grad():
        for parameter in own:
            parameter.normal_(0, 0.5, generator=generator)
    pruning.train().after_step(0.3)
    kept = pruning.kept()
    assert sum(map(len, kept.values())) < sum(group.size for group in pruning.groups)
    loss = pruning(torch.rand(8, *subject.shape, generator=generator)).square().mean()
    (by_loss,) = torch.autograd.grad(loss, own)
    for name, one in zip(kept, by_loss.split(pruning.sizes), strict=True):
        assert torch.isfinite(one).all()
        assert (one[kept[name]] != 0).float().mean() >= 0.25, name  # a channel may be dead under this batch, few are
    assert all(p.grad is None for p in pruning.net.parameters())


def test_a_masked_channel_still_learns_whether_to_come_back(masks):
    """The gradient is straight-through: that of a masked channel is what it would be worth, not nothing."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)])
    pruning = masks.wrap(net, (3, 12, 12), Budget(ops=0.5))
    own = [parameter for group in pruning.own_parameters() for parameter in group["params"]]
    pruning.train().after_step(0.2)
    loss = nn.functional.cross_entropy(pruning(torch.rand(32, 3, 12, 12, generator=generator)), torch.arange(32) % 10)
    (by_loss,) = torch.autograd.grad(loss, own)
    pairs = zip(by_loss.split(pruning.sizes), pruning.kept().values(), strict=True)
    gradient, kept = max(pairs, key=lambda pair: len(pair[0]) - len(pair[1]))
    masked = sorted(set(range(len(gradient))) - set(kept.tolist()))
    assert masked
    assert (gradient[masked] != 0).float().mean() > 0.5


def test_nothing_is_compacted_before_the_freeze_and_nothing_moves_after(pruner, users):
    pruning = pruner.wrap(users["doubled"](10, 3), (3, 12, 12), Budget(ops=0.5))
    with pytest.raises(TrainingError, match="not reached their budget"):
        pruning.compact()
    pruning.after_step(1.0)
    kept = pruning.kept()
    with torch.no_grad():
        for group in pruning.own_parameters():
            for parameter in group["params"]:
                assert not pruning(torch.rand(2, 3, 12, 12)).requires_grad
                assert parameter.grad is None
    pruning.after_step(1.0)
    assert all(torch.equal(index, kept[name]) for name, index in pruning.kept().items())


@pytest.mark.alike(9)
def test_a_twin_is_cut_as_the_net_is(pruner, subject):
    """Each number of a twin, say a momentum, stays with the weight it belongs to; the twin itself stays whole."""
    pruning, *_ = trained_by_chance(pruner, subject, 0.7)
    twin = copy.deepcopy(pruning.net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(3).add_(1)
    before = {name: value.clone() for name, value in twin.named_parameters()}
    small = dict(pruning.compact().named_parameters())
    cut = dict(pruning.compact(twin).named_parameters())
    assert list(cut) == list(small)
    assert all(torch.equal(cut[name], 3 * value + 1) for name, value in small.items())
    assert all(torch.equal(before[name], value) for name, value in twin.named_parameters())


@pytest.fixture(params=PRUNERS.names())
def wrapped(request):
    """Return a function that wraps a net of 8 and 16 channels with any of the pruners, at 0.6 of the operations."""

    def wrap():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3))
        net.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8)])
        return PRUNERS.build(request.param, {}).wrap(net, (4, 8, 8), Budget(ops=0.6))

    return wrap


def step_on(pruning):
    """What a step on four random images is told of, after the pass back."""
    pruning.module.train()
    torch.manual_seed(1)  # as the loop does in each step
    images, labels = torch.rand(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    nn.functional.cross_entropy(pruning.module(images), labels).backward()
    return StepData(images, labels, images + 0.01)


def moved(pruning, progress):
    """One step as the loop makes it, of a phase that trains all there is."""
    own = [{"params": list(pruning.net.parameters())}, *pruning.own_parameters()]
    sgd = torch.optim.SGD(own, lr=0.1)
    pruning.before_step(step_on(pruning))
    sgd.step()
    sgd.zero_grad()
    pruning.after_step(progress)


def test_a_pruning_has_all_that_the_loop_asks_for(wrapped):
    pruning = wrapped()
    assert lacking(pruning) == []
    assert lacking(object()) == sorted({*lacking(object()), "after_step", "module", "net", "on_phase", "penalty"})
    assert {id(value) for value in pruning.net.parameters()} <= {id(value) for value in pruning.module.parameters()}
    assert all(pruning.net.get_submodule(name) for name in pruning.features())
    groups = [parameter for group in pruning.own_parameters() for parameter in group["params"]]
    assert {id(value) for value in groups} <= {id(value) for value in own_parameters(pruning).values()}
    penalty = pruning.penalty(step_on(pruning))
    assert penalty is None or (penalty.dim() == 0 and penalty.requires_grad)


def test_its_own_state_is_all_but_the_nets_and_brings_everything_back(wrapped):
    one, other = wrapped(), wrapped()
    one.on_phase(PhaseInfo(steps=10))
    for progress in (0.2, 0.3):
        moved(one, progress)
    state = {name: value.clone() for name, value in own_state(one).items()}
    assert not {id(value) for value in state.values()} & {id(value) for value in one.net.state_dict().values()}
    assert len(state) + len(one.net.state_dict()) == len(one.module.state_dict())
    other.on_phase(PhaseInfo(steps=10))
    other.net.load_state_dict(one.net.state_dict())
    load_own_state(other, state)
    for pruning in (one, other):
        moved(pruning, 0.32)
        pruning.finalize()
    assert other.status() == one.status()
    assert all(torch.equal(other.kept()[name], index) for name, index in one.kept().items())
    with pytest.raises(KeyError, match="frozen"):
        load_own_state(other, {name: value for name, value in state.items() if name != "frozen"})


def test_in_a_phase_of_weights_masks_stay_and_in_one_of_scores_they_freeze_at_its_end(wrapped):
    pruning = wrapped()
    dense, images = copy.deepcopy(pruning.net).eval(), torch.rand(3, 4, 8, 8)
    pruning.on_phase(PhaseInfo("pretrain", "weights", last_of_scores=False))
    for _ in range(3):
        pruning.before_step(step_on(pruning))
        pruning.after_step(0.0)
    dense.load_state_dict(pruning.net.state_dict())
    assert torch.allclose(pruning.module.eval()(images), dense(images), atol=1e-6)
    assert pruning.status().get("mask_flips", 0) == 0
    pruning.on_phase(PhaseInfo("scores", "scores"))
    for progress in (0.2, 0.6, 0.9, 1.0):
        moved(pruning, progress)
        assert not pruning.is_frozen
    pruning.finalize()
    assert pruning.is_frozen
    assert pruning.costs()["ops"] <= 0.6 * macs(pruning.net, (4, 8, 8))
    prove_equal(pruning.module.eval(), pruning.compact().eval(), images, images)


def test_a_pruner_that_removes_channels_says_so(pruner, users):
    assert pruner.wrap(users["doubled"](10, 3), (3, 12, 12), Budget(ops=0.5)).removes_channels


def test_a_budget_out_of_reach_is_refused_before_training(pruner, users):
    with pytest.raises(BudgetError, match=r"budget of 0.001 of the operations .* is out of reach: the smallest"):
        pruner.wrap(users["flat"](10, 3), (3, 12, 12), Budget(ops=0.001))


def test_a_net_without_channels_to_remove_is_refused(pruner):
    with pytest.raises(
        BudgetError, match=r"no channels of this Sequential can be removed \(they are the net's output\)"
    ):
        pruner.wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), (3, 2, 2), Budget(ops=0.5))


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("subject", [*NETS.names(), "torchvision-resnet18", "torchvision-mobilenet"], indirect=True)
@pytest.mark.alike(12)
def test_a_compact_net_comes_back_bit_for_bit(pruner, subject, ops, tmp_path):
    pruning, *_ = trained_by_chance(pruner, subject, ops)
    compact = pruning.compact().eval()
    info = NetInfo(
        net=subject.choice,
        classes=tuple("0123456789"),
        image_shape=subject.shape,
        mean=[0.4] * subject.shape[0],
        std=[0.3] * subject.shape[0],
    )
    save_net(tmp_path, compact, info)
    again = load_net(tmp_path, trust=True)
    state = compact.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    images = torch.rand(3, *subject.shape)
    with torch.no_grad():
        assert torch.equal(again(images), compact(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.alike(2)
def test_the_onnx_file_counts_the_same(masks, subject, tmp_path):
    """The fourth count. Exports take seconds, so each net has one of the budgets, whichever its name falls on."""
    pruning, dense, ops = trained_by_chance(masks, subject, OPS[len(subject.name) % 3])
    compact = pruning.compact().eval()
    path = tmp_path / "net.onnx"
    program = torch.onnx.export(
        compact,
        (torch.zeros(2, *subject.shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        opset_version=20,
        verbose=False,
    )
    program.save(path)
    onnx.checker.check_model(path)
    assert onnx_graph.macs(path) == macs(compact, subject.shape) == round(pruning.costs()["ops"])
    assert 0.97 * ops * dense < onnx_graph.macs(path) <= ops * dense


def test_the_gradient_of_a_group_is_taken_to_second_order_and_gets_unit_size(masks, users):
    """In plain torch: what masking a kept channel, or taking back a masked one, changes in the loss."""
    pruning = masks.wrap(users["doubled"](10, 3), (3, 12, 12), Budget(ops=0.5))
    with torch.no_grad():
        pruning.logits.normal_(0, 0.7, generator=torch.Generator().manual_seed(3))
        pruning.information.uniform_(generator=torch.Generator().manual_seed(5))
        pruning.steps.fill_(1)  # a step that does not look at single images
    pruning.train().after_step(0.2)
    pruning(torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(4))).square().mean().backward()
    slope = 0.5 * (1 - torch.tanh(pruning.logits.detach()) ** 2)
    raw = (pruning.logits.grad / slope).split(pruning.sizes)
    squares = pruning.information.split([size**2 for size in pruning.sizes])
    pruning.before_step(step_of(8))
    scaled = (pruning.logits.grad / slope).split(pruning.sizes)
    for first, square, after, index in zip(raw, squares, scaled, pruning.kept().values(), strict=True):
        half = 0.5 * square.view(len(first), -1).diagonal()
        kept = torch.isin(torch.arange(len(first)), index)
        assert 0 < len(index) < len(first)
        whole = torch.where(kept, first - half, first + half)
        assert float(after.square().mean().sqrt()) == pytest.approx(1, rel=1e-4)
        assert torch.allclose(after / after.norm(), whole / whole.norm(), atol=1e-5)


def test_a_group_without_a_gradient_stays_finite(masks, users):
    pruning = masks.wrap(users["doubled"](10, 3), (3, 12, 12), Budget(ops=0.5))
    pruning.before_step(step_of(8))  # no gradient at all
    pruning.logits.grad = torch.zeros_like(pruning.logits)
    pruning.before_step(step_of(8))
    assert (pruning.logits.grad == 0).all()
    pruning.after_step(0.2)
    assert torch.isfinite(pruning.shifts).all()


def test_a_group_that_is_worth_more_keeps_more(masks):
    """And all others less, since the budget is the same."""

    def shares(group, factor):
        pruning = masks.wrap(ResidualNet(1, (16, 32, 64), 10, 3), (3, 16, 16), Budget(ops=0.4))
        falling = [1 / torch.arange(1.0, size + 1) for size in pruning.sizes]
        falling[group] *= factor
        pruning.worth.copy_(torch.cat(falling))
        pruning.after_step(1.0)
        return [len(index) / size for index, size in zip(pruning.kept().values(), pruning.sizes, strict=True)]

    alike = shares(0, 1.0)
    least = alike.index(min(alike))
    favoured = shares(least, 30.0)
    assert favoured[least] > alike[least]
    assert sum(favoured) - favoured[least] < sum(alike) - alike[least]


def test_masks_that_would_leak_through_an_activation_lie_behind_it(masks):
    """A sigmoid makes one half of a masked channel's zero, so the layer behind it has the masks, on what it reads."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sigmoid(), nn.Conv2d(16, 8, 3), nn.ReLU())
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)])
    pruning = masks.wrap(net, (3, 12, 12), Budget(ops=0.5))
    masked = {group.name: [(m.layer, m.side) for m in group.members if m.masked] for group in pruning.groups}
    assert masked == {"0": [("2", "in")], "2": [("2", "out")]}
    images = torch.rand(4, 3, 12, 12)
    pruning.train()(images).square().mean().backward()
    assert all((part != 0).any() for part in torch.split(pruning.logits.grad, [16, 8]))
    pruning.before_step(step_of(4))
    assert all((part != 0).any() for part in torch.split(pruning.information, [16 * 16, 8 * 8]))
    pruning.after_step(1.0)
    prove_equal(pruning.eval(), pruning.compact(), images, images)


class Fixed(nn.Module):
    """Its forward pass names a number of channels."""

    def __init__(self, trick):
        super().__init__()
        self.conv, self.out, self.trick = nn.Conv2d(3, 16, 3), nn.Linear(1600, 10), trick
        self.register_buffer("scale", torch.ones(16, 1, 1))

    def forward(self, images):
        maps = torch.relu(self.conv(images))
        return self.out((maps * self.scale).flatten(1) if self.trick == "buffer" else maps.view(-1, 1600))


class Ragged(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

    def forward(self, images):
        maps = torch.relu(self.conv(torch.cat([images, images[:1]])))
        return self.out(maps.mean((2, 3)))[: len(images)]


@pytest.mark.parametrize(
    ("net", "told"),
    [
        (lambda: Fixed("view"), "does it name a number of channels"),
        (lambda: Fixed("buffer"), "coupled to the buffer scale"),
        (Ragged, "not computed for each image by itself|a net must treat each image alike"),
    ],
)
def test_what_would_fail_in_the_middle_of_a_training_fails_before_it(pruner, net, told):
    with pytest.raises((BudgetError, TrainingError), match=told):
        pruner.wrap(net(), (3, 12, 12), Budget(ops=0.5))


def test_masks_that_look_at_single_images_refuse_activation_checkpointing(masks):
    net = torchvision.models.densenet.DenseNet(8, (2, 2), 16, num_classes=10, memory_efficient=True)
    with pytest.raises((BudgetError, TrainingError), match="is activation checkpointing on"):
        masks.wrap(net, (3, 32, 32), Budget(ops=0.5))


def test_the_masked_net_moves_to_another_device_as_a_whole(masks, users):
    """As the proof at the freeze does, from an accelerator to the processor; with the device that every torch has."""
    pruning = masks.wrap(users["dense"](10, 3), (3, 12, 12), Budget(ops=0.5))
    moved = copy.deepcopy(pruning).to("meta")
    left = {name for name, value in vars(moved).items() if isinstance(value, torch.Tensor) and not value.is_meta}
    assert left == set()
    assert moved.soft().is_meta
    masks = tuple(torch.ones(size, device="meta") for size in moved.sizes)
    assert all(value.is_meta for value in moved._folding.folded(masks).values())
