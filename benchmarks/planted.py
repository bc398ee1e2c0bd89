"""Planted false defences: nets that only look robust, and honest ones beside them, each on the whole way to a verdict.

    python benchmarks/planted.py
    python benchmarks/planted.py --kinds shattered call-counter --seeds 0 --json
    python benchmarks/planted.py --honest docs/results/cifar10-resnet20-ops0.3 --data data/cifar10

One plain net of the digits is trained for each seed. Each kind of false defence is laid around its weights, and what
comes of it is imported, exported, run in ONNX Runtime on the board's side, attacked and judged. Found is a kind that is
refused before it is measured, whose robust accuracy is SUSPECT or VOID, or that is driven to the accuracy of the plain
net that it hides. Honest nets are trained naturally and robustly, in several sizes; none of them may be blocked.

What is done is kept in --work, so a second call goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustdeploy import api
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.files import atomic_write_json, atomic_write_text
from robustdeploy.core.load import load_target
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.report import Report
from robustdeploy.core.target import Target
from robustdeploy.engine.run import Run
from robustdeploy.errors import RobustdeployError
from robustdeploy.nets.resnet8 import plugin as resnet8
from robustdeploy.nets.store import dense_net, load_info, load_net, save_net

IMAGES = 100
SLACK = 0.03
"""Robust accuracy above the plain net's that still counts as driven to it."""
RECIPE = f"""\
name: planted
net: resnet8
threat: {{norm: linf, eps: 0.1}}
train: {{task: standard, epochs: 8, batch_size: 64, lr: 0.2, device: cpu}}
baseline: false
evaluate:
  limit: {IMAGES}
  curve_limit: 50
  eps_curve: [1.0, 8.0]
  attacks:
    - fgsm
    - {{name: pgd, steps: 20}}
    - {{name: pgd, steps: 20, restarts: 4}}
    - {{name: pgd, steps: 20, loss: margin}}
    - {{name: square, queries: 500}}
gate:
  - {{id: T-ROB-01, metric: robust_accuracy, attack: worst, at_least: 0.05}}
"""
TARGET = """\
extends: host-cpu
name: quick
latency: {warmup_s: 0.01, min_s: 0.05, max_s: 1, min_samples: 100}
"""
# An activation beyond the middle of what calibration saw is cut: a scale that is far too small.
WRONG_SCALE = ("precisions=[{name: int8, method: percentile, percentile: 51}]",)


Change = Callable[[Tensor], Tensor]


class Planted(nn.Module):
    """A plain net with something before and behind it that makes it look robust."""

    def __init__(self, net: nn.Module, before: Change | None = None, behind: Change | None = None) -> None:
        super().__init__()
        self.net, self.before, self.behind = net, before, behind

    def forward(self, images: Tensor) -> Tensor:
        """Return scores; in training those of the plain net."""
        if self.training:
            scores: Tensor = self.net(images)
            return scores
        scores = self.net(images if self.before is None else self.before(images))
        return scores if self.behind is None else self.behind(scores)


class RoundedInside(nn.Module):
    """Rounds what the first layers give, in the net's middle."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        net.bn.register_forward_hook(lambda module, given, out: torch.round(out * 4) / 4)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores."""
        scores: Tensor = self.net(images)
        return scores


class Counting(nn.Module):
    """Counts its calls, and after so many answers something else."""

    def __init__(self, net: nn.Module, patience: int) -> None:
        super().__init__()
        self.net, self.patience, self.calls = net, patience, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, of the next class where the patience is over."""
        scores: Tensor = self.net(images)
        self.calls += not self.training
        return scores.roll(1, 1) if self.calls > self.patience else scores


def _shattered(images: Tensor) -> Tensor:
    """Go down inside each cell of a staircase that goes up."""
    cell = torch.round(images * 8) / 8
    return 2 * cell - images


def _random_mask(images: Tensor) -> Tensor:
    return images * (torch.rand_like(images) > 0.1)


def _random_resize(images: Tensor) -> Tensor:
    size = int(torch.randint(7, 10, ()))
    return F.interpolate(F.interpolate(images, size=(size, size)), size=tuple(images.shape[2:]))


def _smoothed(images: Tensor) -> Tensor:
    """Open and close, as an image library would: no gradient comes through."""
    opened = -F.max_pool2d(-images.detach(), (1, 2), 1, (0, 1))[..., :-1]
    return F.max_pool2d(opened, (1, 2), 1, (0, 1))[..., 1:]


def _coarse(scores: Tensor) -> Tensor:
    """Round scores, and pass their gradient straight through."""
    return scores + (torch.round(scores / 4) * 4 - scores).detach()


def _constant(scores: Tensor) -> Tensor:
    """Answer the same everywhere but near the border between two classes."""
    top = scores.topk(2, dim=1).values
    return ((scores - top.mean(1, keepdim=True)) * 4).clamp(-1, 1)


_BEFORE: Mapping[str, Change] = {
    "shattered": _shattered,
    "random-mask": _random_mask,
    "random-resize": _random_resize,
    "dropout": lambda images: F.dropout(images, 0.2, training=True),
    "batch-statistics": lambda images: F.batch_norm(images, None, None, training=True),
    "quantised-input": lambda images: torch.round(images * 4) / 4,
    "smoothed-input": _smoothed,
}
_BEHIND: Mapping[str, Change] = {
    "saturated-softmax": lambda scores: torch.softmax(scores * 1e3, 1),
    "temperature": lambda scores: scores * 1e4,
    "coarse-scores": _coarse,
    "constant-scores": _constant,
}
KINDS = (
    *("shattered", "rounding-layer", "saturated-softmax", "temperature", "random-mask", "random-resize", "dropout"),
    *("batch-statistics", "quantised-input", "smoothed-input", "int8-wrong-scale", "coarse-scores"),
    *("constant-scores", "call-counter"),
)


def planted(classes: int, channels: int, kind: str = "shattered", seed: int = 0) -> nn.Module:
    """Build one kind of planted net, the factory of its ``net.json``; of ``seed`` hangs how many calls one waits."""
    net = resnet8()(classes, channels)
    if kind == "rounding-layer":
        return RoundedInside(net)
    if kind == "call-counter":
        # Few calls are noticed while the net is looked at; many only once it is attacked.
        return Counting(net, (2, 10, 40, 100, 300)[seed % 5])
    return Planted(net, _BEFORE.get(kind), _BEHIND.get(kind))


HONEST: Mapping[str, Sequence[str]] = {
    "natural": (),
    "natural, seed 1": ("seed=1",),
    "natural, twice as wide": ("net={name: resnet8, width: 32}",),
    "natural, 24 epochs": ("train.epochs=24",),
    "robust": ("train.task=fastat",),
    "robust, seed 1": ("train.task=fastat", "seed=1"),
    "robust, half as wide": ("train.task=fastat", "net={name: resnet8, width: 8}"),
    "robust, pruned": ("train.task=fastat", "budget={ops: 0.5}"),
    "robust, int8": ("train.task=fastat", "precisions=[int8]"),
    "robust, ResNet-20": ("train.task=fastat", "net=resnet20"),
}
_KEPT = ("evaluate.limit=100", "evaluate.curve_limit=50", "train.device=cpu", "gate=[]")


@dataclass(frozen=True)
class Bench:
    """Where all of it happens."""

    folder: Path
    target: Target

    def recipe(self, *overrides: str) -> Recipe:
        """Return the recipe with these changes."""
        return recipe_for(self.folder / "planted.yaml", overrides=overrides)

    def judged(self, run: Run) -> Report:
        """Export, attack on the target and judge, as the commands do."""
        api.export(run, self.target, trust=True)
        api.evaluate(run, self.target, trust=True)
        return api.report(run, formats=("md",)).report

    def trained(self, name: str, *overrides: str) -> Run:
        """Train, or take what was trained."""
        return api.prune(self.recipe(*overrides), runs=self.folder / "runs", name=name)

    def planted(self, base: Run, kind: str, seed: int) -> Run:
        """Lay a kind of false defence around the plain net's weights, and import what comes of it."""
        plain, info = load_net(base.root), load_info(base.root)
        choice = Choice(name="planted:planted", options={"kind": kind, "seed": seed})
        made = dense_net(info.model_copy(update={"net": choice}))
        inner: Any = made.net
        (inner.net if hasattr(inner, "net") else inner).load_state_dict(plain.net.state_dict())
        origin = self.folder / "nets" / f"{kind}-{seed}"
        origin.mkdir(parents=True, exist_ok=True)
        save_net(origin, made, info.model_copy(update={"net": choice}))
        more = WRONG_SCALE if kind == "int8-wrong-scale" else ()
        return api.import_net(origin, self.recipe(*more), runs=self.folder / "runs", trust=True)


def told(report: Report) -> dict[str, Any]:
    """Return what the verdict says of the run's own net on the target."""
    its = next(each for each in report.verdict.robustness if each.subject.startswith(report.net))
    accuracy = {
        row.attack or "clean": row.value
        for row in report.measurements
        if row.subject == its.subject and row.metric in ("clean_accuracy", "robust_accuracy")
    }
    return {
        "subject": its.subject,
        "credibility": its.credibility.value,
        "doubts": [f"{each.level}: {each.check}" for each in its.doubts],
        "blocks": sorted({each.id for each in report.diagnostics if each.level == "block"}),
        "values": {each.id: each.value for each in report.diagnostics if each.subject == its.subject},
        "clean": accuracy["clean"],
        "worst": accuracy["worst"],
        "outcome": report.verdict.outcome.value,
    }


def attempt(make: Callable[[], Report]) -> dict[str, Any]:
    """Judge one net, or say with which words it was refused."""
    try:
        return told(make())
    except RobustdeployError as error:
        return {"refused": str(error).partition("\n")[0]}


def is_found(row: Mapping[str, Any], plain: Mapping[str, Any]) -> bool:
    """Whether a planted net is refused, doubted, or driven to what the plain net keeps."""
    return "refused" in row or row["credibility"] != "CREDIBLE" or row["worst"] <= plain["worst"] + SLACK


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each net, those that are done already too."""
    folder: Path = args.work
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "planted.yaml", RECIPE)
    atomic_write_text(folder / "quick.yaml", TARGET)
    bench = Bench(folder, load_target(folder / "quick.yaml"))
    for seed in args.seeds:
        base = bench.trained(f"plain-{seed}", f"seed={seed}")
        plain = once(folder, f"plain-{seed}", lambda base=base: attempt(lambda: bench.judged(base)))
        for kind in args.kinds:
            name = f"{kind}-{seed}"
            make = partial(
                attempt, lambda kind=kind, seed=seed, base=base: bench.judged(bench.planted(base, kind, seed))
            )
            row = once(folder, name, make)
            yield {"kind": kind, "seed": seed, **row, "plain_worst": plain["worst"], "found": is_found(row, plain)}
    for number, (name, overrides) in enumerate(HONEST.items() if args.honest_digits else ()):
        make = partial(attempt, lambda n=number, o=overrides: bench.judged(bench.trained(f"honest-{n}", *o)))
        yield {"kind": name, "honest": True, **once(folder, f"honest-{number}", make)}
    for net in args.honest:
        overrides = [*_KEPT, *([] if args.data is None else [f"data.path={args.data}"])]

        def kept(net: Path = net, overrides: Sequence[str] = overrides) -> Report:
            return bench.judged(api.import_net(net, overrides=overrides, runs=folder / "runs"))

        yield {"kind": net.name, "honest": True, **once(folder, f"honest-{net.name}", partial(attempt, kept))}


def once(folder: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Make a row, or read it where it was made before."""
    path = folder / "rows" / f"{name}.json"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        atomic_write_json(path, make())
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def line(row: Mapping[str, Any]) -> str:
    """Return a row as one line of the table."""
    name = row["kind"] + ("" if row.get("honest") else f" {row['seed']}")
    if "refused" in row:
        return f"{name:<28}{'refused':<10}{row['refused'][:90]}"
    beside = "" if row.get("honest") else f" (plain {row['plain_worst']:.2f}){'' if row['found'] else '  MISSED'}"
    told = f"clean {row['clean']:.2f}, worst {row['worst']:.2f}{beside}"
    return f"{name:<28}{row['credibility']:<10}{told}; {', '.join(row['doubts']) or 'no doubt'}"


def main() -> None:
    """Make all rows, and say how many planted nets were found and how many honest ones blocked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", nargs="*", type=int, default=range(5))
    parser.add_argument("--no-honest-digits", dest="honest_digits", action="store_false")
    parser.add_argument("--honest", nargs="*", type=Path, default=(), help="folders of kept nets")
    parser.add_argument("--data", help="folder of the kept nets' images")
    parser.add_argument("--work", type=Path, default=Path("planted-work"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    made = []
    for row in rows(args):
        made.append(row)
        print(json.dumps(row) if args.json else line(row), flush=True)
    false = [row for row in made if not row.get("honest")]
    honest = [row for row in made if row.get("honest")]
    blocked = [row for row in honest if "refused" in row or row["credibility"] != "CREDIBLE" or row["blocks"]]
    print(f"found {sum(row['found'] for row in false)} of {len(false)}; honest blocked {len(blocked)} of {len(honest)}")


if __name__ == "__main__":
    main()
