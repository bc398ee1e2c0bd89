"""Image passes: every task's are counted where they happen, through a resume and a collapse."""

import pytest
import torch
from trainings import Stop, silent

from robustdeploy.core.recipe import Budget
from robustdeploy.prune.beta_bernoulli import BetaBernoulli
from robustdeploy.train import loop
from robustdeploy.train.loop import fit
from robustdeploy.train.passes import Passes
from robustdeploy.train.tasks.anp_vs import AnpVs
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.fgsm import FgsmAt
from robustdeploy.train.tasks.free import Free
from robustdeploy.train.tasks.n_fgsm import NFgsm
from robustdeploy.train.tasks.pgd import PgdAt
from robustdeploy.train.tasks.standard import Standard
from robustdeploy.train.tasks.trades import Trades

SEEN = 2 * 32
"""Images that the trainings here take steps on: two batches."""


@pytest.mark.parametrize(
    ("task", "forward", "backward"),
    [
        (Standard(), 1, 1),
        (FastAt(), 2, 2),
        (FastAt(clean=0.5), 3, 3),
        (FgsmAt(), 2, 2),
        (NFgsm(), 2, 2),
        (PgdAt(steps=3), 4, 4),
        (PgdAt(steps=3, clean=0.5), 5, 5),
        (PgdAt(steps=3, clean=0.5, l1=0.1), 5, 5),
        # What it says of the clean images during the attack has no gradient.
        (Trades(steps=3), 6, 5),
        # Without a pruner there is one pass back through both, the clean and the attacked images.
        (AnpVs(steps=3), 5, 5),
        # Its epochs count every one of its steps on a batch.
        (Free(replays=2), 1, 1),
    ],
    ids=repr,
)
def test_a_task_costs_its_attack_steps_and_its_own(make_net, make_plan, tmp_path, task, forward, backward):
    plan = make_plan(epochs=1, steps=2, task=task, options={"sentinel": False})
    trained = fit(make_net(), None, plan, tmp_path, silent)
    assert trained.passes == Passes(forward * SEEN, backward * SEEN)


def test_masks_and_bf16_change_no_count(make_pruning, make_plan, tmp_path):
    net, pruning = make_pruning()
    trained = fit(net, pruning, make_plan(epochs=2, options={"precision": "bf16"}), tmp_path, silent)
    assert trained.passes == Passes(2 * 2 * 4 * 32, 2 * 2 * 4 * 32)


def test_a_loss_of_the_masks_own_costs_a_pass_back_until_they_are_frozen(make_net, make_plan, tmp_path):
    net = make_net()
    pruning = BetaBernoulli(freeze=0.5).wrap(net, (1, 8, 8), Budget(ops=0.5))
    trained = fit(net, pruning, make_plan(epochs=1, steps=4, task=AnpVs(steps=1)), tmp_path, silent)
    # Forward: the attack's step, then clean and attacked images. Back: the same, and the latter once more in two steps.
    assert trained.passes == Passes(3 * 4 * 32, (5 + 5 + 3 + 3) * 32)


def test_a_training_that_was_stopped_counts_as_one_that_was_not(make_net, make_plan, tmp_path):
    plan = make_plan(options={"checkpoint_every_s": 0.0})

    def stop(step, steps, numbers):
        if step == 6:
            raise Stop

    with pytest.raises(Stop):
        fit(make_net(), None, plan, tmp_path, stop)
    resumed = fit(make_net(), None, plan, tmp_path, silent)
    assert resumed.passes == Passes(2 * 12 * 32, 2 * 12 * 32)


def test_what_a_collapse_made_vain_was_spent(make_net, make_plan, tmp_path, monkeypatch):
    reasons = iter(["its accuracy under PGD is gone"])
    monkeypatch.setattr(loop, "suspicious", lambda now, before: len(before) == 1)
    monkeypatch.setattr(loop, "sound", lambda now, before: True)
    monkeypatch.setattr(loop, "collapse", lambda now, before: next(reasons, None))
    trained = fit(make_net(), None, make_plan(epochs=16, steps=8, batch_size=8, held_out=8), tmp_path, silent)
    (event,) = trained.events
    assert 0 < event["back_to_step"] < event["step"] == 128
    # At this eps PGD with four steps follows.
    spent = 2 * event["step"] + 5 * (128 - event["back_to_step"])
    assert trained.passes == Passes(8 * spent, 8 * spent)


def test_a_net_under_torch_compile_is_counted_outside_of_it():
    passes, net = Passes(), torch.compile(torch.nn.Linear(3, 2), backend="eager")
    with passes.counted(net):
        net(torch.zeros(5, 3)).sum().backward()
        with torch.no_grad():
            net(torch.zeros(4, 3))
    assert passes == Passes(9, 5)
