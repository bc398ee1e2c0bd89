"""Training: the moving parts of a training, and how they go into a checkpoint and come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from robustdeploy.cost.module import copied
from robustdeploy.nets.layout import lay_channels_last
from robustdeploy.prune.compact import Proof
from robustdeploy.prune.protocol import Pruning
from robustdeploy.train import ranks
from robustdeploy.train.batches import Batch
from robustdeploy.train.checkpoints import State
from robustdeploy.train.objective import Objective, distributed
from robustdeploy.train.plan import Plan
from robustdeploy.train.precision import resolved
from robustdeploy.train.protocol import Replaying, Task
from robustdeploy.train.sentinel import Vitals, task_after

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Best:
    """The validated epoch with the highest robust accuracy so far."""

    epoch: int
    robust: Tensor
    """One bool per validation image: still right under the attack."""
    net: Tensors


@dataclass
class Training:
    """What changes from step to step. ``net`` is the dense net until the masks are frozen, then the compact one."""

    dense: nn.Module
    pruning: Pruning | None
    plan: Plan
    net: nn.Module = field(init=False)
    optimiser: torch.optim.SGD = field(init=False)
    engine: nn.Module = field(init=False)
    """The objective, shared out over processes where there are several."""
    step: int = 0
    checked: int = 0
    """Step of the last probe for catastrophic overfitting."""
    records: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    vitals: list[Vitals] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """What the sentinel had to do."""
    stretches: list[dict[str, Any]] = field(default_factory=list)
    """Under which conditions it ran, from which step on; see ``Trained``."""
    shrunk_at: int | None = None
    proof: Proof | None = None
    best: Best | None = None
    last_robust: Tensor | None = None
    """Like ``Best.robust``, of the last epoch."""
    average: Tensors | None = None
    perturbation: Tensor | None = None

    def __post_init__(self) -> None:
        self.use(self.dense)
        if self.plan.options.ema is not None:
            self.average = {name: value.clone() for name, value in _floats(self.net).items()}

    @property
    def device(self) -> torch.device:
        """Where the net is."""
        return next(self.dense.parameters()).device

    @property
    def module(self) -> nn.Module:
        """What is trained: the net under its masks, or by itself."""
        return self.net if self._plain else cast(nn.Module, self.pruning)

    @property
    def task(self) -> Task | Replaying:
        """The plan's task, or the safer one that the sentinel has put in its place."""
        return task_after(self.plan.task, len(self.events), self.plan.threat.eps)

    @property
    def meets_budget(self) -> bool:
        """Whether the net is already one that may be delivered."""
        return self.pruning is None or self.pruning.is_frozen

    @property
    def _plain(self) -> bool:
        return self.pruning is None or self.shrunk_at is not None

    def use(self, net: nn.Module) -> None:
        """Train ``net`` from now on, with a new optimiser; channels last is the faster layout for convolutions."""
        lay_channels_last(net)
        self.net = net
        options = self.plan.options
        groups: list[dict[str, Any]] = [{"params": list(net.parameters()), "name": "weights"}]
        groups += self.pruning.own_parameters() if self.pruning and not self._plain else []
        self.optimiser = torch.optim.SGD(
            groups, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        )
        self.attach()

    def note_conditions(self) -> None:
        """Note the format and the number of processes of the step to come, where they are others than before."""
        precision = str(resolved(self.plan.options.precision, self.device)).removeprefix("torch.")
        now = {"precision": precision, "processes": ranks.world()}
        if not self.stretches or {**self.stretches[-1], **now} != self.stretches[-1]:
            self.stretches = [*self.stretches, {"from_step": self.step, **now}]

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the pruner's own parameters, those of the masks."""
        return [] if self.pruning is None else list(_own_parameters(self.pruning).values())

    def attach(self) -> None:
        """Make the objective anew, after the net or what of it is trained has changed."""
        if self.pruning is not None:
            frozen = self.pruning.is_frozen
            for value in self.own_parameters():
                value.requires_grad_(not frozen)
        module = torch.compile(self.module) if self.plan.options.compile and self._plain else self.module
        precision = resolved(self.plan.options.precision, self.device)
        objective = Objective(cast(nn.Module, module), self.plan.threat, precision)
        self.engine = distributed(objective, self.plan.train.images[:2].to(self.device).float() / 255)
        self.engine.train()

    def shrink(self, proof: Proof) -> None:
        """Go on with the compact net: momenta and averages follow the channels that are kept."""
        assert self.pruning is not None
        momenta = self._momenta()
        moved = _with(self.dense, {name[4:]: value for name, value in momenta.items() if name[:4] == "net."})
        small_momenta = dict(self.pruning.compact(moved).named_parameters())
        if self.average is not None:
            averaged = self.pruning.compact(_with(self.dense, self.average))
            self.average = {name: value.clone() for name, value in _floats(averaged).items()}
        self.shrunk_at, self.proof = self.step, proof
        self.use(self.pruning.compact())
        self._set_momenta({f"net.{name}": value.detach() for name, value in small_momenta.items()})

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
        decay = min(self.plan.options.ema, (1 + self.step) / (10 + self.step))
        now = _floats(self.net)
        torch._foreach_lerp_(list(self.average.values()), [now[name] for name in self.average], 1 - decay)

    def measure(self, batch: Batch) -> None:
        """Run the task on ``batch`` for what it does to the statistics of batch normalisation, in float32."""
        Objective(self.module, self.plan.threat, torch.float32)(self.task, batch, None)

    def snapshot(self) -> Tensors:
        """Return the tensors of the net as it is now, to come back to."""
        return {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def state(self) -> State:
        """Return all of this as a checkpoint's content; every process must call it."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"masks.{name}": value for name, value in _own(self.pruning).items()}
        tensors |= {f"momentum.{name}": value for name, value in self._momenta().items()}
        tensors |= {f"average.{name}": value for name, value in (self.average or {}).items()}
        if self.best is not None:
            tensors |= {f"best.{name}": value for name, value in self.best.net.items()}
            tensors["robust"] = self.best.robust.to(torch.uint8)
        if self.last_robust is not None:
            tensors["last_robust"] = self.last_robust.to(torch.uint8)
        if self.perturbation is not None:
            tensors["perturbation"] = ranks.gathered(self.perturbation)
        values = {
            "checked": self.checked,
            "records": self.records,
            "sums": self.sums,
            "vitals": [asdict(vitals) for vitals in self.vitals],
            "events": self.events,
            "stretches": self.stretches,
            "shrunk_at": self.shrunk_at,
            "proof": None if self.proof is None else asdict(self.proof),
            "best": None if self.best is None else self.best.epoch,
        }
        return State(self.step, tensors, values, self.plan.training)

    def restore(self, state: State) -> None:
        """Become what ``state`` says."""
        values, tensors = state.values, {name: value.to(self.device) for name, value in state.tensors.items()}
        self.step, self.checked = state.step, values["checked"]
        self.records, self.sums, self.events = list(values["records"]), dict(values["sums"]), list(values["events"])
        self.stretches = list(values["stretches"])
        self.vitals = [Vitals(**vitals) for vitals in values["vitals"]]
        self.shrunk_at = values["shrunk_at"]
        self.proof = None if values["proof"] is None else Proof(**values["proof"])
        if self.pruning is not None:
            cast(nn.Module, self.pruning).load_state_dict(_under("masks.", tensors), strict=False)
        self.use(self.dense if self.shrunk_at is None else cast(Pruning, self.pruning).compact())
        self.net.load_state_dict(_under("net.", tensors))
        self._set_momenta(_under("momentum.", tensors))
        self.average = None if self.average is None else _under("average.", tensors)
        self.best = None
        if values["best"] is not None:
            self.best = Best(values["best"], tensors["robust"].bool(), _under("best.", tensors))
        self.last_robust = tensors["last_robust"].bool() if "last_robust" in tensors else None
        whole = tensors.get("perturbation")
        self.perturbation = None if whole is None else ranks.own_part(whole).clone()

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        named = {f"net.{name}": value for name, value in self.net.named_parameters()}
        if self.pruning is not None and not self._plain:
            named |= {f"masks.{name}": value for name, value in _own_parameters(self.pruning).items()}
        return named

    def _momenta(self) -> Tensors:
        states = ((name, self.optimiser.state.get(value)) for name, value in self._named_parameters().items())
        return {name: state["momentum_buffer"] for name, state in states if state and "momentum_buffer" in state}

    def _set_momenta(self, momenta: Mapping[str, Tensor]) -> None:
        for name, parameter in self._named_parameters().items():
            if name in momenta:
                buffer = torch.empty_like(parameter).copy_(momenta[name])
                self.optimiser.state[parameter]["momentum_buffer"] = buffer


def _own(pruning: Pruning | None) -> Tensors:
    """Return what a pruner holds besides the net."""
    state = {} if pruning is None else cast(nn.Module, pruning).state_dict()
    return {name: value for name, value in state.items() if not name.startswith("net.")}


def _own_parameters(pruning: Pruning) -> dict[str, nn.Parameter]:
    named = cast(nn.Module, pruning).named_parameters()
    return {name: value for name, value in named if not name.startswith("net.")}


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
            value.zero_()
    return twin
