"""Attacks: ours beside those of ART, torchattacks and foolbox, on one net and the same images.

    python benchmarks/attacks.py docs/results/cifar10-resnet20-ops0.3 --data data/cifar10
    python benchmarks/attacks.py docs/results/cifar10-resnet20-ops0.3 --data data/cifar10 --images 1000 --json
    python benchmarks/attacks.py docs/results/cifar10-resnet20-ops0.3 --data data/cifar10 --norm l2 --eps 128/255

In another norm only attacks that have it are run. What others return beyond the ball counts as not found.
torchattacks asks for old releases of packages that others here need newer, and none of them for these attacks:
``uv pip install --no-deps torchattacks foolbox eagerpy`` adds them for a while. What is not installed is left out, and
said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before numpy and torch load, which read it once.
os.environ["OMP_NUM_THREADS"] = "1"

import machine
import numpy as np
import torch
from torch import Tensor, nn

from robustdeploy.attacks.apgd import Apgd
from robustdeploy.attacks.ball import lengths
from robustdeploy.attacks.bim import Bim
from robustdeploy.attacks.fab import Fab
from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.attacks.fmn import Fmn
from robustdeploy.attacks.mim import Mim
from robustdeploy.attacks.pgd import Pgd
from robustdeploy.attacks.protocol import GradientAttack
from robustdeploy.core.model import number_from_text
from robustdeploy.core.norms import DEFAULT
from robustdeploy.core.recipe import Data
from robustdeploy.core.registry import QUERY_ATTACKS
from robustdeploy.data.load import load_test
from robustdeploy.data.noise import Noise
from robustdeploy.evaluate.attack import chosen
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.nets.store import load_info
from robustdeploy.onboard.draws import Draws
from robustdeploy.onboard.queries import Counted
from robustdeploy.onboard.types import SIGNS, Labels, QueryAttack, Threat

Attack = Callable[[], Tensor]

OURS: dict[str, GradientAttack] = {
    "fgsm": Fgsm(),
    "bim-10": Bim(10),
    "mim-10": Mim(10),
    "pgd-20": Pgd(20),
    "apgd-100": Apgd(100),
    "apgd-100-dlr": Apgd(100, loss="dlr"),
    "apgd-100-dlr-t9": Apgd(100, loss="dlr", targets=9),
    "fab-100-t9": Fab(100, targets=9),
    "fmn-100": Fmn(100),
}
QUERY: dict[str, QueryAttack] = {
    name: QUERY_ATTACKS.build(name.removesuffix("-1000"), {"queries": 1000})
    for name in (
        "square-1000",
        "simba-1000",
        "nes-1000",
        "rays-1000",
        "hop-skip-jump-1000",
        "boundary-1000",
        "surfree-1000",
    )
}


@dataclass(frozen=True)
class Row:
    """One attack by one implementation."""

    attack: str
    by: str
    standing: int
    """Images left standing, of those that were labelled right; judged by the net as it is."""
    broke_alone: int
    """Images that this one broke and ours did not."""
    held_alone: int
    """Images that ours broke and this one did not."""
    cpu_s: float
    queries: float | None = None
    """Median of what ours asked for the images that fell; of query attacks alone."""


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return what every comparison on a kept net is asked: which net, which images, which radius."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("net", type=Path, help="folder of a stored net")
    parser.add_argument("--data", type=Path, help="folder of the data set; none for digits")
    parser.add_argument("--data-name", default="cifar10")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--eps", type=number_from_text, default=8 / 255)
    parser.add_argument("--norm", choices=list(SIGNS), default="linf")
    return parser


def main() -> int:
    """Attack, and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=[*OURS, *QUERY], default=list(OURS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # Of other packages, about settings of theirs.
    warnings.simplefilter("ignore")
    bench = Bench.of(asked)
    has = {name: getattr(attack, "NORMS", DEFAULT) for name, attack in {**OURS, **QUERY}.items()}
    rows = [row for name in asked.only if asked.norm in has[name] for row in bench.rows(name)]
    found = {
        "machine": machine.description(torch.device("cpu")),
        "load": machine.load_average(),
        "net": asked.net.name,
        "data": asked.data_name if asked.data else "digits",
        "images": len(bench.labels),
        "right": int(bench.standing(bench.images).sum()),
        "norm": asked.norm,
        "eps": bench.threat.eps,
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(found, indent=2) if asked.json else _table(found))
    return 0


@dataclass(frozen=True)
class Bench:
    """A net and the images to attack it with."""

    host: HostNet
    ids: Labels
    images: Tensor
    labels: Tensor
    threat: Threat

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Bench:
        """Load what was asked for."""
        host = load_host_net(asked.net, "cpu")
        name = asked.data_name if asked.data else "digits"
        test = chosen(load_test(Data(name=name, path=asked.data), load_info(asked.net).classes), asked.images)
        pixels = torch.from_numpy(test.images).float() / 255
        return cls(host, test.ids, pixels, torch.from_numpy(test.labels), Threat(asked.norm, float(asked.eps)))

    @property
    def net(self) -> nn.Module:
        """As it is: what judges, and what others attack."""
        return self.host.net

    def standing(self, images: Tensor) -> Tensor:
        """Return which images are labelled right."""
        with torch.no_grad():
            return torch.cat([self.net(part).argmax(1) for part in images.split(128)]) == self.labels

    def rows(self, name: str) -> Iterator[Row]:
        """Attack with each implementation that is installed, ours first."""
        ours: Tensor | None = None
        counted = Counted(self.host, len(self.labels))
        for by, attack in self._attacks(name, counted):
            print(f"{name} by {by} …", file=sys.stderr)
            before = time.process_time()
            found = attack()
            spent = time.process_time() - before
            beyond = lengths(found - self.images, self.threat.norm) > self.threat.eps + 1e-5
            assert by != "robustdeploy" or not bool(beyond.any()), name
            found[beyond] = self.images[beyond]
            stands = self.standing(found)
            ours = stands if ours is None else ours
            broke, held = int((ours & ~stands).sum()), int((stands & ~ours).sum())
            asked = None
            if by == "robustdeploy" and name in QUERY:
                fell = (self.standing(self.images) & ~stands).numpy()
                asked = float(np.median(counted.per_image[fell]))
            yield Row(name, by, int(stands.sum()), broke, held, round(spent, 1), asked)

    def _attacks(self, name: str, counted: Counted) -> Iterator[tuple[str, Attack]]:
        if name in QUERY:
            yield "robustdeploy", partial(self._by_queries, QUERY[name], counted)
        else:
            yield "robustdeploy", partial(self._ours, OURS[name])
        for package, others in (
            ("torchattacks", self._torchattacks),
            ("art", self._art),
            ("foolbox", self._foolbox),
        ):
            if find_spec(package) is None:
                print(f"without {package}: it is not installed", file=sys.stderr)
            elif (attack := others(name)) is not None:
                yield package, attack

    def _ours(self, attack: GradientAttack) -> Tensor:
        ids = torch.arange(len(self.labels))
        noise = Noise(0, ids)
        blocks = ids.split(128)
        found = [
            attack(self.host.followed, self.images[block], self.labels[block], self.threat, noise.select(block))
            for block in blocks
        ]
        return torch.cat(found)

    def _by_queries(self, attack: QueryAttack, counted: Counted) -> Tensor:
        images = (self.images.numpy() * 255).round().astype(np.uint8)
        found = attack(counted, images, self.labels.numpy(), self.threat, Draws(0, self.ids))
        return torch.from_numpy(found).float() / 255

    def _torchattacks(self, name: str) -> Attack | None:
        import torchattacks as ta

        eps, net = self.threat.eps, self.net
        classes = int(self.net(self.images[:1]).shape[1])
        if self.threat.norm != "linf":
            # It has no other attack in ℓ2, and none in ℓ1 that is comparable.
            same: dict[str, Any] = {"norm": "L2", "eps": eps}
            in_l2: dict[str, Callable[[], Any]] = {
                "pgd-20": lambda: ta.PGDL2(net, eps=eps, alpha=eps / 4, steps=20),
                "apgd-100": lambda: ta.APGD(net, steps=100, loss="ce", **same),
                "apgd-100-dlr": lambda: ta.APGD(net, steps=100, loss="dlr", **same),
                "apgd-100-dlr-t9": lambda: ta.APGDT(net, steps=100, n_classes=classes, **same),
                "square-1000": lambda: ta.Square(net, n_queries=1000, **same),
                "fab-100-t9": lambda: ta.FAB(net, steps=100, multi_targeted=True, n_classes=classes, **same),
            }
            return self._by(in_l2, name) if self.threat.norm == "l2" else None
        made: dict[str, Callable[[], Any]] = {
            "fgsm": lambda: ta.FGSM(net, eps=eps),
            "bim-10": lambda: ta.BIM(net, eps=eps, alpha=eps / 4, steps=10),
            "mim-10": lambda: ta.MIFGSM(net, eps=eps, alpha=eps / 4, steps=10),
            "pgd-20": lambda: ta.PGD(net, eps=eps, alpha=eps / 4, steps=20),
            "apgd-100": lambda: ta.APGD(net, eps=eps, steps=100, loss="ce"),
            "apgd-100-dlr": lambda: ta.APGD(net, eps=eps, steps=100, loss="dlr"),
            "apgd-100-dlr-t9": lambda: ta.APGDT(net, eps=eps, steps=100, n_classes=classes),
            "square-1000": lambda: ta.Square(net, eps=eps, n_queries=1000),
            "fab-100-t9": lambda: ta.FAB(net, eps=eps, steps=100, multi_targeted=True, n_classes=classes),
        }
        return self._by(made, name)

    def _by(self, made: dict[str, Callable[[], Any]], name: str) -> Attack | None:
        return partial(self._in_blocks, lambda images, labels: made[name]()(images, labels)) if name in made else None

    def _art(self, name: str) -> Attack | None:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        shape = tuple(self.images.shape[1:])
        classes = int(self.net(self.images[:1]).shape[1])
        net = PyTorchClassifier(
            self.net, nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0), device_type="cpu"
        )
        eps = self.threat.eps
        norm: Any = {"linf": np.inf, "l2": 2, "l1": 1}[self.threat.norm]
        same: dict[str, Any] = {"eps": eps, "batch_size": 128, "norm": norm}
        asking: dict[str, Any] = {"targeted": False, "verbose": False}
        steps: dict[str, Any] = {**same, "eps_step": eps / 4, "verbose": False}
        # It has ℓ∞ alone, and no word for it.
        flat = {name: value for name, value in steps.items() if name != "norm"}
        apgd: dict[str, Any] = {**same, "eps_step": 2 * eps, "max_iter": 100, "nb_random_init": 1, "verbose": False}
        made: dict[str, Callable[[], Any]] = {
            "fgsm": lambda: evasion.FastGradientMethod(net, **same),
            "bim-10": lambda: evasion.BasicIterativeMethod(net, max_iter=10, **flat),
            "mim-10": lambda: evasion.MomentumIterativeMethod(net, max_iter=10, **steps),
            "pgd-20": lambda: evasion.ProjectedGradientDescent(net, max_iter=20, num_random_init=1, **steps),
            "square-1000": lambda: evasion.SquareAttack(net, max_iter=1000, nb_restarts=1, verbose=False, **same),
            "apgd-100": lambda: evasion.AutoProjectedGradientDescent(net, loss_type="cross_entropy", **apgd),
            "apgd-100-dlr": lambda: evasion.AutoProjectedGradientDescent(
                net, loss_type="difference_logits_ratio", **apgd
            ),
        }
        if norm == 2:
            # Neither has a radius: they look for the nearest wrong image, and get about as many queries.
            made["hop-skip-jump-1000"] = lambda: evasion.HopSkipJump(net, norm=2, max_iter=4, max_eval=250, **asking)
            made["boundary-1000"] = lambda: evasion.BoundaryAttack(net, max_iter=70, **asking)
        # Of its ℓ∞ forms alone.
        if name not in made or (norm != np.inf and name in ("bim-10", "mim-10")):
            return None

        def attack(images: Tensor, labels: Tensor) -> Tensor:
            found: Any = made[name]().generate(images.numpy(), labels.numpy())
            return torch.from_numpy(np.asarray(found, np.float32))

        return partial(self._in_blocks, attack)

    def _foolbox(self, name: str) -> Attack | None:
        # The others have no FMN.
        if name != "fmn-100":
            return None
        import foolbox

        forms = {"linf": foolbox.attacks.LInfFMNAttack, "l2": foolbox.attacks.L2FMNAttack}
        made = {**forms, "l1": foolbox.attacks.L1FMNAttack}[self.threat.norm](steps=100)
        net = foolbox.PyTorchModel(self.net, bounds=(0, 1), device="cpu")

        def attack(images: Tensor, labels: Tensor) -> Tensor:
            # Without a radius it gives the nearest wrong image that it met.
            (found,), *_ = made(net, images, labels, epsilons=[None])
            return found

        return partial(self._in_blocks, attack)

    def _in_blocks(self, attack: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        pairs = zip(self.images.split(128), self.labels.split(128), strict=True)
        found = torch.cat([attack(*pair) for pair in pairs])
        self.net.eval()
        return found.detach()


def _table(found: dict[str, Any]) -> str:
    head = f"{found['net']}, {found['images']} test images of {found['data']}, {found['right']} labelled right"
    lines = [
        f"{head}, {found['norm']} eps {found['eps'] * 255:g}/255, load {found['load']}",
        machine.in_words(found["machine"]),
        "",
        "| attack | by | left standing | broke alone | held alone | CPU s | queries |",
        "|---|---|---|---|---|---|---|",
    ]
    names = ("attack", "by", "standing", "broke_alone", "held_alone", "cpu_s", "queries")
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in found["rows"]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
