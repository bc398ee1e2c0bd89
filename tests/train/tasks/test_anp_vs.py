"""ANP-VS: two losses, each of which moves its own, and the training that they make."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from trainings import Stop, same, silent, state_of

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Budget
from robustdeploy.data.noise import Noise
from robustdeploy.errors import UsageError
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.beta_bernoulli import BetaBernoulli
from robustdeploy.train import ranks
from robustdeploy.train.batches import Batches
from robustdeploy.train.features import latent, vulnerability
from robustdeploy.train.loop import fit
from robustdeploy.train.mixing import both
from robustdeploy.train.plan import PlannedPhase
from robustdeploy.train.setup import phases_from
from robustdeploy.train.tasks.anp_vs import AnpVs
from robustdeploy.train.training import Training

SHAPE = (1, 8, 8)


def test_the_loss_is_both_cross_entropies_and_the_vulnerability(seen, plain_net, batch):
    images, labels, noise = batch()
    net, fresh = seen(plain_net()), plain_net()
    parts = AnpVs(suppression=0.7, steps=3)(net, images, labels, Threat(eps=0.1), noise)
    assert net.modes == [False] * 3 + [True]
    attacked = net.images[-1][:16]
    with latent(fresh) as maps:
        scores, on_clean = both(fresh, attacked, images)
    moved = vulnerability(maps)
    expected = (F.cross_entropy(on_clean, labels) + 2 * F.cross_entropy(scores, labels)) / 3 + 0.7 * moved
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["mask_loss"].item() == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-5)
    assert parts["vulnerability"].item() == pytest.approx(moved.item(), rel=1e-5)


def prepared(make_net, make_plan, **options):
    net = make_net()
    pruning = BetaBernoulli(**options).wrap(net, SHAPE, Budget(ops=0.5))
    return Training(net, pruning, make_plan(task=AnpVs(steps=2), options={"optimiser": "adam", "lr": 1e-3})), pruning


def numbers_of(training, batch_of):
    torch.manual_seed(3)
    return training.engine(training.task, batch_of, None)


@pytest.fixture
def batch_of(make_plan):
    return Batches(make_plan()).at(0)


def gradients(values):
    return [None if value.grad is None else value.grad.clone() for value in values]


def test_each_loss_moves_its_own_alone(make_net, make_plan, batch_of):
    """Against autograd: masks have the gradient of their loss and the prior, weights that of theirs."""
    training, pruning = prepared(make_net, make_plan)
    numbers = numbers_of(training, batch_of)
    weights, own = list(pruning.net.parameters()), [pruning.scorer.raw_a, pruning.scorer.raw_b]
    of_masks = torch.autograd.grad(numbers["mask_loss"], own, retain_graph=True)
    of_weights = torch.autograd.grad(numbers["loss"], weights, retain_graph=True)
    crossed = torch.autograd.grad(numbers["loss"], own, retain_graph=True)
    training.backward(numbers)
    assert all(torch.allclose(value.grad, wanted, atol=1e-8) for value, wanted in zip(own, of_masks, strict=True))
    assert all(torch.allclose(v.grad, wanted, atol=1e-8) for v, wanted in zip(weights, of_weights, strict=True))
    assert not any(torch.allclose(value.grad, other, atol=1e-8) for value, other in zip(own, crossed, strict=True))


def test_in_a_phase_of_scores_masks_learn_alone_and_after_the_freeze_weights_do(make_net, make_plan, batch_of):
    net = make_net()
    pruning = BetaBernoulli().wrap(net, SHAPE, Budget(ops=0.5))
    phases = (
        PlannedPhase("scores", "scores", 1, AnpVs(steps=1), 0.1),
        PlannedPhase("tune", "weights", 1, AnpVs(steps=1), 0.1, first_epoch=1),
    )
    training = Training(net, pruning, make_plan(phases=phases))
    training.backward(numbers_of(training, batch_of))
    assert all(value.grad is None for value in net.parameters())
    assert pruning.scorer.raw_a.grad.abs().sum() > 0
    pruning.scorer.raw_a.grad = None
    pruning.finalize()
    training.begin_phase(1)
    training.backward(numbers_of(training, batch_of))
    assert all(value.grad is not None for value in net.parameters())
    assert pruning.scorer.raw_a.grad is None


def test_the_information_of_in_train_masks_is_told_by_their_own_loss(make_pruning, make_plan, batch_of):
    net, pruning = make_pruning()
    training = Training(net, pruning, make_plan(task=AnpVs(steps=1)))
    training.backward(numbers_of(training, batch_of))
    pruning.before_step(training.loss.step)
    assert pruning.information.abs().sum() > 0
    assert pruning.logits.grad.abs().sum() > 0


def test_masks_and_weights_have_rates_of_their_own(make_net, make_plan, batch_of):
    training, pruning = prepared(make_net, make_plan, lr=0.02)
    before = [value.clone() for value in (pruning.scorer.raw_a, next(pruning.net.parameters()))]
    training.set_rate()
    training.backward(numbers_of(training, batch_of))
    training.optimiser.step()
    masks, weights = (
        (value.detach() - was).abs().max().item()
        for value, was in zip((pruning.scorer.raw_a, next(pruning.net.parameters())), before, strict=True)
    )
    assert masks == pytest.approx(0.02, rel=1e-3)  # Adam's first step is its rate
    assert weights < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("optimiser", "precision"), [("adam", "fp32"), ("sgd", "bf16")])
def test_a_training_goes_on_exactly_where_it_was_killed(optimiser, precision, make_net, make_plan, tmp_path):
    """Before the freeze, behind it, and between phases; in bfloat16 too."""
    given = {"checkpoint_every_s": 0, "optimiser": optimiser, "lr": 0.05, "precision": precision}
    task = AnpVs(steps=1)
    phases = (
        PlannedPhase("pretrain", "weights", 1, task, 0.05),
        PlannedPhase("both", "both", 2, task, 0.05, first_epoch=1),
        PlannedPhase("scores", "scores", 1, task, 0.05, first_epoch=3),
        PlannedPhase("tune", "weights", 1, task, 0.05, first_epoch=4),
    )
    plan = make_plan(steps=2, phases=phases, options=given)

    def train(folder, progress=silent):
        net = make_net()
        pruning = BetaBernoulli().wrap(net, SHAPE, Budget(ops=0.5))
        return fit(net, pruning, plan, folder, progress)

    whole = train(tmp_path / "whole")
    assert max(whole.proof.clean, whole.proof.adversarial) < 1e-5
    for last in (1, 3, 7, 9):

        def progress(step, steps, numbers, last=last):
            if step == last:
                raise Stop

        with pytest.raises(Stop):
            train(tmp_path / "cut", progress)
        torch.manual_seed(last)
    assert same(state_of(train(tmp_path / "cut").net), state_of(whole.net))


def test_several_processes_are_refused_where_masks_learn(monkeypatch):
    recipe = load_recipe("digits-resnet8", ["train.task={name: anp-vs, steps: 1}", "prune=beta-bernoulli"])
    monkeypatch.setattr(ranks, "world", lambda: 2)
    with pytest.raises(UsageError, match=r"'anp-vs', trains by one process .* and 2 were started; start it without"):
        phases_from(recipe, pruned=True)
    assert phases_from(recipe, pruned=False)


def test_the_noise_of_the_start_is_in_the_ball(seen, plain_net, batch):
    images, labels, _ = batch()
    net = seen(plain_net())
    AnpVs(steps=1)(net, images, labels, Threat(eps=0.1), Noise(1, torch.arange(16)))
    assert (net.images[0] - images).abs().max() > 0.05
