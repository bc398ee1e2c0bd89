"""Training: the moving parts of a training, and how they go into a checkpoint and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustdeploy.cost.module import copied
from robustdeploy.data.images import pixels
from robustdeploy.errors import TrainingError
from robustdeploy.nets.layout import lay_channels_last
from robustdeploy.prune.compact import Proof
from robustdeploy.prune.protocol import Pruning, load_own_state, own_parameters, own_state
from robustdeploy.train import ranks
from robustdeploy.train.batches import Batch
from robustdeploy.train.checkpoints import State
from robustdeploy.train.loss import BatchLoss, distributed
from robustdeploy.train.optimiser import STEP, Kinds, Optimiser
from robustdeploy.train.passes import Passes
from robustdeploy.train.plan import Plan, PlannedPhase
from robustdeploy.train.precision import resolved
from robustdeploy.train.protocol import MASK_LOSS, Replaying, Task
from robustdeploy.train.sentinel import SentinelProbe, task_after, watches

Tensors = dict[str, Tensor]
KINDS = ("momentum_buffer", "exp_avg", "exp_avg_sq", "square_avg", STEP)
"""All that the optimisers keep of a parameter."""


@dataclass(frozen=True)
class Best:
    """The validated epoch with the highest robust accuracy so far."""

    epoch: int
    robust: Tensor
    """One bool per validation image: still right under the attack."""
    net: Tensors
    masks: Tensors = field(default_factory=dict)
    """What the pruner held besides, where its masks were not frozen yet."""


@dataclass
class Training:
    """What changes from step to step. ``net`` is the dense net until the masks are frozen, then the compact one."""

    dense: nn.Module
    pruning: Pruning | None
    plan: Plan
    net: nn.Module = field(init=False)
    optimiser: Optimiser = field(init=False)
    loss: BatchLoss = field(init=False)
    engine: nn.Module = field(init=False)
    """``loss``, shared out over processes where there are several."""
    step: int = 0
    number: int = 0
    """Of the phase, from 0."""
    checked: int = 0
    """Step of the last probe for catastrophic overfitting."""
    records: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    probes: list[SentinelProbe] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """What the sentinel had to do."""
    conditions: list[dict[str, Any]] = field(default_factory=list)
    """Under which conditions it ran, from which step on; see ``Trained``."""
    shrunk_at: int | None = None
    proof: Proof | None = None
    best: Best | None = None
    last_robust: Tensor | None = None
    """Like ``Best.robust``, of the last epoch."""
    average: Tensors | None = None
    perturbation: Tensor | None = None
    passes: Passes = field(default_factory=Passes)
    """Of all steps so far, those that a collapse has made vain among them."""
    search: dict[str, Any] = field(default_factory=dict)
    """What the pruner has prepared before it trained scores, and what that took; empty where it needed nothing."""
    spent_s: float = 0.0
    """Seconds until the checkpoint that it was resumed from."""
    ticks: float = field(default_factory=time.monotonic)
    """When that was, or when it began."""

    def __post_init__(self) -> None:
        # What a user has frozen stays frozen, though phases switch requires_grad on and off.
        self._learning = {name for name, value in self.dense.named_parameters() if value.requires_grad}
        self.net = self.dense
        self.begin_phase(0)

    @property
    def seconds(self) -> float:
        """How long it has taken so far; what an interruption made vain is left out."""
        return self.spent_s + time.monotonic() - self.ticks

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next(self.dense.parameters()).device

    @property
    def module(self) -> nn.Module:
        """What is trained: the net under its masks, or by itself."""
        return self.net if self.pruning is None or self._plain else self.pruning.module

    @property
    def phase(self) -> PlannedPhase:
        """The phase that the next step is of, or, before the next phase is begun, the last step was of."""
        return self.plan.phases[self.number]

    @property
    def task(self) -> Task | Replaying:
        """The phase's objective, or the safer one that the sentinel has put in its place."""
        own = self.phase.objective
        return task_after(own, len(self.events), self.plan.threat.eps) if watches(own) else own

    @property
    def meets_budget(self) -> bool:
        """Whether the net is already one that may be delivered."""
        return self.pruning is None or self.pruning.is_frozen

    @property
    def may_be_kept(self) -> bool:
        """Whether the net as it is now may be the phase's best: what is delivered must meet the budget."""
        return self.meets_budget or self.number < len(self.plan.phases) - 1

    @property
    def trains_weights(self) -> bool:
        """Whether the phase trains the net's own parameters."""
        return self.phase.train != "scores"

    @property
    def trains_scores(self) -> bool:
        """Whether the phase trains the pruner's parameters, and they still move."""
        return self.phase.train != "weights" and self.pruning is not None and not self.pruning.is_frozen

    @property
    def _plain(self) -> bool:
        return self.pruning is None or self.shrunk_at is not None

    def begin_phase(self, number: int) -> None:
        """Begin a phase with the net and the masks as they are; all else starts anew."""
        self.number = number
        self.probes, self.best, self.last_robust, self.perturbation = [], None, None, None
        if self.pruning is not None and not self._plain:
            self.pruning.on_phase(self.plan.info(number))
        for value in (*self.net.parameters(), *self.own_parameters()):
            value.grad = None  # left by a parameter's last step, it would count as this phase's
        own = self.pruning.own_parameters() if self.pruning is not None and self.trains_scores else []
        if not self.trains_weights and not own:
            raise TrainingError(
                f"phase '{self.phase.name}' trains scores alone, and there are none or they are frozen: there is "
                "nothing to train; give it train: both or weights, or leave it out"
            )
        self.use(self.net)
        if self.plan.options.ema is not None:
            self.average = {name: value.clone() for name, value in _floats(self.net).items()}

    def hand_on(self, *, best: bool) -> None:
        """Put into the net what the phase ends with: its averaged weights, or with ``best`` those of its best epoch."""
        if self.average is not None:
            _put(self.net, self.average)
        if best and self.best is not None:
            self.net.load_state_dict(self.best.net)
            if self.pruning is not None and self.best.masks:
                load_own_state(self.pruning, self.best.masks)

    def use(self, net: nn.Module) -> None:
        """Train ``net`` from now on, with a new optimiser; channels last is the faster layout for convolutions."""
        lay_channels_last(net)
        self.net = net
        groups: list[dict[str, Any]] = []
        # A net that became smaller at the end of a phase of scores waits for the next one.
        if self.trains_weights or self._plain:
            # All of them, frozen ones too: SGD passes over a parameter without a gradient, its weight decay included.
            groups.append({"params": list(net.parameters()), "name": "weights"})
        if self.pruning is not None and self.phase.train != "weights" and not self._plain:
            groups += self.pruning.own_parameters()
        self.optimiser = Optimiser(groups, self.plan.options, self.phase.lr)
        self.attach()

    def set_rate(self) -> None:
        """Give the coming step its learning rate; a parameter group of the pruner may have one of its own."""
        first, end = self.plan.first_step(self.number), self.plan.first_step(self.number + 1)
        self.optimiser.set_rate(self.phase.rate(self.step - first, end - first))

    def note_conditions(self) -> None:
        """Note the format and the number of processes of the step to come, where they are others than before."""
        precision = str(resolved(self.plan.options.precision, self.device)).removeprefix("torch.")
        now = {"precision": precision, "processes": ranks.world()}
        # Kept since bfloat16 or another number of processes rounds differently: the same recipe then gives other
        # weights.
        if not self.conditions or {**self.conditions[-1], **now} != self.conditions[-1]:
            self.conditions = [*self.conditions, {"from_step": self.step, **now}]

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the pruner's own parameters, those of the masks."""
        return [] if self.pruning is None else list(own_parameters(self.pruning).values())

    def attach(self) -> None:
        """Make the loss anew, after the net or what of it is trained has changed."""
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(self.trains_weights and name in self._learning)
        for value in self.own_parameters():
            value.requires_grad_(self.trains_scores)
        module = torch.compile(self.module) if self.plan.options.compile and self._plain else self.module
        precision = resolved(self.plan.options.precision, self.device)
        moving = self.pruning if self.pruning is not None and not self.pruning.is_frozen else None
        self.loss = BatchLoss(cast(nn.Module, module), self.plan.threat, precision, moving, self.passes)
        # DistributedDataParallel looks once at what has requires_grad, so it is made anew after each change.
        self.engine = distributed(self.loss, pixels(self.plan.train.images[:2].to(self.device)))
        self.engine.train()

    def backward(self, numbers: Mapping[str, Tensor]) -> None:
        """Give all that learns its gradient: masks that of ``mask_loss`` where the objective gives one.

        Raises TrainingError where several processes would have to average both.
        """
        if MASK_LOSS not in numbers or not self.trains_scores:
            torch.autograd.backward(numbers["loss"])
            return
        ranks.check_alone()
        # Without inputs=, since what pruners learn of single images hangs on this pass too (prune/information.py).
        torch.autograd.backward(numbers[MASK_LOSS], retain_graph=self.trains_weights)
        weights = [value for value in self.net.parameters() if value.requires_grad]
        for value in weights:
            value.grad = None
        if weights:
            torch.autograd.backward(numbers["loss"], inputs=weights)

    def shrink(self, proof: Proof) -> None:
        """Go on with the compact net: momenta and averages follow the channels that are kept."""
        assert self.pruning is not None
        # What the optimiser keeps is put into a twin of the net: cut as that is, each number stays with its weight,
        # whatever the kind of layer.
        small: Kinds = {}
        for kind, values in self.optimiser.kept(self._named_parameters()).items():
            of_net = {name[4:]: value for name, value in values.items() if name[:4] == "net."}
            if not of_net:  # of the masks alone, which another rule moves
                continue
            if kind != STEP:
                of_net = dict(self.pruning.compact(_with(self.dense, of_net)).named_parameters())
            small[kind] = {f"net.{name}": value.detach() for name, value in of_net.items()}
        if self.average is not None:
            averaged = self.pruning.compact(_with(self.dense, self.average))
            self.average = {name: value.clone() for name, value in _floats(averaged).items()}
        self.shrunk_at, self.proof = self.step, proof
        self.use(self.pruning.compact())
        self.optimiser.put_back(small, self._named_parameters())

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Give ``module`` the averaged weights for the duration of the block, where averages are kept."""
        if self.average is None:
            yield self.module
            return
        live = {name: value.clone() for name, value in _floats(self.net).items()}
        _put(self.net, self.average)
        try:
            yield self.module
        finally:
            _put(self.net, live)

    def follow_average(self) -> None:
        """Move the averages towards the weights, faster at first so that they forget the start."""
        if self.average is None or self.plan.options.ema is None:
            return
        # The ramp of TensorFlow's ExponentialMovingAverage: with a plain decay of 0.999 random weights would count for
        # thousands of steps.
        decay = min(self.plan.options.ema, (1 + self.step) / (10 + self.step))
        now = _floats(self.net)
        # One call for all tensors: a loop over hundreds of small ones costs more than the arithmetic.
        torch._foreach_lerp_(list(self.average.values()), [now[name] for name in self.average], 1 - decay)

    def measure(self, batch: Batch) -> None:
        """Run the task on ``batch`` for what it does to the statistics of batch normalisation, in float32."""
        # float32, as what is delivered runs in it; and without the pruner, since nothing learns here.
        BatchLoss(self.module, self.plan.threat, torch.float32)(self.task, batch, None)

    def snapshot(self) -> Tensors:
        """Return the tensors of the net as it is now, to come back to."""
        return {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def masks_snapshot(self) -> Tensors:
        """Return what the pruner holds besides, while its masks still move."""
        if self.pruning is None or self.pruning.is_frozen:
            return {}
        return {name: value.clone() for name, value in own_state(self.pruning).items()}

    def state(self) -> State:
        """Return all of this as a checkpoint's content; every process must call it."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        if self.pruning is not None:
            tensors |= {f"masks.{name}": value for name, value in own_state(self.pruning).items()}
        for kind, kept in self.optimiser.kept(self._named_parameters()).items():
            tensors |= {f"{_place(kind)}{name}": value for name, value in kept.items()}
        tensors |= {f"average.{name}": value for name, value in (self.average or {}).items()}
        if self.best is not None:
            tensors |= {f"best.{name}": value for name, value in self.best.net.items()}
            tensors |= {f"best_masks.{name}": value for name, value in self.best.masks.items()}
            tensors["robust"] = self.best.robust.to(torch.uint8)
        if self.last_robust is not None:
            tensors["last_robust"] = self.last_robust.to(torch.uint8)
        if self.perturbation is not None:
            # The whole batch's, so that another number of processes can go on from it.
            tensors["perturbation"] = ranks.gathered(self.perturbation)
        values = {
            "phase": self.number,
            "checked": self.checked,
            "records": self.records,
            "sums": self.sums,
            "probes": [asdict(probes) for probes in self.probes],
            "events": self.events,
            "conditions": self.conditions,
            "passes": asdict(self.passes),
            "search": self.search,
            "seconds": self.seconds,
            "shrunk_at": self.shrunk_at,
            "proof": None if self.proof is None else asdict(self.proof),
            "best": None if self.best is None else self.best.epoch,
        }
        return State(self.step, tensors, values, self.plan.training)

    def restore(self, state: State) -> None:
        """Become what ``state`` says."""
        values, tensors = state.values, {name: value.to(self.device) for name, value in state.tensors.items()}
        self.step, self.checked, self.number = state.step, values["checked"], values.get("phase", 0)
        self.records, self.sums, self.events = list(values["records"]), dict(values["sums"]), list(values["events"])
        self.conditions = list(values["conditions"])
        self.spent_s, self.ticks = float(values.get("seconds", 0.0)), time.monotonic()
        # An object of its own: the loss that counts into it is made anew below.
        self.passes = Passes(**values.get("passes", {}))
        self.search = dict(values.get("search", {}))
        self.probes = [SentinelProbe(**probes) for probes in values["probes"]]
        self.shrunk_at = values["shrunk_at"]
        self.proof = None if values["proof"] is None else Proof(**values["proof"])
        if self.pruning is not None:
            self.pruning.on_phase(self.plan.info(self.number))  # what it prepared, it prepared in another process
            load_own_state(self.pruning, _under("masks.", tensors))
        # The masks come first: only they tell which shape the saved net has.
        small = self.pruning is not None and self.shrunk_at is not None
        self.use(cast(Pruning, self.pruning).compact() if small else self.dense)
        self.net.load_state_dict(_under("net.", tensors))
        kinds = {kind: _under(_place(kind), tensors) for kind in KINDS}
        self.optimiser.put_back(kinds, self._named_parameters())
        self.average = None if self.average is None else _under("average.", tensors)
        self.best = None
        if values["best"] is not None:
            masks = _under("best_masks.", tensors)
            self.best = Best(values["best"], tensors["robust"].bool(), _under("best.", tensors), masks)
        self.last_robust = tensors["last_robust"].bool() if "last_robust" in tensors else None
        whole = tensors.get("perturbation")
        self.perturbation = None if whole is None else ranks.own_part(whole).clone()

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        named = {f"net.{name}": value for name, value in self.net.named_parameters()}
        if self.pruning is not None and not self._plain:
            named |= {f"masks.{name}": value for name, value in own_parameters(self.pruning).items()}
        return named


def _place(kind: str) -> str:
    """Return what the names of an optimiser's tensors of one kind begin with in a checkpoint."""
    return "momentum." if kind == "momentum_buffer" else f"optimiser.{kind}."


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _floats(net: nn.Module) -> Tensors:
    """Return the tensors of ``net`` that an average makes sense of."""
    return {name: value.detach() for name, value in net.state_dict().items() if value.is_floating_point()}


def _put(net: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in _floats(net).items():
        value.copy_(values[name])


def _with(net: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``net`` that holds ``values``; what has none is zero."""
    twin = copied(net)
    for name, value in _floats(twin).items():
        if name in values:
            value.copy_(values[name])
        else:
            # A parameter without a momentum yet has one of zero.
            value.zero_()
    return twin
