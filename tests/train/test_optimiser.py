"""Adam and RMSprop: what moves by which rule, and that a training goes on exactly, also when the net gets smaller."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trainings import Stop, same, silent, state_of

from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Train
from robustdeploy.errors import RecipeError
from robustdeploy.train.loop import fit
from robustdeploy.train.optimiser import Optimiser


@pytest.mark.parametrize("rule", ["sgd", "adam", "rmsprop"])
def test_weights_move_as_torch_moves_them_and_masks_by_sgd(rule):
    torch.manual_seed(0)
    layer, masks = nn.Linear(3, 2), nn.Parameter(torch.rand(4))
    twin, other = copy.deepcopy(layer), copy.deepcopy(masks)
    options = Train(optimiser=rule, lr=0.01, weight_decay=0.1)
    own = {"lr": 0.5, "momentum": 0.9, "dampening": 0.9, "weight_decay": 1.0}
    ours = Optimiser([{"params": list(layer.parameters())}, {"params": [masks], **own}], options, 0.01)
    torchs = {
        "sgd": lambda values: torch.optim.SGD(values, lr=0.01, momentum=0.9, weight_decay=0.1),
        "adam": lambda values: torch.optim.Adam(values, lr=0.01, weight_decay=0.1),
        "rmsprop": lambda values: torch.optim.RMSprop(values, lr=0.01, weight_decay=0.1),
    }[rule](twin.parameters())
    sgd = torch.optim.SGD([other], **own)
    for step in range(4):
        ours.set_rate(0.01 / (1 + step))
        for group in torchs.param_groups:
            group["lr"] = 0.01 / (1 + step)
        images = torch.rand(5, 3)
        for module, mask, optimisers in ((layer, masks, (ours,)), (twin, other, (torchs, sgd))):
            for one in optimisers:
                one.zero_grad()
            (module(images).square().sum() + mask.pow(3).sum()).backward()
            for one in optimisers:
                one.step()
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), twin.parameters(), strict=True))
    assert torch.equal(masks, other)


def test_what_is_kept_comes_back_and_goes_on_alike():
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    options, images = Train(optimiser="adam", lr=0.01), torch.rand(6, 5, 3)

    def moved(layer, optimiser, batches):
        for batch in batches:
            optimiser.zero_grad()
            layer(batch).square().sum().backward()
            optimiser.step()

    ours = Optimiser([{"params": list(first.parameters())}], options, 0.01)
    moved(first, ours, images[:3])
    second = copy.deepcopy(first)
    again = Optimiser([{"params": list(second.parameters())}], options, 0.01)
    again.put_back(ours.kept(dict(first.named_parameters())), dict(second.named_parameters()))
    moved(first, ours, images[3:])
    moved(second, again, images[3:])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["adam", "rmsprop"])
def test_a_pruned_training_goes_on_exactly_before_and_behind_the_freeze(rule, make_pruning, make_plan, tmp_path):
    given = {"optimiser": rule, "lr": 0.005, "checkpoint_every_s": 0}
    plan = make_plan(steps=2, epochs=4, options=given)
    kinds = set()

    def train(folder, progress=silent):
        return fit(*make_pruning(), plan, folder, progress)

    hook = register_optimizer_step_pre_hook(
        lambda one, *_: kinds.add((type(one).__name__, *(group["name"] for group in one.param_groups)))
    )
    try:
        whole = train(tmp_path / "whole")
    finally:
        hook.remove()
    assert kinds == {({"adam": "Adam", "rmsprop": "RMSprop"}[rule], "weights"), ("SGD", "masks")}
    for last in (2, 5):

        def progress(step, steps, numbers, last=last):
            if step == last:
                raise Stop

        with pytest.raises(Stop):
            train(tmp_path / "cut", progress)
    again = train(tmp_path / "cut")
    assert same(state_of(again.net), state_of(whole.net))


def test_a_rate_for_sgd_is_refused_where_another_rule_moves_the_weights():
    with pytest.raises(RecipeError, match=r"train: lr is 0.2, a rate for sgd; adam takes 0.1 at most, mostly 0.001"):
        load_recipe("digits-resnet8", ("train.optimiser=adam",))
    assert load_recipe("digits-resnet8", ("train.optimiser=rmsprop", "train.lr=0.001")).train.optimiser == "rmsprop"
