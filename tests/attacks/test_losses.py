from __future__ import annotations

import pytest
import torch

from robustdeploy.attacks.losses import LOSSES, TARGETED, Goal, cross_entropy, dlr, likeliest, margin_loss, targeted_dlr

SCORES = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.0, 5.0, 4.0, 1.0], [1.0, 1.5, 9.0, 8.0]])
LABELS = torch.tensor([0, 2, 1])


def test_the_ratio_of_differences_is_that_of_the_paper():
    # (best other - own) / (best - third best), by hand.
    assert torch.allclose(dlr(SCORES, LABELS), torch.tensor([-1.0 / 2, 1.0 / 4, 7.5 / 7.5]))
    # (target - own) / (best - mean of third and fourth).
    targets = torch.tensor([1, 3, 2])
    assert torch.allclose(targeted_dlr(SCORES, LABELS, targets), torch.tensor([-2.0 / 3, -3.0 / 4.5, 7.5 / 7.75]))


def test_it_does_not_depend_on_the_scale_and_its_sign_tells_who_is_fooled():
    assert torch.allclose(dlr(1000 * SCORES + 3, LABELS), dlr(SCORES, LABELS), atol=1e-6)
    assert torch.equal(dlr(SCORES, LABELS) > 0, SCORES.argmax(1) != LABELS)


def test_of_few_classes_as_many_ranks_are_taken_as_there_are():
    two = SCORES[:, :2]
    assert torch.equal(dlr(two, torch.tensor([0, 1, 0])), margin_loss(two, torch.tensor([0, 1, 0])))
    three = SCORES[:, :3]
    assert torch.allclose(targeted_dlr(three, torch.tensor([0, 2, 1]), torch.tensor([1, 1, 2]))[0], torch.tensor(-1.0))
    tied = torch.zeros(1, 3)
    assert torch.isfinite(dlr(tied, torch.tensor([0]))).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_targeted_loss_rises_with_its_target(name):
    targets = torch.tensor([1, 3, 0])
    raised = SCORES.clone()
    raised[torch.arange(3), targets] += 0.5
    assert (TARGETED[name](raised, LABELS, targets) > TARGETED[name](SCORES, LABELS, targets)).all()


def test_a_goal_keeps_each_target_with_its_image():
    goal = Goal(LABELS, "margin", torch.tensor([1, 3, 2]))
    some = torch.tensor([2, 0])
    picked = goal.select(some)
    assert torch.equal(picked.loss(SCORES[some], LABELS[some]), goal.loss(SCORES, LABELS)[some])
    assert torch.equal(Goal(LABELS).loss(SCORES, LABELS), cross_entropy(SCORES, LABELS))


def test_the_likeliest_other_classes_come_first():
    assert likeliest(SCORES, LABELS, 2).tolist() == [[2, 1], [1, 3], [2, 3]]
    assert likeliest(SCORES, LABELS, 9).shape == (3, 3)
