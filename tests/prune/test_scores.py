from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from trainings import step_of

from robustdeploy.core.recipe import Budget
from robustdeploy.core.registry import PRUNERS
from robustdeploy.cost.module import params
from robustdeploy.errors import BudgetError, RecipeError, TrainingError
from robustdeploy.prune.protocol import PhaseInfo
from robustdeploy.prune.scores import Scores

SCORING = PhaseInfo("scores", "scores")


def small():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 10))


def wrapped(budget):
    pruning = Scores().wrap(small(), (1, 8, 8), budget)
    pruning.on_phase(SCORING)
    return pruning


def test_scores_begin_as_scaled_weights_and_the_largest_stay():
    pruning = wrapped(Budget(params=0.5))
    for score, keep, layer in zip(pruning.scorer.scores, pruning.keeps, (0, 2, 6), strict=True):
        weight = pruning.net[layer].weight.detach()
        fan_in = weight.shape[1:].numel()
        assert torch.allclose(score, math.sqrt(6 / fan_in) * weight / weight.abs().max())
        assert weight.abs()[keep].min() >= weight.abs()[~keep].max()


@pytest.mark.parametrize("budget", [{"params": 0.5}, {"ops": 0.3}, {"params": 200, "ops": 0.9}])
def test_every_layer_keeps_the_largest_share_that_every_limit_allows(budget):
    pruning = wrapped(Budget(**budget))
    sizes = [keep.numel() for keep in pruning.keeps]
    kept = [int(keep.sum()) for keep in pruning.keeps]
    dense = {cost.name: cost.dense for cost in pruning._costs}
    limits = {name: amount * dense[name] if amount <= 1 else amount for name, amount in budget.items()}
    assert all(pruning.costs()[name] <= limit for name, limit in limits.items())
    share = max(count / size for count, size in zip(kept, sizes, strict=True))
    assert all(count == max(1, math.floor(share * size)) for count, size in zip(kept, sizes, strict=True))
    next_share = min((count + 1) / size for count, size in zip(kept, sizes, strict=True)) + 1e-9
    more = [max(1, math.floor(next_share * size)) for size in sizes]
    costs = {cost.name: cost.of(more) for cost in pruning._costs}
    assert any(costs[name] > limit for name, limit in limits.items())


def test_the_gradient_of_a_score_is_that_of_its_mask():
    """In plain torch: d loss / d mask · sign(score), for the masked weights too."""
    pruning = wrapped(Budget(params=0.4))
    images = torch.rand(5, 1, 8, 8)
    masks = [keep.float().requires_grad_() for keep in pruning.keeps]
    plain = small()
    values = {f"{n}.weight": plain[n].weight * mask for n, mask in zip((0, 2, 6), masks, strict=True)}
    torch.func.functional_call(plain, values, (images,)).square().sum().backward()
    pruning(images).square().sum().backward()
    for score, mask, keep in zip(pruning.scorer.scores, masks, pruning.keeps, strict=True):
        assert torch.allclose(score.grad, mask.grad * score.detach().sign(), atol=1e-6)
        assert score.grad[~keep].abs().sum() > 0


def test_weights_are_left_out_and_come_back_as_their_scores_say():
    pruning = wrapped(Budget(params=0.4))
    before = [keep.clone() for keep in pruning.keeps]
    with torch.no_grad():
        for score, keep in zip(pruning.scorer.scores, pruning.keeps, strict=True):
            score[~keep] *= 1e6
    pruning.before_step(step_of(1))
    pruning.after_step(0.5)
    assert all((was & now).sum() < was.sum() for was, now in zip(before, pruning.keeps, strict=True))
    assert pruning.status()["mask_flips"] > 0
    pruning.finalize()
    chosen = [keep.clone() for keep in pruning.keeps]
    with torch.no_grad():
        for score in pruning.scorer.scores:
            score.neg_().exp_()
    pruning.after_step(1.0)
    pruning.on_phase(PhaseInfo("fine-tune", "weights"))
    assert all(torch.equal(was, now) for was, now in zip(chosen, pruning.keeps, strict=True))


def test_the_compact_net_has_zeros_where_nothing_is_kept():
    pruning = wrapped(Budget(params=0.3))
    with pytest.raises(TrainingError, match="not reached"):
        pruning.compact()
    pruning.finalize()
    plain, images = pruning.compact().eval(), torch.rand(4, 1, 8, 8)
    assert torch.equal(plain(images), pruning.eval()(images))
    nonzero = sum(int((value != 0).sum()) for value in plain.parameters())
    assert nonzero == pruning.costs()["params"] <= 0.3 * params(plain)
    assert pruning.kept()["2"].numel() == int((plain[2].weight != 0).sum())


def test_what_cannot_be_reached_and_a_senseless_rate_are_refused():
    with pytest.raises(BudgetError, match=r"out of reach: the smallest .* one weight in each layer"):
        wrapped(Budget(params=10))
    with pytest.raises(BudgetError, match="no convolution or linear layer"):
        Scores().wrap(nn.Sequential(nn.Flatten(), nn.LayerNorm(4)), (1, 2, 2), Budget(ops=0.5))
    with pytest.raises(RecipeError, match="lr: must be above 0"):
        PRUNERS.build("scores", {"lr": 0})
    assert wrapped(Budget()).status()["nonzero_params"] == 1.0


class TwoNames(nn.Module):
    """One layer that is known by two names, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.d = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.d
        self.fc = nn.Linear(4, 10)

    def forward(self, images):
        return self.fc(self.again(self.d(self.first(images)).relu()).mean((2, 3)))


class OldNorm(nn.Module):
    """A weight that is worked out anew in every forward pass, as torch did before parametrizations."""

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.first = nn.utils.weight_norm(nn.Conv2d(1, 4, 3, padding=1))
        self.fc = nn.Linear(4, 10)

    def forward(self, images):
        return self.fc(self.first(images).relu().mean((2, 3)))


@pytest.mark.parametrize("make", [TwoNames, OldNorm])
def test_the_compact_net_of_an_unusual_net_scores_alike(make):
    torch.manual_seed(0)
    net = make()
    pruning = Scores().wrap(net, (1, 8, 8), Budget(params=0.85))
    pruning.on_phase(SCORING)
    images = torch.rand(6, 1, 8, 8)
    pruning(images).sum().backward()
    pruning.finalize()
    with torch.no_grad():
        assert torch.allclose(pruning(images), pruning.compact()(images), atol=1e-6)
    assert bool(pruning.whole) == (make is OldNorm)


# --- learnt rates (HARP), and channels


def wide():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return net.extend([nn.Flatten(), nn.Linear(32, 10)])


def learnt(budget, net=None, **options):
    pruning = Scores(rates="learned", **options).wrap(net or small(), (1, 8, 8), budget)
    pruning.on_phase(PhaseInfo("scores", "scores", epochs=2, steps=8))
    return pruning


def test_the_gradient_of_a_rate_is_that_of_its_layers_masks_summed():
    pruning = learnt(Budget(params=0.2))
    images, rates = torch.rand(5, 1, 8, 8), pruning.scorer.rates
    assert rates.shares().tolist() == pytest.approx([max(0.1, rates.least / 0.1)] * 3)
    masks = [keep.float().requires_grad_() for keep in pruning.keeps]
    plain = small()
    values = {f"{n}.weight": plain[n].weight * mask for n, mask in zip((0, 2, 6), masks, strict=True)}
    torch.func.functional_call(plain, values, (images,)).square().sum().backward()
    pruning(images).square().sum().backward()
    slope = (1 - rates.least) * torch.sigmoid(rates.rates.detach()) * torch.sigmoid(-rates.rates.detach())
    expected = torch.stack([mask.grad.sum() for mask in masks]) * slope
    assert torch.allclose(rates.rates.grad, expected, rtol=1e-4)


def test_the_penalty_is_gamma_times_what_is_over_the_budget_and_gamma_grows_until_an_epoch_is_within():
    pruning = learnt(Budget(params=0.2), gamma=0.5)
    rates = pruning.scorer.rates
    with torch.no_grad():
        rates.rates.copy_(torch.tensor([0.0, 1.0, -1.0]))
    sizes, dense = torch.tensor([36.0, 288.0, 80.0]), params(pruning.net)
    excess = ((rates.shares() * sizes).sum() + (dense - sizes.sum())) / int(0.2 * dense) - 1
    assert excess > 0
    for epoch in (1, 2, 3):
        penalty = pruning.penalty(step_of(1))
        assert penalty.item() == pytest.approx(0.5 * epoch * excess.item(), rel=1e-5)
        (found,) = torch.autograd.grad(penalty, rates.rates)
        (expected,) = torch.autograd.grad(0.5 * epoch * excess, rates.rates, retain_graph=True)
        assert torch.allclose(found, expected, rtol=1e-4)
        for _ in range(4):
            pruning.after_step(0.5)
    with torch.no_grad():
        rates.rates.fill_(-9.0)
    for _ in range(8):
        pruning.after_step(0.5)
    assert pruning.penalty(step_of(1)).item() == 0
    with torch.no_grad():
        rates.rates.copy_(torch.tensor([0.0, 1.0, -1.0]))
    assert pruning.penalty(step_of(1)).item() == pytest.approx(0.5 * 4 * excess.item(), rel=1e-5)


@pytest.mark.parametrize("budget", [{"params": 0.2}, {"ops": 0.3}, {"params": 0.5, "ops": 0.1}])
def test_rates_are_shifted_alike_until_the_budget_is_met_to_the_weight(budget):
    pruning = learnt(Budget(**budget))
    with torch.no_grad():
        pruning.scorer.rates.rates.copy_(torch.tensor([2.0, 0.0, -1.0]))
    pruning.finalize()
    limits = {name: amount * pruning._costs[("ops", "params").index(name)].dense for name, amount in budget.items()}
    rooms = {name: limit - pruning.costs()[name] for name, limit in limits.items()}
    assert all(room >= 0 for room in rooms.values())
    dearest = {cost.name: max(cost.each) for cost in pruning._costs}
    assert min(room / dearest[name] for name, room in rooms.items()) < 1
    shares = [float(keep.float().mean()) for keep in pruning.keeps]
    assert shares == sorted(shares, reverse=True)


def test_channel_scores_begin_as_the_sums_of_their_own_weights():
    """The released program takes the numbers as they lie, which adds up those of several channels."""
    net = wide()
    pruning = Scores(of="channels").wrap(net, (1, 8, 8), Budget(ops=0.5))
    pruning.on_phase(SCORING)
    for group, score in zip(pruning.groups, pruning.scorer.scores, strict=True):
        sums = net.get_submodule(group.name).weight.detach().abs().sum((1, 2, 3))
        assert torch.allclose(score, sums / sums.max())
    pruning.train()(torch.rand(5, 1, 8, 8)).square().sum().backward()
    assert all((score.grad[~keep] != 0).any() for score, keep in zip(pruning.scorer.scores, pruning.keeps, strict=True))


def test_learnt_shares_of_channels_meet_the_budget_with_the_higher_rate_denser():
    pruning = learnt(Budget(ops=0.2), wide(), of="channels")
    names = [group.name for group in pruning.groups]
    with torch.no_grad():
        pruning.scorer.rates.rates.copy_(torch.tensor([1.5 if name == "0" else -1.5 for name in names]))
    (found,) = torch.autograd.grad(pruning.penalty(step_of(1)), pruning.scorer.rates.rates)
    assert (found > 0).all()
    pruning.finalize()
    assert 0.97 * 0.2 < pruning.status()["ops"] <= 0.2
    kept = {name: len(index) for name, index in pruning.kept().items()}
    assert kept["0"] > 2 * kept["2"]
