from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trainings import Stop, same, silent, state_of

from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.files import canonical_json
from robustdeploy.core.recipe import Train
from robustdeploy.data.images import Images
from robustdeploy.data.noise import Noise
from robustdeploy.nets.normalised import Normalised
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Threat
from robustdeploy.train import checkpointing, loop
from robustdeploy.train import plan as plans
from robustdeploy.train.checkpoints import load_checkpoint
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import Plan, single_phase
from robustdeploy.train.sentinel import (
    PROBE,
    SentinelProbe,
    collapse,
    sound,
    suspicious,
    task_after,
    vital_signs,
    watches,
)
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.free import Free
from robustdeploy.train.tasks.n_fgsm import NFgsm
from robustdeploy.train.tasks.pgd import PgdAt
from robustdeploy.train.tasks.standard import Standard
from robustdeploy.train.tasks.trades import Trades

# A real collapse.


@pytest.fixture(scope="module")
def strokes(digits):
    """Digits like MNIST's: larger, and black or white. A net can stand a large eps there, or collapse."""

    def enlarged(part):
        pixels = F.interpolate(part.images.float() / 255, size=(16, 16), mode="bilinear", align_corners=False)
        return Images(images=(pixels > 0.5).to(torch.uint8) * 255, labels=part.labels, ids=part.ids)

    return enlarged(digits.train), enlarged(digits.validation)


@pytest.fixture
def collapsing(strokes):
    """Return a net and a plan to train it with one step of twice eps (Wong, Rice and Kolter's case of collapse)."""

    def make(sentinel, epochs=80):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
            net = Normalised(nn.Sequential(*layers), [0.5], [0.4])
        options = Train(epochs=epochs, batch_size=64, lr=0.1, weight_decay=0, precision="fp32", sentinel=sentinel)
        task, threat = FastAt(alpha=2 * 0.38), Threat(eps=0.38)
        phases = (single_phase(task, options),)
        return net, Plan(strokes[0], strokes[1], phases, threat, options, seed=0)

    return make


@pytest.mark.slow
def test_a_training_that_collapses_ends_with_a_robust_net_if_it_is_watched(collapsing, tmp_path):
    judged = {}
    for watched in (False, True):
        net, plan = collapsing(sentinel=watched)
        trained = fit(net, None, plan, tmp_path / str(watched), silent)
        judged[watched] = vital_signs(trained.net, replace(plan, seed=1), 512, step=0), trained
    blind, unwatched = judged[False]
    assert unwatched.events == []
    assert blind.n == len(plan.validation)
    assert blind.fgsm > 0.4  # FGSM does not find what PGD finds
    assert blind.pgd10 < 0.15
    healthy, trained = judged[True]
    assert healthy.pgd10 > 0.3
    assert healthy.pgd10 > blind.pgd10 + 0.2
    assert [event["event"] for event in trained.events] == ["catastrophic overfitting"]
    (event,) = trained.events
    assert "PGD-10 only" in event["reason"]
    assert event["back_to_step"] < event["step"] < plan.steps
    assert (event["task"], event["task_from_here"]) == (repr(plan.phases[0].objective), repr(PgdAt(steps=4)))
    assert trained.records[-1]["collapses"] == 1


# Its signs.


class Waves(nn.Module):
    """A linear net with waves on it: its loss goes up and down within the ball, so that every sign shows."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.inward = nn.Parameter(6 * torch.randn(64, 24, generator=generator))
        self.outward = nn.Parameter(torch.randn(24, 10, generator=generator))
        self.direct = nn.Parameter(4 * torch.randn(64, 10, generator=generator))

    def forward(self, images):
        flat = images.flatten(1)
        return torch.sin(flat @ self.inward) @ self.outward + flat @ self.direct


@pytest.fixture
def waves(digits):
    """A wavy net and images of which it has six in seven right."""
    net, images = Waves(), digits.validation
    with torch.no_grad():
        labels = net(images.images.float() / 255).argmax(1)
    labels[::7] = (labels[::7] + 1) % 10
    return net, replace(images, labels=labels)


def slope(net, points, labels):
    points = points.clone().requires_grad_()
    F.cross_entropy(net(points), labels, reduction="sum").backward()
    return points.grad


def grey(points):
    return (points * 255).round() / 255


@pytest.mark.parametrize("eps", [0.03, 0.05])
def test_vital_signs_are_what_plain_torch_says(eps, waves, make_plan):
    """With parts of 32 images: neither noise nor signals depend on how they are cut."""
    net, images = waves
    n, levels = 100, int(eps * 255)
    found = vital_signs(net, make_plan(validation=images, threat=Threat(eps=eps), seed=5), n, step=77)
    assert (found.step, found.n) == (77, n)

    x, y = images.images[:n].float() / 255, images.labels[:n]
    low, high = grey((x - levels / 255).clamp(min=0)), grey((x + levels / 255).clamp(max=1))
    noise = Noise(key(5, "probe"), torch.arange(n))
    gradient = slope(net, x, y)
    single = grey((x + levels / 255 * gradient.sign()).clamp(low, high))
    right = net(single).argmax(1) == y
    assert found.fgsm == pytest.approx(right.float().mean().item(), abs=1e-6)

    inside = sum((net(x + part * (single - x)).argmax(1) != y).int() for part in (0.25, 0.5, 0.75)) > 0
    assert found.interior == pytest.approx((right & inside).float().mean().item(), abs=1e-6)
    assert found.interior > 0

    there = (x + eps * (2 * noise.uniform(1, (1, 8, 8)) - 1)).clamp(0, 1)
    cosines = [
        torch.dot(a, b) / (a.norm() * b.norm())
        for a, b in zip(gradient.double().flatten(1), slope(net, there, y).double().flatten(1), strict=True)
    ]
    assert gradient.flatten(1).norm(dim=1).min() < 1e-8  # a few images are all but certain, and count like all others
    assert found.alignment == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-5)

    point, standing = grey(low + (high - low) * noise.uniform(0, (1, 8, 8))), torch.ones(n, dtype=torch.bool)
    for step in range(11):
        standing &= net(point).argmax(1) == y
        if step < 10:
            climbed = grey(point + max(levels / 255 / 4, 1 / 255) * slope(net, point, y).sign())
            point = torch.minimum(torch.maximum(climbed, low), high)
    assert found.pgd10 == pytest.approx(standing.float().mean().item(), abs=1.01 / n)
    assert 0.1 < found.pgd10 < found.fgsm - 0.1
    assert found.gap == found.fgsm - found.pgd10
    assert found.pgd10_of_probe == pytest.approx(standing[:PROBE].float().mean().item(), abs=1.01 / PROBE)


def test_vital_signs_leave_the_net_as_it_was(make_net, make_plan):
    net = make_net("dropout")
    net.train()
    net.net.layers[1].eval()  # a layer that its owner keeps still
    before, modes = state_of(net), [module.training for module in net.modules()]
    one, other = (vital_signs(net, make_plan(), 16, step=1) for _ in range(2))
    assert one == other  # no dropout, and the same noise each time
    assert same(state_of(net), before)
    assert [module.training for module in net.modules()] == modes
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_small_held_out_set_is_taken_whole(waves, make_plan):
    net, images = waves
    assert vital_signs(net, make_plan(validation=images.first(9)), 512, step=1).n == 9


def probes(fgsm=0.5, pgd10=0.45, alignment=0.9, interior=0.0, n=64, of_probe=None):
    first = pgd10 if of_probe is None else of_probe
    return SentinelProbe(1, n, fgsm, pgd10, alignment, interior, pgd10_of_probe=first)


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (probes(), [], False),
        (probes(0.59, 0.45), [], False),
        (probes(0.61, 0.45), [], True),
        (probes(0.35, 0.31), [probes()], False),
        (probes(0.35, 0.29), [probes()], True),
        (probes(0.35, 0.29), [probes(), probes(0.3, 0.25)], True),  # below the highest, not below the latest
        (probes(interior=0.09), [], False),
        (probes(interior=0.11), [], True),
        (probes(alignment=0.44), [probes()] * 5, True),
        (probes(alignment=0.46), [probes()] * 5, False),
        (probes(alignment=0.1), [probes()] * 4, False),  # too few to tell
        (probes(alignment=0.3), [*[probes()] * 9, *[probes(alignment=0.5)] * 5], False),  # it has fallen slowly
        (probes(alignment=0.3), [*[probes()] * 3, *[probes(alignment=0.5)] * 2], True),
    ],
)
def test_what_is_suspicious(now, before, expected):
    assert suspicious(now, before) is expected


@pytest.mark.parametrize(
    ("now", "before", "reason"),
    [
        (probes(), [], None),
        (probes(0.6, 0.41), [], None),
        (probes(0.6, 0.39, n=512), [], "FGSM leaves 60.0% of 512 held-out images right, PGD-10 only 39.0%"),
        (probes(0.9, 0.0, n=512), [probes()], "FGSM leaves 90.0% of 512 held-out images right, PGD-10 only 0.0%"),
        (probes(0.3, 0.2), [probes()], None),  # a drop alone: a large learning rate does that
        (probes(0.55, 0.42), [probes()], None),  # a gap alone, and not a large one
        (
            probes(0.47, 0.34, n=300),
            [probes()],
            "accuracy under PGD-10 fell by 11.0% on the 64 images of a probe; of 300, PGD-10 leaves 34.0% right and "
            "FGSM 47.0%",
        ),
        (probes(0.47, 0.34, n=512, of_probe=0.42), [probes()], None),  # lower on the others, but not lower than it was
        (probes(0.0, 0.0), [probes(alignment=-1)] * 5, None),
        (probes(alignment=-1, interior=1), [probes()] * 5, None),  # they only raise suspicion
    ],
)
def test_what_counts_as_a_collapse(now, before, reason):
    assert collapse(now, before) == reason


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (probes(), [], True),
        (probes(0.54, 0.45), [], True),
        (probes(0.56, 0.45), [], False),
        (probes(0.56, 0.45), [probes()] * 9, False),
        (probes(0.56, 0.45), [probes(0.57, 0.45)] * 3, True),  # that is its way
        (probes(0.57, 0.45), [*[probes(0.58, 0.45)] * 9, *[probes()] * 3], False),  # it was, and is not any more
        (probes(alignment=0.68), [probes()], True),
        (probes(alignment=0.67), [probes()], False),
        (probes(alignment=0.5), [*[probes()] * 9, *[probes(alignment=0.6)] * 3], True),
    ],
)
def test_what_is_sound(now, before, expected):
    assert sound(now, before) is expected


def test_a_slow_collapse_is_left_where_it_began():
    """FGSM, PGD-10 and cosine every 87 steps: the shape of ResNet-20 at 0.3, from fresh weights, on CIFAR-10."""
    seen = [
        (0.016, 0.000, 0.384),
        (0.063, 0.016, 0.524),
        (0.063, 0.063, 0.617),
        (0.188, 0.125, 0.636),
        (0.141, 0.125, 0.684),
        (0.188, 0.078, 0.635),
        (0.156, 0.078, 0.590),
        (0.172, 0.125, 0.600),
        (0.201, 0.088, 0.531),
        (0.219, 0.094, 0.414),
    ]
    told = [probes(*probe) for probe in seen]
    assert not any(suspicious(now, told[:place]) for place, now in enumerate(told))
    assert [place for place, now in enumerate(told) if sound(now, told[:place])][-1] == 7
    assert collapse(probes(0.223, 0.014, n=512), told) is not None


def test_the_ladder_of_tasks():
    task = FastAt(alpha=0.1, clean=0.25)
    weak, strong = 16 / 255, 17 / 255
    assert task_after(task, 0, strong) is task
    assert task_after(task, 1, weak) == NFgsm(clean=0.25)
    assert [task_after(task, count, weak) for count in (2, 3, 9)] == [PgdAt(steps=4, clean=0.25)] * 3
    assert [task_after(task, count, strong) for count in (1, 2, 9)] == [PgdAt(steps=4, clean=0.25)] * 3
    stronger = NFgsm(noise=3.0, clean=0.25)  # would collapse again, step by step, if it took its own place
    assert [task_after(stronger, count, weak) for count in (1, 2)] == [PgdAt(steps=4, clean=0.25)] * 2
    assert task_after(lambda *given: {}, 1, weak) == NFgsm(clean=0.0)  # a user's task knows no share


def test_single_step_tasks_are_watched_and_no_others():
    assert [watches(task) for task in (FastAt(), Free(), NFgsm())] == [True] * 3
    assert [watches(task) for task in (PgdAt(), Trades(), Standard(), lambda *given: {})] == [False] * 4


# Going back. Here only the decision is replaced: a training of twelve steps is told that it has collapsed.


KINDS = {
    "dense": {},
    "pruned": {},
    "averaged": {"options": {"ema": 0.8}},
    "dropout": {},
    "free": {"task": Free(replays=3)},
}
"""Masks freeze at step 6: going back from step 10 to step 5 undoes that the net was made smaller."""
BACK, DETECTED, LAST = 5, 10, 12


class Decision:
    """Finds a collapse at each of ``steps`` once and all states sound but those at ``ailing``, whatever the signals."""

    def __init__(self, *steps, ailing=()):
        self.due, self.ailing = list(steps), ailing

    def sound(self, now, before):
        return now.step not in self.ailing

    def suspicious(self, now, before):
        return now.step in self.due

    def collapse(self, now, before):
        if now.step not in self.due:
            return None
        self.due.remove(now.step)
        return "the test says so"


@pytest.fixture
def decide(monkeypatch):
    """Look after a training's health every five steps and validate it after every epoch; decide as the test says."""
    monkeypatch.setattr(Plan, "probe_every", 5)
    monkeypatch.setattr(plans, "FEWEST_STEPS_BETWEEN_CHECKS", 1)

    def install(*steps, ailing=()):
        decision = Decision(*steps, ailing=ailing)
        monkeypatch.setattr(loop, "sound", decision.sound)
        monkeypatch.setattr(loop, "suspicious", decision.suspicious)
        monkeypatch.setattr(loop, "collapse", decision.collapse)
        return decision

    return install


@pytest.fixture
def train(make_net, make_pruning, make_plan):
    def run(folder, kind="dense", progress=silent, callback=SILENT, **more):
        options = {**KINDS[kind].get("options", {}), **more.pop("options", {})}
        plan = make_plan(**{**KINDS[kind], **more, "options": options})
        net, pruning = make_pruning() if kind in ("pruned", "averaged") else (make_net(kind), None)
        return fit(net, pruning, plan, folder, progress, callback)

    return run


def stopping_at(step, time=1):
    """Stop when ``step`` has been made for the ``time``-th time."""
    seen = []

    def progress(now, steps, numbers):
        seen.append(now)
        if seen.count(step) == time:
            raise Stop

    return progress


def without_collapses(records):
    return [{name: value for name, value in record.items() if name != "collapses"} for record in records]


def healthy(folder):
    return load_checkpoint(folder / "checkpoints" / "healthy")


@pytest.mark.parametrize("kind", KINDS)
def test_going_back_restores_all_but_the_event(kind, train, decide, tmp_path):
    decide()
    with pytest.raises(Stop):
        train(tmp_path / "undisturbed", kind, stopping_at(BACK + 1))
    decide(DETECTED)
    with pytest.raises(Stop):
        train(tmp_path / "back", kind, stopping_at(BACK + 1, time=2))
    expected, found = healthy(tmp_path / "undisturbed"), healthy(tmp_path / "back")
    assert expected.step == found.step == BACK
    assert {name.partition(".")[0] for name in found.tensors} >= {"net", "momentum"}
    assert ("perturbation" in found.tensors) == (kind == "free")
    assert any(name.startswith("masks.logits") for name in found.tensors) == (kind in ("pruned", "averaged"))
    assert any(name.startswith("best.") for name in found.tensors) == (kind not in ("pruned", "averaged"))
    assert same(dict(found.tensors), dict(expected.tensors))
    assert found.values["shrunk_at"] is None
    values = {**found.values}
    (event,) = values.pop("events")
    undisturbed = {**expected.values}
    # What was spent in vain was spent.
    assert values.pop("passes")["backward"] > undisturbed.pop("passes")["backward"]
    assert values.pop("seconds") > 0 < undisturbed.pop("seconds")
    assert {**values, "events": []} == undisturbed
    assert (event["step"], event["back_to_step"], event["reason"]) == (DETECTED, BACK, "the test says so")
    latest = load_checkpoint(tmp_path / "back" / "checkpoints")
    assert (latest.step, latest.values) == (found.step, found.values)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("undisturbed", "back")]
    assert logs[0] == logs[1]


class Told(Callback):
    """What a tracker holds after all it was told."""

    def __init__(self):
        self.events, self.records, self.lengths = [], [], []

    def event(self, event):
        self.events.append(event)

    def history(self, place, records, *, anew):
        self.records = list(records)
        self.lengths.append((len(records), anew))

    def metrics(self, place, epoch, numbers):
        self.records.append(numbers)


def test_trackers_hear_that_a_training_goes_back_and_from_where_it_goes_on(train, decide, tmp_path):
    decide(DETECTED)
    told = Told()
    trained = train(tmp_path, callback=told)
    (event,) = told.events
    assert (event.kind, event.place) == ("returned", "train")
    assert event.text.startswith(f"the test says so; it goes back to step {BACK} and on with PgdAt(")
    assert told.lengths == [(0, True), (BACK // 4, False)]
    assert told.records == trained.records
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(f"{canonical_json(each)}\n" for each in told.records)


@pytest.fixture
def undisturbed(kind, train, decide, monkeypatch, tmp_path):
    """A training without a collapse; in what follows, a collapse changes the task into itself."""
    monkeypatch.setattr("robustdeploy.train.training.task_after", lambda task, collapses, eps: task)
    decide()
    return train(tmp_path / "undisturbed", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_not_sound_is_passed_over_on_the_way_back(kind, train, decide, undisturbed, tmp_path):
    decide(LAST, ailing=[DETECTED])
    trained = train(tmp_path / "back", kind)
    assert [(event["step"], event["back_to_step"]) for event in trained.events] == [(LAST, BACK)]
    assert same(state_of(trained.net), state_of(undisturbed.net))
    assert trained.proof == undisturbed.proof


@pytest.mark.parametrize("kind", KINDS)
def test_after_going_back_to_the_same_task_nothing_tells_that_it_happened(kind, train, decide, undisturbed, tmp_path):
    """What is not in a checkpoint, such as which masks still learn, must have come back too."""
    decide(DETECTED, DETECTED, LAST)
    trained = train(tmp_path / "back", kind)
    assert [event["step"] for event in trained.events] == [DETECTED, DETECTED, LAST]
    assert [event["back_to_step"] for event in trained.events] == [BACK, BACK, DETECTED]
    assert without_collapses(trained.records) == without_collapses(undisturbed.records)
    for name in ("net", "best", "last"):
        assert same(state_of(getattr(trained, name)), state_of(getattr(undisturbed, name)))
    assert trained.best_epoch == undisturbed.best_epoch
    assert trained.proof == undisturbed.proof
    states = [load_checkpoint(tmp_path / name / "checkpoints") for name in ("back", "undisturbed")]
    assert same(*(dict(state.tensors) for state in states))


def test_a_collapse_before_the_first_healthy_probe_begins_anew(train, decide, tmp_path):
    decide(BACK)
    trained = train(tmp_path / "back")
    assert [event["back_to_step"] for event in trained.events] == [0]
    decide()
    safer = train(tmp_path / "safer", task=PgdAt(steps=4))
    assert same(state_of(trained.net), state_of(safer.net))
    assert [record["collapses"] for record in trained.records] == [1, 1, 1]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pruned", "free"])
def test_a_kill_at_any_step_after_a_collapse_resumes_into_the_safer_task(kind, train, decide, tmp_path):
    decide(DETECTED)
    whole = train(tmp_path / "whole", kind, options={"checkpoint_every_s": 0})
    log = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    for step in range(BACK + 1, LAST + 1):
        folder = tmp_path / str(step)
        for every_s in (0, 600):
            often = {"checkpoint_every_s": every_s}
            decide(DETECTED)
            with pytest.raises(Stop):
                train(folder, kind, stopping_at(step, 2 if step <= DETECTED else 1), options=often)
            decide()
            trained = train(folder, kind, options=often)
            assert trained.events == whole.events, step
            assert same(state_of(trained.net), state_of(whole.net)), step
            assert (folder / "metrics.jsonl").read_bytes() == log, step
            folder = tmp_path / f"{step}-seldom"


@pytest.mark.parametrize("saved", [0, 1, 2])
def test_a_kill_while_going_back_loses_nothing(saved, train, decide, monkeypatch, tmp_path):
    """Of what is written on going back, ``saved`` files are complete. If none is, the collapse is found again."""
    decide(DETECTED)
    whole = train(tmp_path / "whole", "pruned")
    decision, written, write = decide(DETECTED), [], checkpointing.save_checkpoint

    def dying(*given, **more):
        if not decision.due:
            if len(written) == saved:
                raise Stop
            written.append(given)
        return write(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_checkpoint", dying)
        with pytest.raises(Stop):
            train(tmp_path / "killed", "pruned")
    again = decide(*([] if saved else [DETECTED]))
    trained = train(tmp_path / "killed", "pruned")
    assert again.due == []
    assert trained.events == whole.events
    assert same(state_of(trained.net), state_of(whole.net))
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed")]
    assert logs[0] == logs[1]


@pytest.fixture
def called(monkeypatch):
    """Note which task's passes are made, in order, each name once in a row."""
    names = []

    def note(kind):
        original = kind.__call__

        def noted(self, *given):
            if names[-1:] != [kind.__name__]:
                names.append(kind.__name__)
            return original(self, *given)

        monkeypatch.setattr(kind, "__call__", noted)

    for kind in (FastAt, NFgsm, PgdAt):
        note(kind)
    return names


def test_each_collapse_puts_a_safer_task_in_place_and_the_last_is_not_watched(
    train, decide, called, monkeypatch, tmp_path
):
    decision, probes, probe = decide(DETECTED, DETECTED, DETECTED, LAST), [], loop.vital_signs

    def noted(*given):
        probes.append(given[-1])
        return probe(*given)

    monkeypatch.setattr(loop, "vital_signs", noted)
    trained = train(tmp_path, threat=Threat(eps=16 / 255), task=FastAt(clean=0.25))
    assert called == ["FastAt", "NFgsm", "PgdAt"]
    assert [event["task"] for event in trained.events] == [repr(FastAt(clean=0.25)), repr(NFgsm(clean=0.25))]
    assert trained.events[-1]["task_from_here"] == repr(PgdAt(steps=4, clean=0.25))
    assert decision.due == [DETECTED, LAST]  # nobody asked again
    assert probes == [BACK, DETECTED, DETECTED, DETECTED, DETECTED]  # each time a probe, and more images to confirm it


def test_strong_noise_is_passed_over_where_it_would_hide_the_image(train, decide, called, tmp_path):
    decision = decide(DETECTED, DETECTED)
    trained = train(tmp_path, threat=Threat(eps=17 / 255))
    assert called == ["FastAt", "PgdAt"]
    assert len(trained.events) == 1
    assert decision.due == [DETECTED]


def test_the_log_shows_signals_and_collapses(train, decide, tmp_path):
    decide(DETECTED)
    trained = train(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == trained.records
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line.get("collapses") for line in lines] == [None, 1, 1]  # the first epoch ended before the first probe
    kept = healthy(tmp_path)
    assert kept.step == BACK
    assert lines[-1]["probe_pgd10"] == kept.values["probes"][-1]["pgd10"]
    assert lines[-1]["probe_n"] == 24


@pytest.mark.parametrize("more", [{"task": PgdAt(steps=2)}, {"options": {"sentinel": False}}])
def test_nothing_is_watched_that_cannot_collapse_or_is_not_to_be(more, train, decide, monkeypatch, tmp_path):
    decide(BACK, DETECTED, LAST)
    monkeypatch.setattr(loop, "vital_signs", None)  # calling it would raise
    trained = train(tmp_path, **more)
    assert trained.events == []
    assert not (tmp_path / "checkpoints" / "healthy").exists()
    assert all("collapses" not in record for record in trained.records)


def test_a_suspicion_is_looked_into_on_more_images(train, decide, monkeypatch, tmp_path):
    """What is remembered is the better founded of the two."""
    decide()
    monkeypatch.setattr(loop, "PROBE", 8)
    monkeypatch.setattr(loop, "suspicious", lambda now, before: now.step == DETECTED)
    trained = train(tmp_path)
    assert trained.events == []
    state = load_checkpoint(tmp_path / "checkpoints")
    assert [(one["step"], one["n"]) for one in state.values["probes"]] == [(BACK, 8), (DETECTED, 24), (LAST, 8)]
