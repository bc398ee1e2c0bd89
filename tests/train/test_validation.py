from __future__ import annotations

import signal
from math import comb

import pytest
import torch
from torch import nn
from trainings import Stop, same, state_of

from robustdeploy.core import interrupts
from robustdeploy.core.recipe import Budget
from robustdeploy.data.images import Images
from robustdeploy.data.noise import Noise
from robustdeploy.data.order import epoch_order
from robustdeploy.errors import Interrupted
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.prune.masks import Masks
from robustdeploy.train import loop
from robustdeploy.train import plan as plans
from robustdeploy.train.loop import fit
from robustdeploy.train.sentinel import vital_signs
from robustdeploy.train.tasks.standard import Standard
from robustdeploy.train.validation import VALIDATED, Validation, significantly_better, validate

# The judgement.


def outcomes(only_best, only_last, both=7, neither=5):
    """The bools of two nets on the same images, shuffled alike."""
    counts = torch.tensor([only_best, only_last, both, neither])
    best = torch.tensor([True, False, True, False]).repeat_interleave(counts)
    last = torch.tensor([False, True, True, False]).repeat_interleave(counts)
    order = torch.randperm(len(best), generator=torch.Generator().manual_seed(0))
    return best[order], last[order]


@pytest.mark.parametrize("differing", [*range(31), 200])
def test_better_beyond_chance_is_an_exact_sign_test(differing):
    """Of n images that only one net has right, k or more go to one side by luck with Σ C(n, i) / 2ⁿ, i from k to n."""
    verdicts = []
    for wins in range(differing + 1):
        luck = sum(comb(differing, i) for i in range(wins, differing + 1)) / 2**differing
        verdicts.append(significantly_better(*outcomes(wins, differing - wins)))
        assert verdicts[-1] is (luck < 0.05), (wins, luck)
    assert any(verdicts) == (differing >= 5)
    assert verdicts == sorted(verdicts)


def test_images_that_do_not_tell_the_nets_apart_have_no_say():
    for both, neither in ((0, 0), (300, 0), (0, 300), (100, 100)):
        assert significantly_better(*outcomes(9, 1, both, neither))
        assert not significantly_better(*outcomes(8, 2, both, neither))
        assert not significantly_better(*outcomes(1, 9, both, neither))


def test_the_verdict_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for wins, losses in ((5, 0), (4, 0), (8, 1), (20, 11), (21, 10), (60, 41), (61, 40)):
        luck = stats.binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue
        assert significantly_better(*outcomes(wins, losses)) is bool(luck < 0.05)


# The validation.


class Linear(nn.Module):
    """A net whose strongest perturbation within the ball is known: up where the other class weighs more."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(16, 2, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        return images.flatten(1) @ self.weights


@pytest.fixture
def points():
    """Images around the middle, far from black and white."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(96, 160, (600, 1, 4, 4), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 2, (600,), generator=generator)
    return Images(images=pixels, labels=labels, ids=torch.arange(600))


def test_what_is_right_and_stays_right_under_attack(points, make_plan):
    """On a linear net of two classes PGD with steps of a quarter of eps reaches the worst corner, and so the truth."""
    net, levels = Linear(), 10
    plan = make_plan(validation=points, threat=Threat(eps=levels / 255))
    found = validate(net, plan)
    pixels, labels = points.images[:VALIDATED].float() / 255, points.labels[:VALIDATED]
    own, other = net.weights.T[labels], net.weights.T[1 - labels]
    lead = (pixels.flatten(1) * (own - other)).sum(1)
    least = lead - levels / 255 * (own - other).abs().sum(1)
    assert found.clean.tolist() == (lead > 0).tolist()
    assert found.robust.tolist() == (least > 0).tolist()
    assert 0 < int(found.robust.sum()) < int(found.clean.sum()) < VALIDATED
    assert found.record() == {
        "validation_clean": pytest.approx((lead > 0).double().mean().item()),
        "validation_pgd10": pytest.approx((least > 0).double().mean().item()),
        "validation_n": 512,
    }


class WrongOnlyAtGrey(nn.Module):
    """A net that has every image right but the one that is grey all over."""

    def __init__(self):
        super().__init__()
        self.right = nn.Parameter(torch.ones(()))

    def forward(self, images):
        away = ((images - 128 / 255).abs().amax((1, 2, 3)) > 0.5 / 255).float()
        return torch.stack([away, 1 - away], 1) * self.right


def test_no_pass_holds_more_images_than_a_training_batch(points, make_plan):
    """What fits into memory while training fits while it is judged."""
    net, seen = Linear(), []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    validate(net, make_plan(validation=points, batch_size=32))
    vital_signs(net, make_plan(validation=points, batch_size=32), 512, step=1)
    assert max(seen) == 32


@pytest.mark.parametrize("looks_at", ["validate", "vital_signs", "_prove"])
def test_a_signal_while_held_out_images_are_judged_loses_nothing(
    looks_at, make_pruning, make_plan, tmp_path, monkeypatch
):
    """In the middle of the step that freezes the masks it waits for the step's end."""
    monkeypatch.setattr(plans, "FEWEST_STEPS_BETWEEN_CHECKS", 1)
    plan, received, judged = make_plan(), [], getattr(loop, looks_at)
    monkeypatch.setattr(interrupts, "_received", received)

    def disturbed(*parts):
        if not stopped:
            stopped.append(True)
            received.append(signal.SIGTERM)
        return judged(*parts)

    def trained(folder):
        net, pruning = make_pruning()
        return fit(net, pruning, plan, folder, lambda step, *numbers: steps.append(step))

    steps, stopped = [], [True]
    undisturbed = trained(tmp_path / "undisturbed")
    monkeypatch.setattr(loop, looks_at, disturbed)
    steps, stopped = [], []
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped")
    done, received[:] = steps[-1], []
    steps = []
    again = trained(tmp_path / "stopped")
    assert steps[0] == done + 1
    assert same(state_of(again.net), state_of(undisturbed.net))
    assert again.records == undisturbed.records


def test_an_image_that_is_wrong_as_it_is_is_not_robust(points, make_plan):
    """Whatever the attack makes of it."""
    pixels = points.images[:8].clone()
    pixels[::2] = 128
    grey = Images(images=pixels, labels=torch.zeros(8, dtype=torch.int64), ids=torch.arange(8))
    found = validate(WrongOnlyAtGrey(), make_plan(validation=grey, threat=Threat(eps=1 / 255)))
    assert found.clean.tolist() == [False, True] * 4
    assert found.robust.tolist() == [False, True] * 4


def test_a_validation_changes_nothing_and_is_the_same_each_time(make_net, make_plan):
    net, plan = make_net("dropout"), make_plan()
    net.train()
    before, torch_state = state_of(net), torch.get_rng_state()
    one, other = validate(net, plan), validate(net, plan)
    assert torch.equal(one.clean, other.clean)
    assert torch.equal(one.robust, other.robust)
    assert not bool((one.robust & ~one.clean).any())
    assert net.training
    assert same(state_of(net), before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_attacks_noise_is_a_function_of_the_seed_and_the_image(points, make_plan, monkeypatch):
    asked = []

    class Listening(Noise):
        def __init__(self, number, ids):
            asked.append((number, ids.tolist()))
            super().__init__(number, ids)

    monkeypatch.setattr("robustdeploy.train.batched.Noise", Listening)
    validate(Linear(), make_plan(validation=points.first(40), seed=3, batch_size=32))
    assert asked == [(key(3, "validation"), list(ids)) for ids in (range(32), range(32, 40))]


# The choice of the epoch. Trainings of four epochs of four steps, whose outcomes are said by the test.

EPOCHS, STEPS, HELD_OUT = 4, 4, 24


@pytest.fixture
def judged(monkeypatch):
    """Say how many held-out images each epoch's net keeps right under attack, the same ones first."""
    monkeypatch.setattr(plans, "FEWEST_STEPS_BETWEEN_CHECKS", 1)

    def install(*counts):
        left = list(counts)

        def told(module, plan):
            robust = torch.arange(HELD_OUT) < left.pop(0)
            return Validation(torch.ones(HELD_OUT, dtype=torch.bool), robust)

        monkeypatch.setattr(loop, "validate", told)
        return left

    return install


@pytest.fixture
def train(make_net, make_plan, tmp_path):
    def run(kind="dense", progress=None, folder=tmp_path, **options):
        plan = make_plan(epochs=EPOCHS, steps=STEPS, held_out=HELD_OUT, task=Standard(), shift=0, options=options)
        net, pruning, weights = make_net(), None, {}
        if kind == "pruned":
            pruning = Masks(warmup=0.1, freeze=0.3).wrap(net, (1, 8, 8), Budget(ops=0.4))  # in the second epoch

        def noted(step, steps, numbers):
            weights[step] = {name: value.detach().clone() for name, value in net.named_parameters()}
            if progress is not None:
                progress(step, steps, numbers)

        return fit(net, pruning, plan, folder, noted), weights, plan

    return run


def has(net, weights):
    """Whether ``net`` holds exactly these parameters."""
    return all(torch.equal(value, weights[name]) for name, value in net.named_parameters())


@pytest.mark.parametrize(
    ("counts", "best", "delivered"),
    [
        ((3, 20, 9, 10), 2, "best"),
        ((20, 3, 9, 10), 1, "best"),
        ((3, 9, 15, 10), 3, "best"),  # five images that only the best has right: luck once in 32
        ((3, 9, 14, 10), 3, "last"),  # four: luck once in 16
        ((3, 20, 20, 10), 3, "best"),  # of equals the later
        ((3, 9, 10, 10), 4, "last"),
        ((3, 9, 10, 20), 4, "last"),
        ((0, 0, 0, 0), 4, "last"),
    ],
)
def test_the_right_epochs_weights_are_delivered(counts, best, delivered, judged, train):
    judged(*counts)
    trained, weights, _ = train()
    assert trained.best_epoch == best
    assert trained.net is getattr(trained, delivered)
    assert has(trained.best, weights[best * STEPS])
    assert has(trained.last, weights[EPOCHS * STEPS])
    assert (trained.best is trained.last) == (best == EPOCHS)
    if best != EPOCHS:
        assert not has(trained.best, weights[EPOCHS * STEPS])
        assert not any(one is other for one in trained.best.parameters() for other in trained.last.parameters())
    assert not trained.best.training
    assert not trained.last.training


def test_the_last_is_delivered_on_request_and_the_best_is_still_there(judged, train):
    judged(3, 20, 9, 10)
    trained, weights, _ = train(select="last")
    assert trained.net is trained.last
    assert has(trained.net, weights[EPOCHS * STEPS])
    assert trained.best_epoch == 2
    assert has(trained.best, weights[2 * STEPS])


def first_statistics(net, inputs):
    """The first normalisation's mean and variance over ``inputs``, averaged over batches."""
    seen = []
    handle = net.net.bn.register_forward_hook(lambda module, given, out: seen.append(given[0].detach()))
    with torch.no_grad():
        for images in inputs:
            net(images.float() / 255)
    handle.remove()
    flat = [given.transpose(0, 1).flatten(1) for given in seen]
    return torch.stack([one.mean(1) for one in flat]).mean(0), torch.stack([one.var(1) for one in flat]).mean(0)


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_both_nets_have_settled_statistics(kind, judged, train):
    judged(3, 20, 9, 10)
    trained, _, plan = train(kind)
    order = epoch_order(plan.seed, EPOCHS, len(plan.train.labels))
    batches = [plan.train.images[part] for part in order.split(plan.options.batch_size)]
    found = {}
    for name in ("best", "last"):
        net = getattr(trained, name)
        mean, variance = first_statistics(net, batches)
        assert torch.allclose(net.net.bn.running_mean, mean, atol=1e-5)
        assert torch.allclose(net.net.bn.running_var, variance, rtol=1e-4)
        found[name] = mean
    assert not torch.allclose(found["best"], found["last"], atol=1e-4)


def test_epochs_before_the_freeze_are_never_chosen(judged, train):
    """They are of a net that does not meet its budget yet."""
    judged(24, 9, 3, 1)
    trained, _, _ = train("pruned")
    assert trained.best_epoch == 2
    assert trained.net is trained.best
    shapes = [[tuple(p.shape) for p in net.parameters()] for net in (trained.best, trained.last)]
    assert shapes[0] == shapes[1]
    weights = [next(net.parameters()) for net in (trained.best, trained.last)]
    assert not torch.equal(*weights)


def test_the_best_is_of_averaged_weights_where_those_are_kept(judged, train, make_net):
    judged(3, 20, 9, 10)
    trained, weights, _ = train(ema=0.7, lr=0.05)
    name = "net.conv.weight"
    average, expected = make_net().get_parameter(name).detach(), {}
    for step in range(1, EPOCHS * STEPS + 1):
        decay = min(0.7, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights[step][name]
        expected[step] = average
    assert torch.allclose(trained.best.get_parameter(name), expected[2 * STEPS], atol=1e-6)
    assert torch.allclose(trained.last.get_parameter(name), expected[EPOCHS * STEPS], atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "pruned"])
@pytest.mark.parametrize("last", [9, 13, 16])
def test_a_kill_after_the_best_epoch_does_not_lose_it(kind, last, judged, train, tmp_path):
    judged(3, 20, 9, 10)
    whole, _, _ = train(kind, folder=tmp_path / "whole")
    assert whole.best_epoch == 2

    def stopping(step, steps, numbers):
        if step == last:
            raise Stop

    left = judged(3, 20, 9, 10)
    with pytest.raises(Stop):
        train(kind, stopping, tmp_path / "killed")
    judged(*left)
    trained, _, _ = train(kind, folder=tmp_path / "killed")
    assert trained.best_epoch == 2
    assert trained.net is trained.best
    for name in ("best", "last"):
        assert same(state_of(getattr(trained, name)), state_of(getattr(whole, name)))


def test_a_finished_training_delivers_the_same_again(judged, train):
    judged(3, 20, 9, 10)
    first, _, _ = train()
    judged()  # nothing is validated again
    again, _, _ = train()
    assert again.best_epoch == first.best_epoch == 2
    assert same(state_of(again.net), state_of(first.net))
    assert same(state_of(again.last), state_of(first.last))
