"""Beta-Bernoulli masks: formulas against numerical integration and sampling, and what becomes of them at the freeze."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from trainings import step_of

from robustdeploy.core.recipe import Budget
from robustdeploy.cost.module import macs
from robustdeploy.errors import BudgetError
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.prune.beta_bernoulli import BetaBernoulli, BetaMasks, log_one_minus_exp
from robustdeploy.prune.compact import prove_equal
from robustdeploy.prune.gates import versions
from robustdeploy.prune.protocol import PhaseInfo

SHAPE = (1, 10, 10)
CASES = [(0.5, 1.0, 0.3), (2.0, 3.0, 0.7), (0.3, 0.6, 0.05), (5.0, 0.8, 0.5), (1.0, 1.0, 1e-4)]


def raw(value):
    return float(np.log(np.expm1(value)))


def made(cases=CASES, **options):
    masks = BetaMasks([len(cases)], BetaBernoulli(**options), torch.device("cpu"))
    with torch.no_grad():
        masks.raw_a.copy_(torch.tensor([raw(a) for a, *_ in cases]))
        masks.raw_b.copy_(torch.tensor([raw(b) for _, b, *_ in cases]))
    masks.begin([], [], PhaseInfo(images=100))
    return masks


@pytest.mark.parametrize(("a", "b", "alpha"), CASES)
def test_the_divergence_is_that_of_the_two_densities(a, b, alpha):
    def term(x):
        log_q = np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-(x**a))
        return np.exp(log_q) * (log_q - stats.beta(alpha, 1).logpdf(x))

    # In t = -log x, as much of the mass lies next to 0.
    expected, _ = integrate.quad(lambda t: term(np.exp(-t)) * np.exp(-t), 1e-12, 200, limit=500)
    found = made([(a, b)], alpha=alpha).divergence().item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found > 0


def test_the_expectation_is_the_mean_of_kumaraswamys_distribution_and_of_many_draws():
    masks = made()
    torch.manual_seed(0)
    drawn = masks.factors(40_000)[0]
    expected = masks.expected()
    theirs = [torch.distributions.Kumaraswamy(torch.tensor(a), torch.tensor(b)).mean.item() for a, b, _ in CASES]
    assert torch.allclose(expected.float(), torch.tensor(theirs), rtol=1e-4)
    assert torch.allclose(drawn.mean(0).double(), expected, atol=0.01)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    sharp = made(temperature=1e-3)
    assert ((sharp.factors(2_000)[0] - 0.5).abs() > 0.499).float().mean() > 0.98


@pytest.mark.parametrize("start", [0.05, 0.24, 0.68, 0.99])
def test_a_mask_begins_with_the_expectation_that_is_asked_for(start):
    masks = BetaMasks([3, 2], BetaBernoulli(start=start), torch.device("cpu"))
    assert [part.shape[0] for part in masks.values([], [])] == [3, 2]
    assert all((mask == 1).all() for mask in masks.masks([]))  # nothing acts before it may learn
    masks.begin([], [], PhaseInfo(images=10))
    assert torch.allclose(torch.cat(masks.masks([])), torch.full((5,), start), atol=1e-6)


@pytest.mark.parametrize("a", [-40.0, -10.0, -3.0, 0.0, 20.0, 200.0])
@pytest.mark.parametrize("b", [-40.0, -10.0, 0.0, 50.0, 200.0])
def test_no_number_that_a_training_could_reach_gives_one_that_is_not_finite(a, b):
    masks = made()
    with torch.no_grad():
        masks.raw_a.fill_(a)
        masks.raw_b.fill_(b)
    drawn = masks.factors(2_000)[0]
    (drawn.mean() + masks.divergence() + masks.expected().sum()).backward()
    assert torch.isfinite(drawn).all()
    assert all(torch.isfinite(p.grad).all() for p in masks.parameters())
    assert masks.expected().min() >= 0
    assert masks.expected().max() <= 1 + 1e-9


def test_the_logarithm_is_exact_at_both_ends():
    x = torch.tensor([-1e-7, -1e-3, -1.0, -30.0])
    assert torch.allclose(log_one_minus_exp(x).double(), torch.log(-torch.expm1(x.double())), rtol=1e-5)


def small():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(12 * 36, 16), nn.ReLU(), nn.Linear(16, 10))


def begun(net=None, budget=None, **options):
    pruning = BetaBernoulli(**options).wrap(net or small(), SHAPE, budget or Budget(ops=0.5))
    pruning.on_phase(PhaseInfo(steps=10, images=64))
    with torch.no_grad():
        pruning.scorer.raw_a.normal_(0, 1.5, generator=torch.Generator().manual_seed(0))
    return pruning


def test_masks_are_drawn_for_each_image_while_they_learn_and_nowhere_else():
    pruning, image = begun(), torch.rand(1, *SHAPE).expand(16, -1, -1, -1)
    pruning.net.eval()[1].eval()
    pruning.training = True  # the masks alone, as batch normalisation would mix the images
    rows = pruning(image)
    assert len({tuple(row.tolist()) for row in rows}) == 16
    with versions(8):
        both = pruning(image)
    assert torch.equal(both[:8], both[8:])
    torch.manual_seed(5)
    one = pruning(image)
    torch.manual_seed(5)
    assert torch.equal(pruning(image), one)
    pruning.eval()
    state = torch.get_rng_state()
    still = pruning(image)
    assert torch.equal(still[0].expand_as(still), still)
    assert torch.equal(torch.get_rng_state(), state)
    pruning.train().on_phase(PhaseInfo("tune", "weights", last_of_scores=False))
    pruning.net.eval()
    assert torch.allclose(pruning(image), still, atol=1e-6)


def test_every_channels_mask_learns_from_the_loss_in_either_precision():
    for enabled in (False, True):
        pruning = begun(ResidualNet(1, (4, 8, 8), 10, 1)).train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = pruning(torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(1)))
        assert scores.dtype == (torch.bfloat16 if enabled else torch.float32)
        nn.functional.cross_entropy(scores.float(), torch.arange(64) % 10).backward()
        for value in (pruning.scorer.raw_a.grad, pruning.scorer.raw_b.grad):
            assert value.dtype == torch.float32
            assert torch.isfinite(value).all()
            assert (value != 0).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_at_the_freeze_the_expectations_go_into_the_weights(kind):
    """What is kept scores as it did, but for streams that a shortcut without parameters joins."""
    net = small() if kind == "plain" else ResidualNet(1, (4, 8, 8), 10, 1)
    pruning, images = begun(net, Budget(ops=0.5)), torch.rand(6, *SHAPE)
    pruning.eval()
    expected = [value.clone() for value in pruning.scorer.values([], [])]
    before, held = copy.deepcopy(pruning), copy.deepcopy(pruning.net)
    pruning.finalize()
    assert macs(pruning.compact(), SHAPE) <= 0.5 * macs(held, SHAPE)
    for keep, value in zip(pruning.keeps, expected, strict=True):
        assert keep.all() or value[keep].min() >= value[~keep].max()
    if kind == "plain":  # the same cut, made by hand under the masks of before
        hard = [value.float() * keep for value, keep in zip(expected, pruning.keeps, strict=True)]
        folded = before._folding.folded(hard)
        byhand = torch.func.functional_call(before.net, folded, (images,), tie_weights=False)
        assert torch.allclose(pruning(images), byhand, atol=1e-5)
    prove_equal(pruning, pruning.compact().eval(), images, 1 - images)


def test_without_a_budget_the_threshold_decides_and_one_channel_stays():
    pruning = begun(budget=Budget(), threshold=0.3)
    with torch.no_grad():
        pruning.scorer.raw_a[-16:] = -9.0  # all of the first group or of the last; one must stay
    expected = pruning.scorer.values([], [])
    pruning.after_step(0.4)
    assert not pruning.is_frozen
    pruning.after_step(0.5)
    counts = [max(1, int((value >= 0.3).sum())) for value in expected]
    assert [len(index) for index in pruning.kept().values()] == counts
    assert 1 in counts
    prove_equal(pruning.eval(), pruning.compact().eval(), torch.rand(3, *SHAPE), torch.rand(3, *SHAPE))


def test_without_a_budget_counts_are_raised_to_the_multiple():
    pruning = begun(budget=Budget(channel_multiple=4), threshold=0.3)
    expected = pruning.scorer.values([], [])
    pruning.finalize()
    for index, value in zip(pruning.kept().values(), expected, strict=True):
        above = max(1, int((value >= 0.3).sum()))
        assert len(index) == -(-above // 4) * 4


def test_the_divergence_is_added_once_for_all_images():
    pruning = begun(beta=2.0)
    penalty = pruning.penalty(step_of(4))
    assert penalty.item() == pytest.approx(2 * pruning.scorer.divergence().item() / 64, rel=1e-6)
    pruning.on_phase(PhaseInfo("tune", "weights", images=64))
    assert pruning.penalty(step_of(4)) is None


def test_the_prior_closes_masks_that_the_loss_does_not_hold():
    pruning = begun(lr=0.1)
    adam = torch.optim.Adam([pruning.scorer.raw_a, pruning.scorer.raw_b], lr=0.1)
    for _ in range(150):
        adam.zero_grad()
        pruning.scorer.divergence().backward()
        adam.step()
    assert pruning.scorer.expected().max() < 1e-3


@pytest.mark.parametrize("options", [{"start": 0.0}, {"freeze": 0.0}])
def test_an_option_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="must be above 0"):
        BetaBernoulli(**options)


def test_a_net_without_channels_to_remove_is_refused_without_a_budget_too():
    with pytest.raises(BudgetError, match="no channels"):
        BetaBernoulli().wrap(nn.Sequential(nn.Flatten(), nn.Linear(100, 10)), SHAPE, Budget())
