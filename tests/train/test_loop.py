from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from robustdeploy.core.interrupts import catch_signals
from robustdeploy.data.order import epoch_order
from robustdeploy.errors import Interrupted, TrainingError
from robustdeploy.onboard.draws import key
from robustdeploy.train.checkpoints import load_checkpoint
from robustdeploy.train.loop import fit
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.standard import Standard


class Stop(Exception):
    """What ends a training in the middle of a step's report."""


def silent(step, steps, numbers):
    """Say nothing."""


def stopping_at(last):
    def progress(step, steps, numbers):
        if step == last:
            raise Stop

    return progress


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(params=["dense", "pruned", "dropout"])
def start(request, make_net, make_pruning):
    """Make the net of one kind of training anew: (net, pruning, the module that is trained)."""

    def make():
        if request.param == "pruned":
            net, pruning = make_pruning()
            return net, pruning, pruning
        net = make_net("dropout" if request.param == "dropout" else "resnet")
        return net, None, net

    return make


@pytest.fixture
def whole(start, make_plan, tmp_path):
    """An uninterrupted training of twelve steps."""
    net, pruning, module = start()
    fit(net, pruning, make_plan(), tmp_path / "whole", silent)
    return state_of(module), (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_training_goes_on_exactly_from_every_step(start, whole, make_plan, tmp_path):
    plan = make_plan(options={"checkpoint_every_s": 0})
    for last in range(1, plan.steps + 1):
        folder = tmp_path / str(last)
        net, pruning, _ = start()
        with pytest.raises(Stop):
            fit(net, pruning, plan, folder, stopping_at(last))
        torch.manual_seed(last)  # the generators of another process
        net, pruning, module = start()
        fit(net, pruning, plan, folder, silent)
        assert same(state_of(module), whole[0]), last
        assert (folder / "metrics.jsonl").read_bytes() == whole[1], last


@pytest.mark.slow
def test_a_signal_at_any_step_saves_and_the_rest_is_exact(start, whole, make_plan, tmp_path):
    """The last step of an epoch too: what is saved there lies between the step and the epoch's record."""
    plan = make_plan(options={"checkpoint_every_s": 3600})
    for last in range(1, plan.steps + 1):
        folder = tmp_path / str(last)

        def progress(step, steps, numbers, last=last):
            if step == last:
                os.kill(os.getpid(), signal.SIGTERM)

        net, pruning, _ = start()
        with catch_signals(), pytest.raises(Interrupted) as caught:
            fit(net, pruning, plan, folder, progress)
        assert caught.value.exit_code == 143
        assert load_checkpoint(folder / "checkpoints").step == last
        steps: list[int] = []
        net, pruning, module = start()
        fit(net, pruning, plan, folder, lambda step, total, numbers, steps=steps: steps.append(step))
        assert steps == list(range(last + 1, plan.steps + 1))
        assert same(state_of(module), whole[0]), last
        assert (folder / "metrics.jsonl").read_bytes() == whole[1], last


def test_a_finished_training_is_only_finished_again(start, whole, make_plan, tmp_path):
    (tmp_path / "whole" / "metrics.jsonl").write_text("{}")
    net, pruning, module = start()
    fit(net, pruning, make_plan(), tmp_path / "whole", stopping_at(1))
    assert same(state_of(module), whole[0])
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == whole[1]


def test_the_callers_generator_is_left_alone_and_has_no_say(start, whole, make_plan, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    net, pruning, module = start()
    fit(net, pruning, make_plan(), tmp_path / "other", silent)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state_of(module), whole[0])


def test_checkpoints_of_another_training_are_passed_over(start, make_plan, tmp_path):
    first, second = make_plan(training="first"), make_plan(epochs=2, seed=1, training="second")
    net, pruning, module = start()
    fit(net, pruning, second, tmp_path / "alone", silent)
    alone = state_of(module)
    net, pruning, _ = start()
    fit(net, pruning, first, tmp_path / "shared", silent)
    net, pruning, _ = start()
    with pytest.raises(Stop):
        fit(net, pruning, second, tmp_path / "shared", stopping_at(5))
    assert load_checkpoint(tmp_path / "shared" / "checkpoints", "first") is None
    assert load_checkpoint(tmp_path / "shared" / "checkpoints", "second").step == 4
    net, pruning, module = start()
    fit(net, pruning, second, tmp_path / "shared", silent)
    assert same(state_of(module), alone)
    assert (tmp_path / "shared" / "metrics.jsonl").read_bytes() == (tmp_path / "alone" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_digits_are_learnt(kind, digits, make_net, make_pruning, make_plan, tmp_path):
    options = {"lr": 0.2, "batch_size": 64}
    plan = make_plan(epochs=8, train=digits.train, validation=digits.validation, options=options, shift=0)
    net, pruning = make_pruning(0.5) if kind == "pruned" else (make_net(), None)
    records = fit(net, pruning, plan, tmp_path, silent)
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

    records = fit(net, pruning, make_plan(), tmp_path, progress)
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
    weights, masks = zip(*rates, strict=True)
    rising = [0.1 * 2 * step / 13 for step in range(1, 7)]
    assert weights == pytest.approx([*rising, *rising[::-1]])
    assert set(masks) == {pruning.own_parameters()[0]["lr"]}


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


def test_a_loss_that_explodes_ends_with_the_last_healthy_checkpoint(start, make_plan, tmp_path):
    healthy = make_plan(options={"checkpoint_every_s": 0})
    net, pruning, _ = start()
    with pytest.raises(Stop):
        fit(net, pruning, healthy, tmp_path, stopping_at(3))
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    net, pruning, _ = start()
    wild = replace(healthy, options=healthy.options.model_copy(update={"lr": 1e30}))
    with pytest.raises(TrainingError, match=r"(the loss is (nan|inf)|is not finite).*lower train.lr") as caught:
        fit(net, pruning, wild, tmp_path, silent)
    assert caught.value.exit_code == 3
    state = load_checkpoint(tmp_path / "checkpoints")
    assert state.step >= 2
    assert all(torch.isfinite(t).all() for t in state.tensors.values() if t.is_floating_point())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} & kept or state.step > 3


def test_final_statistics_are_the_plain_average_over_the_final_net(make_net, make_plan, tmp_path):
    net = make_net()
    plan = make_plan(task=Standard(), shift=0)
    fit(net, None, plan, tmp_path, silent)
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
    logs = [fit(make_net(), None, make_plan(seed=seed), tmp_path / str(n), silent) for n, seed in enumerate((0, 0, 1))]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    assert logs[0][0]["validation_n"] == 24
