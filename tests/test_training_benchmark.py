"""benchmarks/training.py: the reference is FastAT as published, turns are turns, and the figures are what they say."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from statistics import median

import pytest
import torch
from PIL import Image
from torch import nn

from robustdeploy.core.recipe import Train
from robustdeploy.data.noise import Noise
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.residual import ResidualNet
from robustdeploy.onboard.types import Threat
from robustdeploy.train.batches import Batches
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import Plan, single_phase
from robustdeploy.train.tasks.fastat import FastAt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import reference
import training
from pictures import SHAPE, pictures, random_pictures
from ratios import Ratio, ratios
from turns import Turns

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
EPS, ALPHA = 8 / 255, 10 / 255
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def make_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Normalised(ResidualNet(1, (4, 8, 8), 10, 3), MEAN, STD)


def a_batch(count=24, seed=3):
    ids = torch.arange(count)
    return Noise(seed, ids).uniform(0, SHAPE), ids % 10, Noise(seed + 1, ids)


def normalised(images, like):
    mean, std = (torch.tensor(values).to(like).view(-1, 1, 1) for values in (MEAN, STD))
    return (images.to(like) - mean) / std


def parameters(net):
    return torch.cat([parameter.detach().double().flatten() for parameter in net.parameters()])


def test_the_references_steps_are_ours_given_the_same_noise():
    """Two implementations that share nothing: pixels against normalised units, gradients of inputs against of all."""
    images, labels, noise = a_batch()
    ours, theirs = make_net().double().train(), make_net().double().train()
    like = torch.zeros((), dtype=torch.float64)
    schedule = reference.Schedule(steps=4, eps=EPS, alpha=ALPHA)
    box = reference.box_from(schedule, MEAN, STD, like)
    their_sgd = reference.optimiser_for(theirs.net, schedule)
    our_sgd = torch.optim.SGD(ours.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    before = parameters(ours)
    for _ in range(4):
        parts = FastAt()(ours, images.double(), labels, Threat(eps=EPS), noise)
        our_sgd.zero_grad()
        parts["loss"].backward()
        our_sgd.step()
        uniform = noise.uniform(0, SHAPE).double()
        numbers = reference.step(theirs.net, their_sgd, normalised(images, like), labels, uniform, box)
        assert numbers["loss"] == pytest.approx(parts["loss"].item(), rel=1e-5)
        assert numbers["accuracy"] == pytest.approx(parts["accuracy"].item())
    moved = (parameters(ours) - before).norm()
    assert (parameters(ours) - parameters(theirs)).norm() < 1e-4 * moved


def test_a_reference_with_another_attack_is_told_apart():
    images, labels, noise = a_batch()
    like, uniform = torch.zeros((), dtype=torch.float64), noise.uniform(0, SHAPE).double()
    ends = []
    for alpha in (ALPHA, 0.9 * ALPHA):
        net = make_net().double().train()
        schedule = reference.Schedule(steps=1, eps=EPS, alpha=alpha)
        box = reference.box_from(schedule, MEAN, STD, like)
        reference.step(
            net.net, reference.optimiser_for(net.net, schedule), normalised(images, like), labels, uniform, box
        )
        ends.append(parameters(net))
    moved = (ends[0] - parameters(make_net().double())).norm()
    assert (ends[0] - ends[1]).norm() > 1e-2 * moved


class Watching(nn.Module):
    """A net that keeps what it is fed."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.fc(images.flatten(1))


def test_the_reference_stays_in_the_ball_and_in_the_range_of_pixels():
    images, labels, noise = a_batch()
    net = Watching()
    schedule = reference.Schedule(steps=1, eps=EPS, alpha=ALPHA)
    box = reference.box_from(schedule, MEAN, STD, torch.zeros(()))
    given = normalised(images, torch.zeros(()))
    reference.step(net, reference.optimiser_for(net, schedule), given, labels, noise.uniform(0, SHAPE), box)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    start, attacked = (seen * std + mean for seen in net.seen)
    for fed in (start, attacked):
        assert (fed - images).abs().max() <= EPS + 1e-6
        assert fed.min() >= -1e-6
        assert fed.max() <= 1 + 1e-6
    inside = ((images > 2 * EPS) & (images < 1 - 2 * EPS)).flatten(1).any(0)
    assert ((attacked - start).abs().flatten(1).amax(0)[inside] > 0).float().mean() > 0.9


class Wide(nn.Module):
    """A net in float64 for a loop that feeds float32, so that rounding flips no sign of a gradient."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images.double())


@pytest.mark.slow
def test_our_whole_loop_makes_the_references_steps(tmp_path):
    """Order, schedule, attack and optimiser of a whole short training, against the plain step in another's hands."""
    data = random_pictures(96)
    options = Train(epochs=2, batch_size=24, lr=0.05, sentinel=False, precision="fp32", select="last")
    phase = single_phase(FastAt(alpha=ALPHA), options)
    plan = Plan(data.train, data.validation, (phase,), Threat(eps=EPS), options, seed=5)
    ours = fit(Wide(make_net().double()), None, plan, tmp_path, lambda step, steps, numbers: None).last
    theirs = make_net().double().train()
    schedule = reference.Schedule(plan.steps, 24, 0.05, eps=EPS, alpha=ALPHA)
    like = torch.zeros((), dtype=torch.float64)
    box, sgd = reference.box_from(schedule, MEAN, STD, like), reference.optimiser_for(theirs.net, schedule)
    batches = Batches(plan)
    for step in range(plan.steps):
        batch = batches.at(step)
        position = (step + 1) / (plan.steps + 1)
        sgd.param_groups[0]["lr"] = 0.05 * (2 * position if position < 0.5 else 2 - 2 * position)
        uniform = batch.noise.uniform(0, SHAPE).double()
        reference.step(theirs.net, sgd, normalised(batch.images, like), batch.labels, uniform, box)
    moved = (parameters(ours) - parameters(make_net())).norm()
    assert (parameters(ours) - parameters(theirs)).norm() < 1e-3 * moved


def test_the_reference_reads_whole_epochs_of_moved_and_mirrored_images():
    data = random_pictures(12)
    images = data.train.images.permute(0, 2, 3, 1).contiguous().numpy()
    held = reference.Pictures(images, list(range(12)), (0.0,) * 3, (1.0,) * 3)
    schedule = reference.Schedule(steps=6, batch_size=4, workers=0)
    batches = list(reference.loader(held, schedule))
    assert [len(labels) for _, labels in batches] == [4] * 6
    seen = [int(label) for _, labels in batches for label in labels]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]
    pixels, labels = batches[0]
    padded = nn.functional.pad(data.train.images[labels].float() / 255, (4, 4, 4, 4))
    for fed, whole in zip(pixels, padded, strict=True):
        windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)
        gaps = [(fed[:, None, None] - way).abs().amax((0, 3, 4)).min() for way in (windows, windows.flip(4))]
        assert min(gaps) < 1e-6


@pytest.mark.slow
def test_the_reference_lowers_its_loss():
    data = random_pictures(64)
    images = data.train.images.permute(0, 2, 3, 1).contiguous()
    labels = torch.arange(64) % 2
    images[labels == 1] //= 4  # dark images are the second class
    held = reference.Pictures(images.numpy(), labels.tolist(), MEAN, STD)
    schedule = reference.Schedule(steps=16, batch_size=32, workers=0, lr=0.1)
    losses = []
    net = make_net()
    box = reference.box_from(schedule, MEAN, STD, torch.zeros(()))
    reference.train(net.net, held, schedule, box, lambda step, steps, numbers: losses.append(numbers["loss"]))
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def write_steps(path, name, steps, after):
    for step in range(1, steps + 1):
        with path.open("a") as written:
            written.write(f"{name}{step} ")
        after(step, steps, {})


@pytest.mark.exhaustive
def test_a_training_moves_in_its_turn_only(tmp_path):
    path = tmp_path / "steps"
    with Turns(partial(write_steps, path, "a", 5)) as one, Turns(partial(write_steps, path, "b", 3)) as two:
        assert one.advance(2) >= 0
        assert path.read_text() == "a1 a2 "
        two.advance(1)
        one.advance(1)
        two.advance(9)
        assert path.read_text() == "a1 a2 b1 a3 b2 b3 "
        assert (one.done, one.ended, two.done, two.ended) == (3, False, 3, True)
        assert two.advance(1) == 0
    assert path.read_text().endswith("b3 ")


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def read(self):
        return self.now

    def move(self, seconds):
        self.now += seconds

    def train(self, after):
        for step in range(4):
            self.move(1.0)
            after(step + 1, 4, {})
        self.move(0.5)


@pytest.mark.exhaustive
def test_a_turn_lasts_as_long_as_its_own_steps_and_the_device():
    hands = Hands()
    with Turns(hands.train, partial(hands.move, 0.25), clock=hands.read) as turns:
        assert turns.advance(3) == 3.25
        assert turns.advance(9) == 1.75
        assert turns.seconds == 5.0


def break_at_step_two(after):
    after(1, 2, {})
    raise ValueError("broken")


def end_at_step_two(after):
    after(1, 2, {})
    os._exit(9)


@pytest.mark.exhaustive
def test_what_a_training_raises_is_raised_where_it_is_waited_for():
    with Turns(break_at_step_two) as turns:
        turns.advance(1)
        with pytest.raises(ValueError, match="broken"):
            turns.advance(1)
    with Turns(break_at_step_two):
        pass  # one that never had a turn


def test_a_training_whose_process_is_killed_is_told():
    with Turns(end_at_step_two) as turns:
        turns.advance(1)
        with pytest.raises(RuntimeError, match="exit code 9"):
            turns.advance(1)


def test_the_ratios_follow_from_the_rates():
    rates = {"reference": (100.0, 50.0), "dense": (300.0, 100.0), "masks": (250.0, 100.0), "compact": (600.0, 400.0)}
    found = {ratio.name: ratio for ratio in ratios(rates, share=0.4)}
    assert found["dense / reference"].values == (3.0, 2.0)
    assert found["dense / reference"].meets is True
    assert found["time of a step with masks / dense"].values == (1.2, 1.0)
    assert found["time of a step with masks / dense"].meets is False
    whole = found["time of all steps, pruned / dense"]
    # One step of dense takes 1/300 s and 1/100 s; of each ten steps four have masks and six are compact.
    assert whole.values == pytest.approx((0.4 * 300 / 250 + 0.6 * 300 / 600, 0.4 + 0.6 * 100 / 400))
    assert whole.meets is True
    assert found["pruned, all steps / reference"].values == pytest.approx((3 / 0.78, 2 / 0.55))
    assert found["pruned, all steps / reference"].meets is None


def test_a_ratio_is_judged_by_its_median():
    assert Ratio("x", (1.0, 9.0, 2.0), at_least=2.0).plain()["value"] == 2.0
    assert Ratio("x", (1.0, 9.0, 2.0), at_least=2.1).meets is False
    assert Ratio("x", (1.0, 9.0, 2.0), at_most=2.0).meets is True


def test_random_pictures_are_the_same_every_time_and_look_like_cifar():
    first, second = random_pictures(50), random_pictures(50)
    assert torch.equal(first.train.images, second.train.images)
    assert (first.train.images.dtype, first.train.images.shape) == (torch.uint8, (50, 3, 32, 32))
    assert not torch.equal(first.train.images[:5], first.validation.images)
    assert first.train.images.float().mean() == pytest.approx(127.5, abs=2)
    assert set(first.train.labels.tolist()) == set(range(10))


def test_fewer_pictures_of_a_folder_keep_its_proportions(tmp_path):
    for part, count in (("train", 20), ("test", 1)):
        for number, name in enumerate(CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            for place in range(count):
                Image.new("RGB", (32, 32), (number, place, 7)).save(tmp_path / part / name / f"{place}.png")
    whole, some = pictures(tmp_path, None), pictures(tmp_path, 90)
    assert (len(whole.train), len(whole.validation)) == (180, 20)
    assert (len(some.train), len(some.validation)) == (90, 10)
    assert torch.equal(some.train.images, whole.train.images[:90])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_whole_benchmark_runs_and_says_what_it_did(capfd):
    words = "--net resnet8 --images 64 --batch-size 8 --steps 2 --rounds 3 --workers 1 --threads 1 --device cpu"
    assert training.main([*words.split(), "--precision", "fp32", "--whole", "1", "--json"]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    given = report["conditions"]
    assert given["n"] == 3 * 2 * 8
    assert (given["net"], given["precision"], given["threads"], given["batch_size"]) == ("resnet8", "float32", 1, 8)
    assert given["torch"] == torch.__version__
    assert given["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert "random" in given["images"]
    assert {"load_before", "load_after"} <= given.keys()
    rates = report["images_per_s"]
    assert list(rates) == ["reference", "dense", "masks", "compact"]
    for of in rates.values():
        assert len(of["rounds"]) == 3
        assert of["median"] == median(of["rounds"]) > 0
    (first,) = [ratio for ratio in report["ratios"] if ratio["name"] == "dense / reference"]
    quotients = [a / b for a, b in zip(rates["dense"]["rounds"], rates["reference"]["rounds"], strict=True)]
    assert first["values"] == pytest.approx(quotients)
    assert 0.3 < report["masks_share"] < 0.5
    assert report["whole"]["epochs"] == 1
    assert report["whole"]["images"] == 64
    assert min(report["whole"]["seconds"].values()) > 0
    assert "round 3 of 3" in err
    text = training.in_words(report)
    assert "n = 48" in text
    assert "random images" in text
    assert str(given["load_before"]) in text


def test_a_wrong_request_is_one_sentence(capsys):
    assert training.main(["--net", "resnet21"]) == 2
    assert "unknown net 'resnet21'" in capsys.readouterr().err
