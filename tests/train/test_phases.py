"""Phases: what each trains, at which rate, what it hands on, and what a pruner is told and may ask for."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trainings import same, silent, state_of

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Budget, Phase
from robustdeploy.engine.run import training_fingerprint
from robustdeploy.errors import RecipeError, TrainingError, UsageError
from robustdeploy.prune.masked_weights import MaskedWeights
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.scores import Scores
from robustdeploy.prune.weight_budget import maskable
from robustdeploy.train import loop
from robustdeploy.train.checkpoints import load_checkpoint
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import PlannedPhase
from robustdeploy.train.schedules.constant import Constant
from robustdeploy.train.setup import phases_from, pruning_from
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.standard import Standard
from robustdeploy.train.tasks.trades import Trades

THREE = (
    PlannedPhase("pretrain", "weights", 1, FastAt(), 0.2),
    PlannedPhase("scores", "scores", 1, FastAt(), 0.1, Constant(), first_epoch=1),
    PlannedPhase("fine-tune", "weights", 1, FastAt(), 0.05, Constant(), first_epoch=2),
)
SHAPE = (1, 8, 8)


def scored(net, options=None, ops=0.4):
    return (options or Scores()).wrap(net, SHAPE, Budget(ops=ops))


def test_each_phase_trains_what_it_says_at_its_own_rate(make_net, make_plan, tmp_path):
    net, seen = make_net(), []
    pruning = scored(net)
    before = state_of(net), [score.detach().clone() for score in pruning.scorer.scores]

    def look(step, steps, numbers):
        seen.append((state_of(net), [score.detach().clone() for score in pruning.scorer.scores], numbers))

    rates = []
    hook = register_optimizer_step_pre_hook(
        lambda sgd, *_: rates.append([(group["name"], group["lr"]) for group in sgd.param_groups])
    )
    try:
        trained = fit(net, pruning, make_plan(phases=THREE), tmp_path, look)
    finally:
        hook.remove()
    peaks = [0.2 * min(2 * step / 5, 2 - 2 * step / 5) for step in range(1, 5)]
    assert [rate[0][0] for rate in rates] == ["weights"] * 4 + ["scores"] * 4 + ["weights"] * 4
    assert [rate[0][1] for rate in rates] == pytest.approx([*peaks, *[0.1] * 4, *[0.05] * 4])
    assert {len(rate) for rate in rates} == {1}
    named = [name for name, _ in net.named_parameters()]
    steps = [before, *(numbers[:2] for numbers in seen)]
    for number, (was, now) in enumerate(pairwise(steps)):
        moved = any(not torch.equal(was[0][name], now[0][name]) for name in named)
        learnt = any(not torch.equal(one, other) for one, other in zip(was[1], now[1], strict=True))
        assert (moved, learnt) == ((False, True) if 4 <= number < 8 else (True, False)), number
    assert all((numbers["gradient_norm"] > 0) == (not 4 <= n < 8) for n, (_, _, numbers) in enumerate(seen))
    assert all((numbers["mask_gradient_norm"] > 0) == (4 <= n < 8) for n, (_, _, numbers) in enumerate(seen))
    assert [record["phase"] for record in trained.records] == ["pretrain", "scores", "fine-tune"]
    assert all(parameter.requires_grad for parameter in net.parameters())
    for weight, keep in zip(pruning.weights, pruning.keeps, strict=True):
        assert not trained.net.get_parameter(weight.name)[~keep].any()


def test_a_pruner_with_a_rate_of_its_own_keeps_it(make_net, make_plan, tmp_path):
    rates, net = [], make_net()
    hook = register_optimizer_step_pre_hook(lambda sgd, *_: rates.append(sgd.param_groups[-1]["lr"]))
    try:
        fit(net, scored(net, Scores(lr=0.3)), make_plan(phases=THREE), tmp_path, silent)
    finally:
        hook.remove()
    assert rates[4:8] == [0.3] * 4


def test_channel_masks_wait_for_their_phase_and_the_rest_trains_the_smaller_net(make_net, make_plan, tmp_path):
    net, kept, sizes = make_net(), [], []
    pruning = Masks(warmup=0.1, freeze=0.5).wrap(net, SHAPE, Budget(ops=0.4))
    phases = (
        PlannedPhase("pretrain", "weights", 1, FastAt(), 0.1),
        PlannedPhase("prune", "both", 1, FastAt(), 0.1, first_epoch=1),
        PlannedPhase("fine-tune", "weights", 1, FastAt(), 0.1, first_epoch=2),
    )
    hook = register_optimizer_step_pre_hook(
        lambda sgd, *_: sizes.append(sum(p.numel() for p in sgd.param_groups[0]["params"]))
    )
    try:
        fit(net, pruning, make_plan(phases=phases), tmp_path, lambda *_: kept.append(pruning.status()["ops"]))
    finally:
        hook.remove()
    assert kept[:4] == [1.0] * 4
    assert kept[4] < 1
    assert set(kept[5:]) == {kept[5]}  # half of the four steps that train scores
    assert 0.97 * 0.4 < kept[5] <= 0.4
    assert len(set(sizes[:6])) == 1
    assert sizes[6] < sizes[5]
    assert set(sizes[6:]) == {sizes[6]}


@pytest.mark.parametrize("better", [True, False])
def test_a_phase_hands_on_its_best_epoch_where_that_is_better(better, make_net, make_plan, monkeypatch, tmp_path):
    """Weights rest in a phase of scores, so what comes back is the best epoch's choice of them."""
    net, choices = make_net(), []
    pruning = scored(net)
    longer = (THREE[0], replace(THREE[1], epochs=3, select="best"), replace(THREE[2], first_epoch=4))
    robust = {1: 5, 2: 9, 3: 20, 4: 10, 5: 10}
    real = loop.validate

    def validate(module, plan):
        found = real(module, plan)
        choices.append([keep.clone() for keep in pruning.keeps])
        return replace(found, robust=torch.arange(24) < robust[len(choices)])

    monkeypatch.setattr(loop, "validate", validate)
    monkeypatch.setattr("robustdeploy.train.plan.FEWEST_STEPS_BETWEEN_CHECKS", 4)
    monkeypatch.setattr(loop, "significantly_better", lambda best, last: better and best.sum() > last.sum())
    fit(net, pruning, make_plan(phases=longer), tmp_path, silent)
    assert len(choices) == 5
    assert any(not torch.equal(one, other) for one, other in zip(choices[2], choices[3], strict=True))
    expected = choices[2 if better else 3]
    assert all(torch.equal(keep, chosen) for keep, chosen in zip(pruning.keeps, expected, strict=True))


def test_a_collapse_goes_back_no_further_than_its_phase(make_net, make_plan, monkeypatch, tmp_path):
    net, found = make_net(), []
    monkeypatch.setattr("robustdeploy.train.plan.FEWEST_STEPS_BETWEEN_CHECKS", 2)
    monkeypatch.setattr(loop, "suspicious", lambda now, before: now.step == 10 and not found)
    monkeypatch.setattr(loop, "collapse", lambda now, before: found.append(before) or "for a test")
    monkeypatch.setattr(loop, "sound", lambda now, before: False)
    steps = []
    plan = make_plan(phases=(THREE[0], replace(THREE[1], objective=Standard()), THREE[2]))
    trained = fit(net, scored(net), plan, tmp_path, lambda step, *_: steps.append(step))
    assert [event["back_to_step"] for event in trained.events] == [8]
    assert steps == [*range(1, 11), *range(9, 13)]
    assert found == [[]]  # the phase before has other masks, and says nothing of this one
    assert load_checkpoint(tmp_path / "checkpoints").values["phase"] == 2


@dataclass(frozen=True)
class Watching:
    """A pruner as others would write one: scores with a penalty, on what it is told of each step."""

    strength: float = 0.0

    def wrap(self, net, image_shape, budget):
        inner, layers = Scores().wrap(net, image_shape, budget), maskable(net, image_shape, budget, "scores")
        return Watched(net, layers, inner.scorer, inner.spread, inner.course, self.strength)


class Watched(MaskedWeights):
    def __init__(self, *parts):
        super().__init__(*parts[:-1])
        self.strength, self.phases, self.seen = parts[-1], [], []

    def features(self):
        return ("net.conv", "net.fc")

    def on_phase(self, phase):
        super().on_phase(phase)
        self.phases.append(phase)

    def penalty(self, step):
        return self.strength * step.features["net.conv"][0].square().mean() if self.strength else None

    def before_step(self, step):
        features = {name: [output.detach() for output in outputs] for name, outputs in step.features.items()}
        self.seen.append(replace(step, features=features))


@pytest.mark.parametrize("objective", [FastAt(), FastAt(clean=0.5), Trades(steps=2), Standard()])
def test_a_pruner_gets_clean_and_adversarial_images_and_features(objective, make_net, make_plan, tmp_path):
    net = make_net()
    pruning = Watching().wrap(net, SHAPE, Budget(ops=0.4))
    phases = (replace(THREE[0], objective=objective), THREE[1])
    fit(net, pruning, make_plan(phases=phases), tmp_path, silent)
    assert [(phase.name, phase.train, phase.steps, phase.last_of_scores) for phase in pruning.phases] == [
        ("pretrain", "weights", 4, False),
        ("scores", "scores", 4, True),
    ]
    assert len(pruning.seen) == 8
    step = pruning.seen[0]
    assert step.images.shape == (32, *SHAPE)
    assert step.labels.shape == (32,)
    if isinstance(objective, Standard):
        assert step.adversarial is None
    else:
        assert 0.02 < (step.adversarial - step.images).abs().max() <= 0.1 + 1e-6
    both = isinstance(objective, Trades) or getattr(objective, "clean", 0) > 0
    (features,) = step.features["net.conv"]
    assert features.shape == (64 if both else 32, 4, 8, 8)
    assert len(step.features["net.fc"]) == 1


def test_a_penalty_is_part_of_the_loss_and_of_the_log(make_net, make_plan, tmp_path):
    """In plain torch, the gradient of the first step: that of the cross-entropy and that of the penalty."""
    net = make_net()
    plain, first = copy.deepcopy(net).train(), []
    pruning = Watching(strength=3.0).wrap(net, SHAPE, Budget(ops=0.4))

    def look(*_):
        if not first:
            first.append({name: parameter.grad.clone() for name, parameter in net.named_parameters()})

    hook = register_optimizer_step_pre_hook(look)
    try:
        phases = (replace(THREE[0], objective=Standard()), THREE[1])
        trained = fit(net, pruning, make_plan(phases=phases), tmp_path, silent)
    finally:
        hook.remove()
    step, maps = pruning.seen[0], []
    plain.net.conv.register_forward_hook(lambda layer, inputs, output: maps.append(output))
    loss = nn.functional.cross_entropy(plain(step.images), step.labels) + 3 * maps[0].square().mean()
    loss.backward()
    assert all(torch.allclose(first[0][n], p.grad, atol=1e-5) for n, p in plain.named_parameters())
    assert trained.records[0]["train_penalty"] > 0


@pytest.mark.parametrize("phases", [THREE, THREE[:2]], ids=["in between", "last"])
def test_channels_are_cut_at_the_end_of_a_phase_of_scores_alone(phases, make_pruning, make_plan, tmp_path):
    net, pruning = make_pruning()
    trained = fit(net, pruning, make_plan(phases=phases), tmp_path, silent)
    assert 0.97 * 0.4 < pruning.status()["ops"] <= 0.4
    assert sum(p.numel() for p in trained.net.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_phase_that_has_nothing_to_train_says_so(make_net, make_plan, tmp_path):
    net = make_net()
    phases = (replace(THREE[1], first_epoch=0), replace(THREE[2], train="scores", first_epoch=1))
    pruning = scored(net)
    pruning.finalize()
    with pytest.raises(TrainingError, match="phase 'scores' trains scores alone, and there are none or they"):
        fit(net, pruning, make_plan(phases=phases), tmp_path, silent)


def test_a_training_of_no_epochs_delivers_what_it_began_with(make_net, make_plan, tmp_path):
    net = make_net()
    before = state_of(net)
    trained = fit(net, None, make_plan(phases=(replace(THREE[0], epochs=0),)), tmp_path, silent)
    assert same(state_of(trained.net), before)
    assert (trained.records, trained.best_epoch) == ([], 0)


# --- what a recipe says


def recipe(*overrides):
    return load_recipe("digits-resnet8", overrides)


def test_older_recipes_keep_the_fingerprint_of_their_runs():
    assert training_fingerprint(recipe()).startswith("149d9c3f63841063")
    assert training_fingerprint(recipe("train.schedule=one-cycle", "train.phases=[]")).startswith("149d9c3f63841063")
    assert training_fingerprint(load_recipe("cifar10-resnet20")).startswith("b9a3b9f935857e2d")
    others = [recipe("train.schedule=cosine"), recipe("train.phases=[{name: a}]"), recipe("train.phases=[{name: b}]")]
    assert len({training_fingerprint(other) for other in (recipe(), *others)}) == 4


def test_a_recipe_without_phases_has_one_and_a_phase_takes_what_it_does_not_say_from_train():
    (phase,) = phases_from(recipe("train.select=last"), pruned=True)
    assert phase == PlannedPhase("train", "both", 100, FastAt(), 0.2, select="last")
    one, other = "{name: a, train: weights, epochs: 7}", "{name: b, objective: standard, lr: 0.5, schedule: constant}"
    said = f"train.phases=[{one}, {other}]"
    first, second = phases_from(recipe(said, "prune=weights"), pruned=True)
    assert first == PlannedPhase("a", "weights", 7, FastAt(), 0.2)
    assert second == PlannedPhase("b", "both", 100, Standard(), 0.5, Constant(), "best", first_epoch=7)


def test_the_dense_net_takes_part_in_what_trains_weights():
    phases = "train.phases=[{name: a, train: weights}, {name: b, train: scores}, {name: c, train: weights, epochs: 3}]"
    dense = phases_from(recipe(phases), pruned=False)
    assert [(phase.name, phase.first_epoch, phase.select) for phase in dense] == [("a", 0, "last"), ("c", 100, "best")]
    scores = recipe().train.model_copy(update={"phases": (Phase(name="b", train="scores"),)})
    (phase,) = phases_from(recipe().model_copy(update={"train": scores}), pruned=False)
    assert (phase.train, phase.epochs) == ("weights", 0)


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ("[{name: a, train: scores}]", "train: no phase trains weights, and there is no trained net to start with"),
        ("[{name: a}, {name: a}]", "train: two phases are named 'a'"),
        ("[{name: a, epochs: 0}]", r"train.phases\[0\].epochs: must be at least 1"),
        (
            "[{name: a, objective: fastta}]",
            r"train.phases\[0\].objective: unknown .* 'fastta'; did you mean 'fastat'",
        ),
        (
            "[{name: a, schedule: {name: cosine, warmup: 2}}]",
            r"schedule.warmup: must be at least 0 and below 1",
        ),
        ("[{name: a, train: all}]", r"train.phases\[0\].train: must be"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_its_place(phases, said):
    with pytest.raises(RecipeError, match=said):
        recipe(f"train.phases={phases}")


def test_phases_that_never_prune_or_have_nothing_to_train_are_refused_before_training(digits, make_net):
    with pytest.raises(UsageError, match=r"no phase of train.phases trains scores, so 'masks' would never prune"):
        phases_from(recipe("train.phases=[{name: a, train: weights}]"), pruned=True)
    with pytest.raises(UsageError, match=r"free' makes 8 steps .* epochs of phase 'a' counts all of them: 2"):
        phases_from(recipe("train.phases=[{name: a, objective: free, epochs: 2}]"), pruned=True)
    both = recipe("prune=scores", "train.phases=[{name: a}, {name: b, train: scores}]")
    assert pruning_from(both, digits, make_net()).own_parameters()


def test_no_average_is_kept_of_two_factors(digits, make_net):
    with pytest.raises(UsageError, match=r"'twin' trains weights as products.*leave train.ema unset"):
        pruning_from(recipe("prune=twin", "train.ema=0.99"), digits, make_net())
    with pytest.raises(UsageError, match=r"'beta-bernoulli' .* leave train.ema unset"):
        pruning_from(recipe("prune=beta-bernoulli", "train.ema=0.99"), digits, make_net())
