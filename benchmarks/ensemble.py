"""Ensemble: AutoAttack as an evaluation runs it beside AutoAttack's loop as torchattacks has it, part by part.

    PYTHONPATH=/tmp/ta python benchmarks/ensemble.py docs/results/cifar10-resnet20-ops0.3 --data data/cifar10
    python benchmarks/ensemble.py docs/results/cifar10-resnet20-ops0.3 --data data/cifar10 --workers 2 --json

In each part both attack what still stands after the parts before it, with equal steps, targets and queries. Ours asks
Square's queries of the exported file in ONNX Runtime, as on a board; theirs asks the net in torch. The net as it is
judges both. With ``--workers`` each shares out the cores in its own way: ours among processes of one thread, as
``evaluate --workers`` does, theirs among torch's threads. The time on the clock counts then, so nothing else may run.
``uv pip install --target /tmp/ta --no-deps torchattacks`` keeps that package's old releases apart.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before numpy and torch load, which read it once.
os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch
from attacks import Bench, parser_of
from torch import Tensor

from robustdeploy.attacks.ball import lengths
from robustdeploy.core.recipe import Choice
from robustdeploy.core.registry import BACKENDS
from robustdeploy.core.target import OPSET
from robustdeploy.data.noise import Noise
from robustdeploy.evaluate.attack import Adversary, adversaries_from
from robustdeploy.export.metadata import NO_METADATA
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.types import Model

BLOCK = 128
Attack = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images, labels and the numbers of these images to what was found."""
Pool = ProcessPoolExecutor | None

# Of a worker's process: what it was begun with.
_held: list[tuple[Bench, dict[str, Attack]]] = []


@dataclass(frozen=True)
class Row:
    """One part, in the order in which it was run."""

    part: str
    by: str
    attacked: int
    standing: int
    cpu_s: float
    clock_s: float


def main() -> int:
    """Run both, and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--targets", type=int, default=9)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1, help="processes of ours, threads of theirs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # Of other packages, about settings of theirs.
    warnings.simplefilter("ignore")
    bench = Bench.of(asked)
    with _shared_out(asked) as share:
        ours, our_bits = _run("robustdeploy", _ours(bench, asked), bench, share, asked.workers)
    torch.set_num_threads(asked.workers)
    theirs, their_bits = _run("torchattacks", _theirs(bench, asked), bench, None)
    alone = asked.workers == 1
    times = [sum(row.cpu_s if alone else row.clock_s for row in rows) for rows in (ours, theirs)]
    found = {
        "machine": machine.description(torch.device("cpu")),
        "load": machine.load_average(),
        "net": asked.net.name,
        "settings": {name: getattr(asked, name) for name in ("images", "steps", "targets", "queries", "workers")},
        "threat": str(bench.threat),
        "rows": [asdict(row) for row in (*ours, *theirs)],
        "seconds_of": "one thread" if alone else "the clock",
        "seconds": times,
        "ratio": round(times[1] / times[0], 2),
        "stands_in_ours_alone": int((our_bits & ~their_bits).sum()),
        "stands_in_theirs_alone": int((their_bits & ~our_bits).sum()),
    }
    print(json.dumps(found, indent=2) if asked.json else _table(found))
    return 0


@contextmanager
def _shared_out(asked: argparse.Namespace) -> Iterator[Pool]:
    """Start the processes that do blocks of ours, or none for one worker."""
    if asked.workers == 1:
        yield None
        return
    # Spawned and not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, context, _begin, (asked,)) as pool:
        # A process that has yet to load what it works with is not what is timed.
        list(pool.map(time.sleep, [1.0] * asked.workers))
        yield pool


def _begin(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    bench = Bench.of(asked)
    _held.append((bench, _ours(bench, asked)))


def _shares(at: Tensor, workers: int) -> Sequence[Tensor]:
    """Split into as many shares of equal size for each worker, none larger than a block."""
    rounds = max(1, math.ceil(len(at) / (workers * BLOCK)))
    return at.tensor_split(workers * rounds)


def _block(part: str, few: Tensor) -> Tensor:
    bench, parts = _held[0]
    return parts[part](bench.images[few], bench.labels[few], few).detach()


def _run(by: str, parts: dict[str, Attack], bench: Bench, pool: Pool, workers: int = 1) -> tuple[list[Row], Tensor]:
    """Run the parts in their order; return a row for each, and what stands in the end."""
    stands, rows = bench.standing(bench.images), []
    for part, attack in parts.items():
        print(f"{part} by {by} …", file=sys.stderr)
        at = stands.nonzero().squeeze(1)
        before, began = time.process_time(), time.perf_counter()
        if pool is None:
            blocks = [attack(bench.images[few], bench.labels[few], few) for few in at.split(BLOCK)]
        else:
            blocks = list(pool.map(_block, [part] * len(at), _shares(at, workers)))
        spent, took = time.process_time() - before, time.perf_counter() - began
        found = bench.images.clone()
        found[at] = torch.cat(blocks).detach()
        assert float(lengths(found - bench.images, bench.threat.norm).max()) <= bench.threat.eps + 1e-5, part
        stands = stands & bench.standing(found)
        rows.append(Row(part, by, len(at), int(stands.sum()), round(spent, 1), round(took, 1)))
    return rows, stands


def _ours(bench: Bench, asked: argparse.Namespace) -> dict[str, Attack]:
    options = {name: getattr(asked, name) for name in ("steps", "targets", "queries")}
    model = _exported(bench)
    return {each.label: _one_of_ours(bench, each, model) for each in adversaries_from((_whole(options),))}


def _whole(options: dict[str, Any]) -> Choice:
    return Choice(name="autoattack", options=options)


def _one_of_ours(bench: Bench, adversary: Adversary, model: Model) -> Attack:
    threat = bench.threat

    def attack(images: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        if adversary.gradient is not None:
            return adversary.gradient(bench.host.followed, images, labels, threat, Noise(0, numbers))
        assert adversary.query is not None
        stored = (images * 255).round().to(torch.uint8).numpy()
        found = adversary.query(model, stored, labels.numpy(), threat, Draws(0, numbers.numpy()))
        return torch.from_numpy(np.asarray(found, np.float32)) / 255

    return attack


def _exported(bench: Bench) -> Model:
    """Return the net as a board has it."""
    backend: Any = BACKENDS.build("onnxruntime", {"threads": 1})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        _, channels, height, width = bench.images.shape
        export_onnx(bench.net, (channels, height, width), path, OPSET, NO_METADATA)
        model: Model = backend.load(path)
    return model


def _theirs(bench: Bench, asked: argparse.Namespace) -> dict[str, Attack]:
    import torchattacks as ta

    torch.manual_seed(0)
    names = {"linf": "Linf", "l2": "L2", "l1": "L1"}
    net, same = bench.net, {"norm": names[bench.threat.norm], "eps": bench.threat.eps, "n_restarts": 1}
    classes = int(net(bench.images[:1]).shape[1])
    # As its AutoAttack makes them; each gives what it found for the images that it is given.
    targeted = {"n_classes": min(classes, asked.targets + 1), "steps": asked.steps}
    made = {
        "APGD-CE": ta.APGD(net, loss="ce", steps=asked.steps, **same),
        "APGD-T": ta.APGDT(net, **targeted, **same),
        "FAB-T": ta.FAB(net, multi_targeted=True, **targeted, **same),
        "Square": ta.Square(net, n_queries=asked.queries, **same),
    }
    return {name: lambda images, labels, _, attack=attack: attack(images, labels) for name, attack in made.items()}


def _table(found: dict[str, Any]) -> str:
    told = ", ".join(f"{name} {value:g}" for name, value in found["settings"].items())
    lines = [
        f"{found['net']}, {found['threat']}, {told}, load {found['load']}",
        machine.in_words(found["machine"]),
        "",
        "| part | by | attacked | left standing | CPU s | clock s |",
        "|---|---|---|---|---|---|",
    ]
    names = ("part", "by", "attacked", "standing", "cpu_s", "clock_s")
    lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in found["rows"]]
    ours, theirs = found["seconds"]
    lines += ["", f"theirs {theirs:.1f} s of {found['seconds_of']} over ours {ours:.1f} s: {found['ratio']}"]
    lines += [f"stand in ours alone {found['stands_in_ours_alone']}, in theirs {found['stands_in_theirs_alone']}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
