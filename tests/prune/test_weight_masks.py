"""The net under weight masks, whatever rule sets them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from trainings import step_of

from robustdeploy.core.recipe import Budget, Data, Train
from robustdeploy.cost.module import macs, params
from robustdeploy.cost.sparse import nonzero_macs, nonzero_params, patterned_layers
from robustdeploy.data.load import load_data
from robustdeploy.errors import TrainingError
from robustdeploy.nets.channel_pad import ChannelPad
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.courses import EVERY, Cubic
from robustdeploy.prune.masked_weights import MaskedWeights
from robustdeploy.prune.n_m import NM
from robustdeploy.prune.weight_budget import maskable
from robustdeploy.prune.weight_masks import WeightMasks
from robustdeploy.prune.weights import Weights
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import Plan, single_phase
from robustdeploy.train.tasks.fastat import FastAt

CASES = [(Weights(), Budget(ops=0.2)), (Weights(), Budget(params=0.3)), (NM(), Budget()), (NM(n=1, m=2), Budget())]


def small():
    torch.manual_seed(0)
    body = [nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.fixture(params=CASES, ids=["ops", "params", "2:4", "1:2"])
def pruning(request):
    pruner, budget = request.param
    return pruner.wrap(small(), (4, 12, 12), budget)


@dataclass(frozen=True)
class Fixed:
    """A rule that is told the masks."""

    keeps: tuple[torch.Tensor, ...]

    def __call__(self, values, left):
        return list(self.keeps)


def under(net, shape, *keeps):
    layers = maskable(net, shape, Budget(), "masks")
    scorer = WeightMasks([net.get_parameter(weight.name) for weight in layers.weights], layers.weights, 0.01)
    return MaskedWeights(net, layers, scorer, Fixed(keeps), Cubic(0.1, 0.5))


def test_the_gradients_are_those_worked_out_by_hand():
    """Two inputs, one output, loss = score: the gradient of each masked weight is its pixel."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[3.0, -4.0]]))
    pruning = under(net, (1, 1, 2), torch.tensor([[True, False]]))
    with torch.no_grad():
        pruning.scorer.logits[0].copy_(torch.tensor([[0.0, 1.0]]))
    pruning.after_step(0.2)
    score = pruning(torch.tensor([0.5, 0.25]).view(1, 1, 1, 2))
    assert score.item() == 1.5  # 3 · 0.5; the other is masked
    score.sum().backward()
    pruning.before_step(step_of(1))
    assert net[1].weight.grad.tolist() == [[0.5, 0.0]]
    # d score / d mask = pixel · weight = (1.5, -1), divided by its root mean square, times ½(1 - tanh²M).
    size = ((1.5**2 + 1) / 2) ** 0.5
    slope = 0.5 * (1 - torch.tanh(torch.tensor(1.0)).item() ** 2)
    assert pruning.scorer.logits[0].grad.flatten().tolist() == pytest.approx(
        [1.5 / size * 0.5, -1 / size * slope], rel=1e-5
    )


def test_the_masks_gradient_is_the_same_however_many_processes_share_the_batch():
    """A process has the gradient of its part's loss; the mean over processes is what the step sees."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pruning = Weights().wrap(net, (3, 6, 6), Budget(ops=0.5))

    def gradients(parts):
        pruning.zero_grad()
        labels = torch.arange(8) % 3
        for part, own in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            (nn.functional.cross_entropy(pruning(part), own) / parts).backward()
        pruning.before_step(step_of(len(images) // parts))
        return torch.cat([m.grad.flatten() for m in pruning.scorer.logits])

    alone = gradients(1)
    assert float(alone.square().mean().sqrt()) == pytest.approx(0.5, rel=1e-3)
    assert torch.allclose(gradients(4), alone, rtol=1e-4, atol=1e-5)


def test_a_masked_weight_comes_back_when_its_gradient_asks_for_it():
    """The loss wants the score low; the weight of -4 helps, so its M rises until it is above the other's."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[4.0, -3.9]]))
    pruning = Weights(warmup=0, freeze=0.9).wrap(net, (1, 1, 2), Budget(ops=0.5))
    own = torch.optim.SGD(pruning.own_parameters(), lr=0.1)
    pruning.steps.zero_()
    found = []
    for _ in range(4 * EVERY):
        pruning.after_step(0.899)  # all but the end of the way
        own.zero_grad()
        pruning(torch.ones(1, 1, 1, 2)).sum().backward()
        own.step()
        found.append(pruning.kept()["1"].tolist())
    assert found[0] == [0]
    assert found[-1] == [1]
    assert net[1].weight.tolist() == [[4.0, pytest.approx(-3.9)]]  # only the masks were trained


def test_all_weights_stay_and_learn_during_the_warm_up(pruning):
    net, images = pruning.net, torch.rand(3, 4, 12, 12)
    pruning.eval()
    pruning.after_step(0.05)
    assert torch.equal(pruning(images), net(images))
    assert all(keep.all() for keep in pruning.keeps)
    pruning(images).square().sum().backward()
    assert all((m.grad != 0).any() for m in pruning.scorer.logits)


def test_masks_are_set_anew_in_every_tenth_step_and_at_the_freeze(pruning):
    generator, seen = torch.Generator().manual_seed(0), []
    for step in range(2 * EVERY + 1):
        with torch.no_grad():
            for m in pruning.scorer.logits:
                m.normal_(0, 2, generator=generator)
        pruning.after_step(0.3 + 0.001 * step)
        seen.append(pruning.kept())
    changed = [i for i in range(1, len(seen)) if any((seen[i][k].tolist() != seen[i - 1][k].tolist()) for k in seen[i])]
    assert changed == [EVERY, 2 * EVERY]
    masks = [{name: set(kept[name].tolist()) for name in kept} for kept in seen]
    whole = {weight.layer: set(range(weight.size)) for weight in pruning.weights}
    flips = sum(len(one[name] ^ other[name]) for one, other in pairwise([whole, *masks]) for name in whole)
    assert pruning.status()["mask_flips"] == flips > 0
    assert not pruning.is_frozen
    pruning.after_step(0.7)
    assert pruning.is_frozen


def test_nothing_moves_after_the_freeze(pruning):
    with pytest.raises(TrainingError, match="not reached their budget"):
        pruning.compact()
    pruning.after_step(0.7)
    kept = pruning.kept()
    with torch.no_grad():
        for m in pruning.scorer.logits:
            m.normal_()
    pruning.after_step(0.6)
    assert all(torch.equal(index, kept[layer]) for layer, index in pruning.kept().items())
    loss = pruning(torch.rand(2, 4, 12, 12)).sum()
    loss.backward()
    assert all(m.grad is None for m in pruning.scorer.logits)
    for weight, keep in zip(pruning.weights, pruning.keeps, strict=True):
        assert (pruning.net.get_parameter(weight.name).grad[~keep] == 0).all()


def test_the_compact_net_is_plain_and_scores_like_the_masked_one(pruning):
    pruning.after_step(0.3)
    pruning.after_step(0.7)
    before = {name: value.clone() for name, value in pruning.net.state_dict().items()}
    compact = pruning.compact().eval()
    assert {name: value.shape for name, value in compact.state_dict().items()} == {
        n: v.shape for n, v in before.items()
    }
    assert all(torch.equal(value, pruning.net.state_dict()[name]) for name, value in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in compact.modules())
    for layer, index in pruning.kept().items():
        weight = compact.get_submodule(layer).weight.detach().flatten()
        assert torch.equal(torch.nonzero(weight).view(-1), index)
        assert torch.equal(weight[index], before[f"{layer}.weight"].flatten()[index])
    images = torch.rand(6, 4, 12, 12)
    proof = prove_equal(pruning.eval(), compact, images, images.flip(0))
    assert (proof.precision, proof.n) == ("float64", 6)
    assert max(proof.clean, proof.adversarial) < 1e-5


def test_a_twin_is_cut_in_the_same_places(pruning):
    pruning.after_step(0.7)
    twin = copy.deepcopy(pruning.net)
    with torch.no_grad():
        for value in twin.parameters():
            value.fill_(7)
    cut = pruning.compact(twin)
    for layer, index in pruning.kept().items():
        assert torch.equal(torch.nonzero(cut.get_submodule(layer).weight.flatten()).view(-1), index)
    assert all((value == 7).all() for value in twin.parameters())
    assert (cut.get_submodule("3").bias == 7).all()


def test_the_state_alone_goes_on_where_another_stopped(pruning):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for m in pruning.scorer.logits:
            m.normal_(generator=generator)
    for step in range(EVERY + 3):
        pruning.after_step(0.2 + 0.01 * step)
    state = {name: value.clone() for name, value in pruning.state_dict().items()}
    other = copy.deepcopy(pruning)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(state)
    for step in range(EVERY + 3, 2 * EVERY):
        for one in (pruning, other):
            one.after_step(0.2 + 0.01 * step)
    assert all(torch.equal(index, other.kept()[layer]) for layer, index in pruning.kept().items())
    assert {name for name in state if not name.startswith("net.")} >= {"steps", "frozen", "keep0", "scorer.logits.0"}


def test_the_same_values_give_the_same_masks(pruning):
    other = copy.deepcopy(pruning)
    for one in (pruning, other):
        one.after_step(0.3)
    assert all(torch.equal(a, b) for a, b in zip(pruning.keeps, other.keeps, strict=True))


def test_masks_learn_under_autocast(pruning):
    pruning.after_step(0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pruning(torch.rand(4, 4, 12, 12)).float().square().mean()
    loss.backward()
    for m in pruning.scorer.logits:
        assert m.grad.dtype == torch.float32
        assert torch.isfinite(m.grad).all()
        assert (m.grad != 0).any()


def test_channel_pads_lose_their_gain():
    net = nn.Sequential(nn.Conv2d(4, 4, 3), ChannelPad(4, 8), nn.Flatten(), nn.Linear(32, 2))
    pruning = NM().wrap(net, (4, 4, 4), Budget())
    pruning.after_step(0.9)
    assert pruning.compact()[1].gain is None
    assert net[1].gain is not None


def test_the_way_is_steep_first_and_its_options_are_checked():
    course = Cubic(warmup=0.2, freeze=0.6)
    assert [course.left(p, 0.6, 0, 0) for p in (0, 0.2, 0.4, 0.6, 1)] == pytest.approx([1, 1, 0.125, 0, 0])
    for wrong in ({"warmup": 0.5}, {"freeze": 1.0}, {"warmup": -0.1}, {"lr": 0}, {"lr": 2}):
        for pruner in (Weights, NM):
            with pytest.raises(ValueError, match=r"needed|lr .*above 0"):
                pruner(**{"lr": 0.01, "warmup": 0.1, "freeze": 0.5, **wrong})


def test_weights_compete_by_magnitude_per_fourth_root_of_price_and_by_their_m():
    """Nine weights of 1 that cost 16 MACs each and ten of 0.6 that cost 1: the cheap ones are worth more."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(1, 10))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[3].weight.fill_(-0.6)
    by_ops = Weights().wrap(net, (1, 4, 4), Budget(ops=0.5))
    dear, cheap = (value.flatten() for value in by_ops.values())
    assert (cheap / dear[0]).tolist() == pytest.approx([1.2] * 10)
    assert sum(float((2 * value).square().sum()) for value in by_ops.values()) / 19 == pytest.approx(1)
    by_params = Weights().wrap(net, (1, 4, 4), Budget(params=0.8))
    dear, cheap = (value.flatten() for value in by_params.values())
    assert (cheap / dear[0]).tolist() == pytest.approx([0.6] * 10)
    before = by_params.values()[0]
    with torch.no_grad():
        by_params.scorer.logits[0].fill_(0.3)
    assert torch.allclose(by_params.values()[0] - before, 0.5 * torch.tanh(torch.tensor(0.3)))


def digits_plan(data, steps, epochs):
    options = Train(epochs=epochs, batch_size=32, lr=0.2, precision="fp32")
    return Plan(
        train=data.train.select(torch.arange(32 * steps)),
        validation=data.validation,
        phases=(single_phase(FastAt(), options),),
        threat=Threat(eps=0.1),
        options=options,
        seed=0,
        shift=data.shift,
    )


def digits_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Normalised(ResidualNet(1, (8, 16, 16), 10, 1), [0.3], [0.4])


TRAINED = [(Weights(), Budget(ops=0.3)), (Weights(), Budget(params=0.3)), (NM(), Budget()), (NM(), Budget(ops=0.8))]


@pytest.mark.slow
@pytest.mark.parametrize(("pruner", "budget"), TRAINED, ids=["ops", "params", "2:4", "2:4-ops"])
@pytest.mark.alike(2)
def test_a_training_on_digits_learns_under_the_masks(pruner, budget, tmp_path):
    data, net = load_data(Data()), digits_net()
    shape = data.image_shape
    pruning = pruner.wrap(net, shape, budget)
    told = []
    trained = fit(net, pruning, digits_plan(data, 32, 10), tmp_path, lambda step, steps, numbers: told.append(numbers))
    compact = trained.net
    found = {"ops": nonzero_macs(compact, shape), "params": nonzero_params(compact)}
    assert found == pruning.costs()
    assert all(
        found[name] <= amount * {"ops": macs(net, shape), "params": params(net)}[name]
        for name, amount in budget.amounts.items()
    )
    assert set(patterned_layers(compact)) >= ({w.layer for w in pruning.weights} if isinstance(pruner, NM) else set())
    assert not isinstance(compact, MaskedWeights)
    assert max(trained.proof.clean, trained.proof.adversarial) < 1e-5
    shares = [numbers["nonzero_ops"] for numbers in told if "nonzero_ops" in numbers]
    assert shares[0] == 1
    assert shares[-1] == pruning.status()["nonzero_ops"] < 1
    assert sum(m.abs().sum() for m in pruning.scorer.logits) > 0
    with torch.no_grad():
        right = compact(data.validation.images.float() / 255).argmax(1) == data.validation.labels
    assert right.float().mean() > 0.7


@pytest.mark.slow
@pytest.mark.parametrize(("pruner", "budget"), TRAINED[::2], ids=["ops", "2:4"])
def test_a_stopped_training_ends_like_one_that_was_not(pruner, budget, tmp_path):
    data = load_data(Data())

    def train(folder, last=None):
        def progress(step, steps, numbers):
            if step == last:
                raise KeyboardInterrupt

        net = digits_net()
        pruning = pruner.wrap(net, data.image_shape, budget)
        plan = replace(digits_plan(data, 4, 10), options=Train(epochs=10, batch_size=32, lr=0.2, checkpoint_every_s=0))
        return fit(net, pruning, plan, folder, progress).net.state_dict(), pruning.kept()

    state, kept = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", last=17)
    again, kept_again = train(tmp_path / "stopped")
    assert all(torch.equal(index, kept_again[layer]) for layer, index in kept.items())
    assert all(torch.equal(value, again[name]) for name, value in state.items())
