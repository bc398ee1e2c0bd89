"""Supported nets: what `prune` says of every classifier of torchvision before a training, as a page of the docs.

    python benchmarks/supported.py               # all of them, and writes docs/supported.md
    python benchmarks/supported.py resnet18 swin_t --json
    python benchmarks/supported.py --check       # whether the page says what would be written

Each net, and each kind of structure in `structures.py`, is a process of its own: it is built for ten classes, exported
and run by ONNX Runtime, its operations are counted, and its channel groups are found and tried out, as by `prune`.
Nothing is trained. Nets made of the same kinds of layers as a smaller one are counted only, unless `--every` is said.
What was tried is kept while the code stays the same, so that an interrupted command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import platform
import re
import resource
import sys
import time
import warnings
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from structures import KINDS
from torch import nn

from robustdeploy.core.factories import TORCHVISION
from robustdeploy.core.load import load_recipe
from robustdeploy.core.registry import NETS
from robustdeploy.cost.module import macs, params
from robustdeploy.data.images import numbered
from robustdeploy.data.load import Loaded
from robustdeploy.errors import BudgetError, RobustdeployError
from robustdeploy.export.rehearsal import rehearse
from robustdeploy.nets.steady import LOOKED_AT, check_steady
from robustdeploy.prune.follow import OUTPUT
from robustdeploy.prune.groups import own_names
from robustdeploy.train.setup import pruning_from
from robustdeploy.train.start import starting_net

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "supported.md"
SIDE = 64
SIDES = {"inception_v3": 96, "vit_h_14": 56, "maxvit_t": 224}
"""Nets whose layers need other images: Inception 75 pixels or more, patches of 14, and windows of 7 in every stage."""
MOST_BYTES = 14 * 2**30
"""Of memory for one net, so that the largest end in an error and not with the machine."""
PATIENCE_S = 1800
FORK = multiprocessing.get_context("fork")
"""Libraries take longer to load than a small net to try."""
MOST_REASONS = 3
"""Why layers stay whole, told in one cell."""


def names() -> list[str]:
    """Return torchvision's classifiers, those that a recipe can name."""
    return list(torchvision.models.list_models(module=torchvision.models))


def choice(name: str) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Return a net as a recipe names it, and the images that it is tried on."""
    if name in KINDS:
        return {"name": "structures:net", "kind": name}, (1, 8, 8)
    side = SIDES.get(name, SIDE)
    sized = {"image_size": side} if name.startswith("vit_") else {}  # these have to know the size of the images
    named = f"{TORCHVISION}{name}" if name in NETS else name  # the short name is of this package's own net
    return {"name": named, **sized}, (3, side, side)


def relatives() -> dict[str, str]:
    """Return for each classifier the smallest one that is made of the same kinds of layers, which may be itself.

    They differ in how many layers they have and how wide these are, so what becomes of the one becomes of the other.
    """
    kin: dict[frozenset[Any], list[tuple[int, str]]] = {}
    for name in names():
        net = without_weights(name)
        layers = frozenset(_kind_of(module) for module in net.modules() if not isinstance(module, _CONTAINERS))
        kin.setdefault(layers, []).append((params(net), name))
    return {name: min(those)[1] for those in kin.values() for _, name in those}


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _kind_of(module: nn.Module) -> tuple[str, bool, bool]:
    groups = getattr(module, "groups", 1)
    return type(module).__qualname__, groups > 1, groups > 1 and groups == getattr(module, "in_channels", 0)


def without_weights(name: str) -> nn.Module:
    """Return one of torchvision's classifiers for ten classes, all shapes and no values: the largest in little time."""
    own = nn.Module.register_parameter

    def register(module: nn.Module, key: str, parameter: nn.Parameter | None) -> None:
        own(module, key, None if parameter is None else nn.Parameter(parameter.to("meta")))

    options = {option: value for option, value in choice(name)[0].items() if option != "name"}
    side = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with mock.patch.object(nn.Module, "register_parameter", register):
        net: nn.Module = torchvision.models.get_model(name, num_classes=10, **options, **side)
    return net


def counted(name: str, like: str) -> dict[str, Any]:
    """Count a net that is made of the same layers as another, on shapes alone."""
    started = time.perf_counter()
    shape = choice(name)[1]
    net = without_weights(name)
    costs = {"macs": macs(net, shape), "params": params(net)}
    return {"net": name, "side": shape[1], **costs, "like": like, "seconds": round(time.perf_counter() - started, 1)}


def tried(name: str) -> dict[str, Any]:
    """Try one net and say what came of it."""
    net, shape = choice(name)
    started = time.perf_counter()
    try:
        found = _found(net, shape)
    except (RobustdeployError, MemoryError) as problem:
        found = {"refused": str(problem) or "more memory than it was given"}
    return {"net": name, "side": shape[1], **found, "seconds": round(time.perf_counter() - started, 1)}


def _found(net_choice: dict[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the groups and counts of a net, after everything that `prune` asks before it trains."""
    recipe = load_recipe(
        "digits-resnet8", (f"net={json.dumps(net_choice)}", "budget.ops=1", "train.device=cpu", "prune=masks")
    )
    pixels = torch.randint(0, 256, (8, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = numbered(pixels, torch.arange(8))
    half = (0.5,) * shape[0]
    data = Loaded("noise", tuple("abcdefghij"), shape, half, half, False, 0, images, images, "0", 0)
    net = starting_net(recipe, data, torch.device("cpu"))
    check_steady(net, pixels[:LOOKED_AT] / 255, f"net '{net_choice['name']}'")
    rehearse(recipe, data)
    told: dict[str, Any] = {"macs": macs(net, shape), "params": params(net)}
    try:
        pruning: Any = pruning_from(recipe, data, net)
    except BudgetError as problem:
        return {**told, "whole": str(problem)}
    groups = [group.size for group in pruning.groups]
    return {**told, "groups": len(groups), "channels": sum(groups), "left": dict(pruning.whole)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return torchvision's classifiers as Markdown."""
    head = ["| net | pixels | MACs | parameters | what `prune` does | s |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *map(line, rows)])


def table_of_kinds(rows: list[dict[str, Any]]) -> str:
    """Return the kinds of structure as Markdown."""
    return "\n".join(["| structure | what `prune` does |", "|---|---|", *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    """Return one row of either table."""
    if row["net"] in KINDS:
        return f"| {row['net']} | {told(row)} |"
    costs = f"{row['macs'] / 1e6:,.1f} M | {row['params'] / 1e6:,.2f} M" if "macs" in row else "| "
    return f"| `{row['net']}` | {row['side']} | {costs} | {told(row)} | {row['seconds']:,.0f} |"


def told(row: dict[str, Any]) -> str:
    """Say in one cell what came of a net."""
    if "like" in row:
        return f"not tried: it has the same kinds of layers as `{row['like']}`"
    if "refused" in row:
        return f"refused: {_sentence(own_names(row['refused']))}"
    if "whole" in row:
        return f"left whole: {_sentence(own_names(row['whole']))}"
    groups = f"{row['groups']} group" if row["groups"] == 1 else f"{row['groups']} groups"
    return f"pruned: {groups}, {row['channels']:,} channels{_left(row['left'])}"


def _left(left: dict[str, str]) -> str:
    """Return what stays whole beside the groups: by reason, how many layers; the net's outputs always do."""
    reasons = Counter(_general(own_names(reason)) for reason in left.values() if reason != OUTPUT)
    parts = [f"{count} × {_sentence(reason)}" for reason, count in reasons.most_common(MOST_REASONS)]
    if len(reasons) > MOST_REASONS:
        parts.append(f"and other reasons ({len(reasons) - MOST_REASONS})")
    return f"; whole: {'; '.join(parts)}" if parts else ""


def _general(reason: str) -> str:
    """Return a reason without the names of layers, so that layers left for the same reason are counted together."""
    return re.sub(r"(?<![\w.'])[A-Za-z_]\w*(\.\w+)+", "…", reason)


def _sentence(text: str) -> str:
    return " ".join(re.sub(r"net '\w+:net'", "this net", text).replace("|", "/").split())


def page(nets: list[dict[str, Any]], kinds: list[dict[str, Any]]) -> str:
    """Return the page with its tables renewed; its words are written by hand."""
    made = f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}, one thread"
    text = PAGE.read_text(encoding="utf-8")
    for mark, content in (("nets", f"{table(nets)}\n\nTried with {made}."), ("kinds", table_of_kinds(kinds))):
        before, _, rest = text.partition(f"<!-- {mark} -->\n")
        _, _, after = rest.partition(f"<!-- end of {mark} -->\n")
        text = f"{before}<!-- {mark} -->\n\n{content}\n\n<!-- end of {mark} -->\n{after}"
    return text


def untrue(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines for these rows that the page does not hold; how long each took is left out of it."""
    held = [_timeless(text) for text in PAGE.read_text(encoding="utf-8").splitlines()]
    return [text for text in map(line, rows) if _timeless(text) not in held]


def _timeless(text: str) -> str:
    return re.sub(r"\| [\d,]+ \|$", "|", text)


def main() -> int:
    """Try the nets, each in a process of its own, and write the page if these are all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", nargs="*")
    parser.add_argument("--json", action="store_true", help="print what was found")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "supported", help="where what was tried is kept")
    parser.add_argument("--every", action="store_true", help="try also those made of the same layers as another")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page says something else")
    options = parser.parse_args()
    torch.set_num_threads(1)  # also so that this process may be forked
    _load()
    kept = options.kept / code()
    like = {} if options.every or options.nets else relatives()
    rows = [_row(name, like.get(name, name), kept) for name in options.nets or (*KINDS, *names())]
    if options.json:
        print(json.dumps(rows, indent=2))
    if options.check:
        wrong = untrue(rows)
        print("\n".join([*wrong, f"{len(wrong)} rows are not on {PAGE.name}"]), file=sys.stderr)
        return int(bool(wrong))
    if not options.nets:
        PAGE.write_text(page(rows[len(KINDS) :], rows[: len(KINDS)]), encoding="utf-8")
    return 0


def code() -> str:
    """Return a mark of everything that a row hangs on: the versions of torch, and this package's own source."""
    files = (file for folder in _ASKED for file in sorted((ROOT / "robustdeploy" / folder).rglob("*.py")))
    mark = hashlib.sha256(f"{torch.__version__} {torchvision.__version__}".encode())
    for file in (*files, ROOT / "benchmarks" / "structures.py"):
        mark.update(file.read_bytes())
    return mark.hexdigest()[:12]


_ASKED = ("cost", "export", "nets", "prune")
"""The packages that say what becomes of a net."""


def _row(name: str, like: str, kept: Path) -> dict[str, Any]:
    return _in_a_process(name, kept) if like == name or _file(name, kept).exists() else counted(name, like)


def _file(name: str, kept: Path) -> Path:
    return kept / f"{name.replace(' ', '-')}.json"


def _load() -> None:
    """Have the exporter load all that it needs, which takes it longer than a small net."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(nn.Flatten().eval(), (torch.zeros(2, 1, 8, 8),), dynamo=True)


def _in_a_process(name: str, kept: Path) -> dict[str, Any]:
    file = _file(name, kept)
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    print(name, file=sys.stderr, flush=True)
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send, args=(name, theirs))
    process.start()
    theirs.close()
    try:
        row = ours.recv() if ours.poll(PATIENCE_S) else _lost(name, f"not done after {PATIENCE_S / 60:.0f} minutes")
    except EOFError:
        row = _lost(name, "the process ended without a word; had it too little memory?")
    process.kill()
    process.join()
    kept.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(row, indent=2), encoding="utf-8")
    return row


def _send(name: str, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    pipe.send(tried(name))


def _lost(name: str, why: str) -> dict[str, Any]:
    return {"net": name, "side": choice(name)[1][1], "refused": why, "seconds": PATIENCE_S}


if __name__ == "__main__":
    sys.exit(main())
