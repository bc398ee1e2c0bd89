"""What a pruner prepares before it trains scores: when, on what, counted, told, and exactly resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import Stop, same, silent, state_of

from robustdeploy.core.callback import Callback
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.recipe import Budget
from robustdeploy.errors import Interrupted
from robustdeploy.prune.amc import Amc
from robustdeploy.prune.protocol import Prepared, own_state
from robustdeploy.train.loop import fit
from robustdeploy.train.plan import PlannedPhase
from robustdeploy.train.tasks.fastat import FastAt
from robustdeploy.train.tasks.standard import Standard

EPISODES, HELD_OUT, BATCH = 6, 24, 32
PHASES = (
    PlannedPhase("pretrain", "weights", 1, Standard(), 0.1),
    PlannedPhase("tune", "both", 1, FastAt(), 0.1, first_epoch=1),
)


class Heard(Callback):
    """What was told of the search; what is to happen at one of its episodes."""

    def __init__(self, at=None, do=None):
        self.told, self._at, self._do = [], at, do

    def progress(self, what, done, total, **numbers):
        self.told.append((what, done, total, numbers))
        if done == self._at:
            self._do()


def train(make_net, make_plan, folder, callback, phases=PHASES, progress=silent):
    net = make_net()
    pruning = Amc(episodes=EPISODES, warmup=3).wrap(net, (1, 8, 8), Budget(ops=0.4))
    plan = make_plan(steps=2, phases=phases, options={"checkpoint_every_s": 0}, training="one")
    return fit(net, pruning, plan, folder, progress, callback), pruning


def outcome(trained, pruning):
    # What a resumed search has to look at again, the attack on the dense net, is counted again.
    search = {name: value for name, value in trained.search.items() if name not in ("seconds", "passes")}
    return state_of(trained.net), {n: v.clone() for n, v in own_state(pruning).items()}, search


def alike(one, other):
    return same(one[0], other[0]) and same(one[1], other[1]) and one[2] == other[2]


@pytest.fixture(scope="module")
def whole(make_net, make_plan, tmp_path_factory):
    heard = Heard()
    return *train(make_net, make_plan, tmp_path_factory.mktemp("whole"), heard), heard


@pytest.mark.slow
def test_it_is_told_and_counted_beside_the_steps(whole):
    trained, pruning, heard = whole
    assert [(what, done, total) for what, done, total, _ in heard.told] == [
        ("searching channels", number + 1, EPISODES) for number in range(EPISODES)
    ]
    best = [numbers["best_reward"] for *_, numbers in heard.told]
    assert best == sorted(best)
    # The attack and its judgement of the dense net; then each smaller net on both kinds, and the two batches there are.
    forward = 3 * HELD_OUT + EPISODES * (2 * HELD_OUT + 2 * BATCH)
    assert trained.search["passes"] == {"forward": forward, "backward": HELD_OUT}
    assert trained.search["numbers"] == heard.told[-1][3]
    assert trained.passes.forward == 2 * BATCH + 2 * 2 * BATCH  # the steps' own, of a clean and a FastAT epoch
    assert [int(keep.sum()) for keep in pruning.keeps] == pruning.scorer.counts()


class Noting:
    """A pruning that looks once, at the net as it is then."""

    def __init__(self, pruning):
        self._pruning, self.seen = pruning, []

    def __getattr__(self, name):
        return getattr(self._pruning, name)

    def prepare(self, look):
        labels = look.judged(self._pruning.net, lambda images, labels, noise: labels)
        self.seen.append((state_of(self._pruning.net), labels, look.threat, look.seed))
        yield Prepared("looking", 1, 1, {})


@pytest.mark.slow
def test_it_comes_before_the_first_phase_of_scores_and_sees_held_out_images(make_net, make_plan, tmp_path):
    net = make_net()
    pruning = Noting(Amc().wrap(net, (1, 8, 8), Budget(ops=0.4)))
    states = []
    plan = make_plan(steps=2, phases=PHASES)
    fit(net, pruning, plan, tmp_path, lambda *_: states.append(state_of(net)))
    ((seen, labels, threat, seed),) = pruning.seen
    assert same(seen, states[1])  # behind the two steps of pretraining
    assert torch.equal(labels, plan.validation.labels)
    assert (threat, seed) == (plan.threat, plan.seed)


@pytest.mark.slow
def test_ctrl_c_saves_what_is_done_and_the_same_command_goes_on(whole, make_net, make_plan, tmp_path):
    heard = Heard(4, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted), catch_signals():
        train(make_net, make_plan, tmp_path, heard)
    trained, pruning = train(make_net, make_plan, tmp_path, again := Heard())
    assert alike(outcome(trained, pruning), outcome(*whole[:2]))
    assert [done for _, done, *_ in again.told] == [5, 6]
    assert trained.search["passes"]["backward"] == 2 * HELD_OUT


@pytest.mark.slow
def test_after_a_search_it_is_not_made_again(whole, make_net, make_plan, tmp_path):
    def stop(step, steps, numbers):
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(make_net, make_plan, tmp_path, Heard(), progress=stop)
    again = Heard()
    assert alike(outcome(*train(make_net, make_plan, tmp_path, again)), outcome(*whole[:2]))
    assert again.told == []


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {folders}
import conftest, test_preparing
made = [getattr(conftest, name).__wrapped__ for name in ("digits", "make_net", "make_plan")]
net, plan = made[1](), made[2](made[0]())
die = test_preparing.Heard(4, lambda: os.kill(os.getpid(), signal.SIGKILL))
test_preparing.train(net, plan, Path({folder!r}), die)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_in_the_search_goes_on_exactly(whole, make_net, make_plan, tmp_path):
    here = str(Path(__file__).parent)
    script = KILLED.format(folders=[here], folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = Heard()
    assert alike(outcome(*train(make_net, make_plan, tmp_path, again)), outcome(*whole[:2]))
    # The one that it was killed in was not saved yet, or was.
    assert [done for _, done, *_ in again.told] in ([4, 5, 6], [5, 6])
