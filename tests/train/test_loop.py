from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trainings import Stop, same, silent, state_of

from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.recipe import Budget
from robustdeploy.data.order import epoch_order
from robustdeploy.errors import Interrupted, TrainingError
from robustdeploy.onboard.draws import key
from robustdeploy.prune.masks import Masks
from robustdeploy.prune.scores import Scores
from robustdeploy.train.checkpoints import load_checkpoint
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import PlannedPhase
from robustdeploy.train.schedules.constant import Constant
from robustdeploy.train.schedules.cosine import Cosine
from robustdeploy.train.schedules.multi_step import MultiStep
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.free import Free
from robustdeploy.train.tasks.standard import Standard

STEPS = 12


class InDouble(Standard):
    """Training on clean batches in float64, in which only a real difference shows."""

    def __call__(self, net, images, labels, threat, noise):
        return super().__call__(net, images.double(), labels, threat, noise)


def stopping_at(last):
    def progress(step, steps, numbers):
        if step == last:
            raise Stop

    return progress


SCORED = (
    PlannedPhase("pretrain", "weights", 1, FastAt(), 0.1),
    PlannedPhase("scores", "scores", 1, Standard(), 0.1, Cosine(), "best", first_epoch=1),
    PlannedPhase("fine-tune", "weights", 1, FastAt(), 0.05, MultiStep(), first_epoch=2),
)
MASKED = (
    PlannedPhase("pretrain", "weights", 1, Free(replays=3), 0.1),
    PlannedPhase("prune", "both", 1, Free(replays=2), 0.1, first_epoch=1),
    PlannedPhase("fine-tune", "weights", 1, FastAt(), 0.1, Constant(warmup=0.5), "best", first_epoch=2),
)
KINDS = {
    "dense": {},
    "pruned": {},
    "dropout": {},
    "averaged": {"options": {"ema": 0.8}},
    "free": {"task": Free(replays=3)},
    "scored in phases": {"phases": SCORED},
    "masked in phases": {"phases": MASKED, "options": {"ema": 0.8}},
}


@pytest.fixture(params=KINDS)
def train(request, make_net, make_pruning, make_plan):
    """Train one kind of net anew in a folder; what it returns is compared."""

    def run(folder, progress=silent, **more):
        kind, options = KINDS[request.param], more.pop("options", {})
        if "lr" in options and "phases" in kind:
            kind = {**kind, "phases": tuple(replace(phase, lr=options["lr"]) for phase in kind["phases"])}
        plan = make_plan(**{**kind, **more, "options": {**kind.get("options", {}), **options}})
        net, pruning = make_net("dropout" if request.param == "dropout" else "resnet"), None
        if request.param in ("pruned", "averaged", "masked in phases"):
            net, pruning = make_pruning()
        if request.param == "scored in phases":
            pruning = Scores().wrap(net, (1, 8, 8), Budget(ops=0.4))
        return fit(net, pruning, plan, folder, progress)

    return run


@pytest.fixture
def whole(train, tmp_path):
    """An uninterrupted training of twelve steps: the net it gave, and its log."""
    trained = train(tmp_path / "whole")
    return state_of(trained.net), (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.alike(2)
def test_a_training_goes_on_exactly_from_every_step(train, whole, tmp_path):
    for last in range(1, STEPS + 1):
        folder = tmp_path / str(last)
        with pytest.raises(Stop):
            train(folder, stopping_at(last), options={"checkpoint_every_s": 0})
        torch.manual_seed(last)  # the generators of another process
        trained = train(folder, options={"checkpoint_every_s": 0})
        assert same(state_of(trained.net), whole[0]), last
        assert (folder / "metrics.jsonl").read_bytes() == whole[1], last


@pytest.mark.slow
@pytest.mark.alike(3)
def test_a_signal_at_any_step_saves_and_the_rest_is_exact(train, whole, tmp_path):
    """The last step of an epoch too: what is saved there lies between the step and the epoch's record.

    That the rest of a training is exact from every step is held above; here it is what a signal saves, inside an epoch,
    at the end of one, at the freeze and behind it, and at the end of all.
    """
    for last in (2, 3, 6, 7, STEPS):
        folder = tmp_path / str(last)

        def progress(step, steps, numbers, last=last):
            if step == last:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted) as caught, catch_signals():
            train(folder, progress)
        assert caught.value.exit_code == 143
        steps: list[int] = []
        trained = train(folder, lambda step, total, numbers, steps=steps: steps.append(step))
        assert steps == list(range(last + 1, STEPS + 1))
        assert same(state_of(trained.net), whole[0]), last
        assert (folder / "metrics.jsonl").read_bytes() == whole[1], last


def test_a_finished_training_is_only_finished_again(train, whole, tmp_path):
    (tmp_path / "whole" / "metrics.jsonl").write_text("{}")
    trained = train(tmp_path / "whole", stopping_at(1))
    assert same(state_of(trained.net), whole[0])
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == whole[1]


def test_the_callers_generator_is_left_alone_and_has_no_say(train, whole, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    trained = train(tmp_path / "other")
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state_of(trained.net), whole[0])


def test_checkpoints_of_another_training_are_passed_over(train, tmp_path):
    first, second = {"training": "first"}, {"epochs": 2, "seed": 1, "training": "second"}
    alone = state_of(train(tmp_path / "alone", **second).net)
    train(tmp_path / "shared", **first)
    with pytest.raises(Stop):
        train(tmp_path / "shared", stopping_at(5), **second)
    assert load_checkpoint(tmp_path / "shared" / "checkpoints", "first") is None
    assert load_checkpoint(tmp_path / "shared" / "checkpoints", "second").step == 4
    assert same(state_of(train(tmp_path / "shared", **second).net), alone)
    assert (tmp_path / "shared" / "metrics.jsonl").read_bytes() == (tmp_path / "alone" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_digits_are_learnt(kind, digits, make_net, make_pruning, make_plan, tmp_path):
    options = {"lr": 0.2, "batch_size": 64}
    plan = make_plan(epochs=8, train=digits.train, validation=digits.validation, options=options, shift=0)
    net, pruning = make_pruning(0.5) if kind == "pruned" else (make_net(), None)
    records = fit(net, pruning, plan, tmp_path, silent).records
    assert [record["epoch"] for record in records] == list(range(1, 9))
    assert records[-1]["train_loss"] < 0.8 * records[0]["train_loss"]
    assert records[-1]["validation_clean"] > 0.6
    assert 0.25 < records[-1]["validation_pgd10"] <= records[-1]["validation_clean"]
    assert records[-1]["validation_n"] == len(digits.validation)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_masks_freeze_half_way_and_never_change_again(make_pruning, make_plan, tmp_path):
    net, pruning = make_pruning()
    seen = []

    def progress(step, steps, numbers):
        seen.append((bool(pruning.frozen), pruning.status()["ops"], {k: v.tolist() for k, v in pruning.kept().items()}))

    records = fit(net, pruning, make_plan(), tmp_path, progress).records
    assert [frozen for frozen, _, _ in seen] == [step >= 6 for step in range(1, 13)]
    assert all(kept == seen[5][2] for _, _, kept in seen[5:])
    assert seen[0][1] > seen[5][1]
    assert all(0.97 * 0.4 < record["ops"] <= 0.4 for record in records[1:])


def test_the_rate_is_one_cycle_and_the_masks_have_their_own(make_pruning, make_plan, tmp_path):
    rates = []
    net, pruning = make_pruning()
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, args, kwargs: rates.append([group["lr"] for group in optimiser.param_groups])
    )
    try:
        fit(net, pruning, make_plan(), tmp_path, silent)
    finally:
        hook.remove()
    assert [len(rate) for rate in rates] == [2] * 6 + [1] * 6  # the masks are trained until they are frozen
    weights = [rate[0] for rate in rates]
    rising = [0.1 * 2 * step / 13 for step in range(1, 7)]
    assert weights == pytest.approx([*rising, *rising[::-1]])
    assert {rate[1] for rate in rates[:6]} == {pruning.own_parameters()[0]["lr"]}


def test_every_image_is_seen_once_per_epoch_with_noise_of_its_own(make_net, make_plan, tmp_path):
    calls = []

    class Spy(FastAt):
        def __call__(self, net, images, labels, threat, noise):
            calls.append((noise.key, noise.ids.tolist(), images.clone(), labels.tolist()))
            return super().__call__(net, images, labels, threat, noise)

    plan = make_plan(task=Spy())
    fit(make_net(), None, plan, tmp_path, silent)
    epochs = [calls[i : i + 4] for i in (0, 4, 8)]
    for number, epoch in enumerate(epochs):
        assert sorted(i for _, ids, _, _ in epoch for i in ids) == list(range(128))
        assert {k for k, _, _, _ in epoch} == {key(0, "attack", number)}
        for _, ids, images, labels in epoch:
            assert labels == plan.train.labels[ids].tolist()
            assert torch.equal(images * 255, (images * 255).round())
    assert epochs[0][0][1] != epochs[1][0][1]


def test_a_loss_that_explodes_ends_with_the_last_healthy_checkpoint(train, tmp_path):
    with pytest.raises(Stop):
        train(tmp_path, stopping_at(3), options={"checkpoint_every_s": 0})
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    with pytest.raises(TrainingError, match=r"(the loss is|is not finite).*lower train.lr") as caught:
        train(tmp_path, options={"checkpoint_every_s": 0, "lr": 1e30})
    assert caught.value.exit_code == 3
    state = load_checkpoint(tmp_path / "checkpoints")
    assert state.step >= 2
    assert all(torch.isfinite(t).all() for t in state.tensors.values() if t.is_floating_point())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} & kept or state.step > 3


def test_final_statistics_are_the_plain_average_over_the_final_net(make_net, make_plan, tmp_path):
    net = make_net()
    plan = make_plan(task=Standard(), shift=0)
    net = fit(net, None, plan, tmp_path, silent).net
    assert not net.training
    inputs = []
    first = net.net.bn
    handle = first.register_forward_hook(lambda m, x, y: inputs.append(x[0].detach()))
    order = epoch_order(plan.seed, plan.options.epochs, len(plan.train.labels))
    with torch.no_grad():
        for indices in torch.split(order, plan.options.batch_size):
            net(plan.train.images[indices].float() / 255)
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    assert torch.allclose(first.running_mean, means, atol=1e-5)
    assert torch.allclose(first.running_var, variances, rtol=1e-4)
    assert all(m.momentum == 0.1 for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_same_plan_gives_the_same_log_and_another_seed_another(make_net, make_plan, tmp_path):
    plans = [make_plan(seed=seed) for seed in (0, 0, 1)]
    logs = [fit(make_net(), None, plan, tmp_path / str(n), silent).records for n, plan in enumerate(plans)]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    assert logs[0][-1]["validation_n"] == 24


def test_the_log_says_how_large_the_gradient_was(make_net, make_plan, tmp_path):
    net, norms = make_net(), []
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, args, kwargs: norms.append(
            torch.cat([p.grad.flatten() for p in optimiser.param_groups[0]["params"]]).norm().item()
        )
    )
    try:
        records = fit(net, None, make_plan(), tmp_path, silent).records
    finally:
        hook.remove()
    means = [sum(norms[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert [record["train_gradient_norm"] for record in records] == pytest.approx(means, rel=1e-5)


def test_the_log_says_how_often_masks_changed_and_how_large_their_gradient_was(make_pruning, make_plan, tmp_path):
    """Of each epoch by itself; a change is between the masks of one step and those of the next."""
    net, pruning = make_pruning()
    kept, norms, logits = [], [], pruning.logits
    hook = register_optimizer_step_pre_hook(lambda *_: kept.append(pruning.soft().detach() >= 0.5))
    step_before = pruning.before_step

    def before_step(step):
        norms.append(logits.grad.norm().item())
        step_before(step)

    pruning.before_step = before_step
    try:
        records = fit(net, pruning, make_plan(epochs=4, steps=3), tmp_path, silent).records
    finally:
        hook.remove()
    kept = [*kept[:6], pruning.soft().detach() >= 0.5]  # the masks are frozen behind step 6
    flips = [int((one != other).sum()) for one, other in pairwise(kept)]
    assert sum(flips) > 0
    assert [record["mask_flips"] for record in records] == [sum(flips[:3]), sum(flips[3:]), 0, 0]
    means = [sum(norms[:3]) / 3, sum(norms[3:]) / 3, 0, 0]
    assert min(means[:2]) > 0
    assert [record["train_mask_gradient_norm"] for record in records] == pytest.approx(means, rel=1e-5)


def test_under_what_conditions_each_stretch_ran_is_kept(make_net, make_plan, tmp_path):
    """What a machine is best at may differ from that on which the training began."""
    with pytest.raises(Stop):
        fit(make_net(), None, make_plan(options={"checkpoint_every_s": 0}), tmp_path, stopping_at(6))
    conditions = fit(make_net(), None, make_plan(options={"precision": "bf16"}), tmp_path, silent).conditions
    assert conditions == [
        {"from_step": 0, "precision": "float32", "processes": 1},
        {"from_step": 5, "precision": "bfloat16", "processes": 1},
    ]


def test_a_compiled_training_prunes_and_goes_on_exactly(make_pruning, make_plan, monkeypatch, tmp_path):
    compiled, compile_net = [], torch.compile

    def without_a_compiler(net):
        compiled.append(net)
        return compile_net(net, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    plan = make_plan(options={"compile": True, "checkpoint_every_s": 0})
    whole = fit(*make_pruning(), plan, tmp_path / "whole", silent)
    assert compiled  # the compact net; masks are trained without
    with pytest.raises(Stop):
        fit(*make_pruning(), plan, tmp_path / "cut", stopping_at(9))
    assert same(state_of(fit(*make_pruning(), plan, tmp_path / "cut", silent).net), state_of(whole.net))
    assert "_orig_mod" not in "".join(whole.net.state_dict())


def test_nothing_jumps_when_the_net_is_made_smaller(make_net, make_plan, tmp_path):
    """In float64 the log is the same whether the net shrinks at the freeze or stays under its masks to the end."""
    logs, nets = [], []
    for shrink in (True, False):
        net = make_net().double()
        pruning = Masks(warmup=0.1, freeze=0.5).wrap(net, (1, 8, 8), Budget(ops=0.4))
        plan = make_plan(shrink=shrink, task=InDouble(), epochs=6, options={"lr": 0.1})
        trained = fit(net, pruning, plan, tmp_path / str(shrink), silent)
        logs.append([record["train_loss"] for record in trained.records])
        nets.append(trained.net)
        assert trained.proof is not None
        assert trained.proof.precision == "float64"
    assert logs[0] == pytest.approx(logs[1], rel=1e-9)
    one, other = state_of(nets[0]), state_of(nets[1])
    assert list(one) == list(other)
    assert all(torch.allclose(one[name], other[name], rtol=1e-8, atol=1e-9) for name in one)


def test_a_smaller_net_is_trained_after_the_freeze(make_pruning, make_plan, tmp_path):
    net, pruning = make_pruning()
    dense = sum(parameter.numel() for parameter in net.parameters())
    trained_with = []
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, args, kwargs: trained_with.append(
            sum(parameter.numel() for parameter in optimiser.param_groups[0]["params"])
        )
    )
    try:
        trained = fit(net, pruning, make_plan(), tmp_path, silent)
    finally:
        hook.remove()
    compact = sum(parameter.numel() for parameter in trained.net.parameters())
    assert trained_with == [dense] * 6 + [compact] * 6
    assert compact < 0.6 * dense


def test_averaged_weights_are_the_average(make_net, make_plan, tmp_path):
    net, weights = make_net(), []
    plan = make_plan(options={"ema": 0.7, "lr": 0.05})
    first = net.net.conv.weight
    average = first.detach().clone()

    def progress(step, steps, numbers):
        weights.append(first.detach().clone())

    trained = fit(net, None, plan, tmp_path, progress)
    for step, weight in enumerate(weights, start=1):
        decay = min(0.7, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert torch.allclose(trained.net.net.conv.weight, average, atol=1e-6)
    assert not torch.allclose(trained.net.net.conv.weight, weights[-1], atol=1e-4)
