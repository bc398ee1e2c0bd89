"""Supported nets: what `prune` says of every classifier of torchvision before a training, as a page of the docs.

    python benchmarks/supported.py               # all of them, and writes docs/supported.md
    python benchmarks/supported.py --minutes 60  # as many as that allows
    python benchmarks/supported.py resnet18 swin_t --json
    python benchmarks/supported.py --check       # whether the page says what would be written

Each net, and each kind of structure in `structures.py`, is a process of its own: it is built for ten classes, exported
and run by ONNX Runtime, its operations are counted, and its channel groups are found and tried out, as by `prune`.
Nothing is trained. What was tried is kept while the code stays the same, so that an interrupted command goes on.
Where it has changed, `--earlier` takes rows over, family by family, after the smallest net of each was tried again.
Small nets come first. With `--minutes` no other is begun after so long; what was not tried is counted and named.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import io
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import redirect_stdout
from importlib.metadata import version
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
TOO_LITTLE = f"trying it takes more than the {MOST_BYTES / 2**30:.0f} GiB of memory that it was given"
SHORT = ("allocate memory", "to be had here")
"""Words of torch, and of this package, for too little memory."""
NO_TIME = "there was no time to try it; smaller nets came first"
PATIENCE_S = 1800
FORK = multiprocessing.get_context("fork")
"""Libraries take longer to load than a small net to try."""
MOST_REASONS = 3
"""Why layers stay whole, told in one cell."""


def names() -> list[str]:
    """Return torchvision's classifiers, those that a recipe can name."""
    return list(torchvision.models.list_models(module=torchvision.models))


def size(name: str) -> int:
    """Return how many parameters a net has by torchvision's own account; the kinds of structure are small."""
    return 0 if name in KINDS else int(torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"])


def choice(name: str) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Return a net as a recipe names it, and the images that it is tried on."""
    if name in KINDS:
        return {"name": "structures:net", "kind": name}, (1, 8, 8)
    side = SIDES.get(name, SIDE)
    sized = {"image_size": side} if name.startswith("vit_") else {}  # these have to know the size of the images
    named = f"{TORCHVISION}{name}" if name in NETS else name  # the short name is of this package's own net
    return {"name": named, **sized}, (3, side, side)


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


def lost(name: str, why: str, seconds: float = 0) -> dict[str, Any]:
    """Say why a net was not tried to the end; it is counted all the same, on shapes alone."""
    row = {"net": name, "side": choice(name)[1][1], "unknown": why, "seconds": seconds}
    if name in KINDS:
        return row
    net = without_weights(name)
    return {**row, "macs": macs(net, choice(name)[1]), "params": params(net)}


def tried(name: str) -> dict[str, Any]:
    """Try one net and say what came of it."""
    net, shape = choice(name)
    started = time.perf_counter()
    try:
        found = _found(net, shape)
    except (RobustdeployError, MemoryError, RuntimeError) as problem:
        short = isinstance(problem, MemoryError) or any(words in str(problem) for words in SHORT)
        if not (short or isinstance(problem, RobustdeployError)):
            raise
        if short:
            return lost(name, TOO_LITTLE, round(time.perf_counter() - started, 1))
        found = {"refused": str(problem)}
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
    if "line" in row:
        return str(row["line"])
    if row["net"] in KINDS:
        return f"| {row['net']} | {told(row)} |"
    if "macs" not in row:  # what is refused is counted all the same
        row |= {count: lost(row["net"], "")[count] for count in ("macs", "params")}
    costs = f"{row['macs'] / 1e6:,.1f} M | {row['params'] / 1e6:,.2f} M"
    return f"| `{row['net']}` | {row['side']} | {costs} | {told(row)} | {row['seconds']:,.0f} |"


def told(row: dict[str, Any]) -> str:
    """Say in one cell what came of a net."""
    if "unknown" in row:
        return f"not known: {row['unknown']}"
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
    if taken := [row for row in nets if "line" in row]:
        again = sum(row["again"] for row in taken)
        told = f"{len(taken)} rows are of earlier code; for {again} of them"
        made += f". {told} a smaller net of the family was tried again and is the same"
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
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page says something else")
    parser.add_argument(
        "--earlier", action="store_true", help="keep the page's rows where the smallest net of the family is the same"
    )
    parser.add_argument("--minutes", type=int, help="after which no further net is begun")
    options = parser.parse_args()
    torch.set_num_threads(1)  # also so that this process may be forked
    _load()
    kept = options.kept / code()
    asked = options.nets or [*KINDS, *names()]
    end = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    held = written() if options.earlier else {}
    found: dict[str, dict[str, Any]] = {}
    alike: dict[str, bool] = {}
    for name in sorted(asked, key=size):
        before, its = held.get(name), family(name)
        if before is None or not alike.get(its, time.monotonic() > end):
            found[name] = _row(name, kept, end)
            alike[its] = before is not None and _timeless(before) == _timeless(line(found[name]))
        else:
            found[name] = {"net": name, "line": before, "again": its in alike}
    rows = [found[name] for name in asked]
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
    """Return a mark of everything that a row hangs on: the libraries' versions, and the code that says what it says."""
    mark = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in _LIBRARIES).encode())
    for file in deciding():
        mark.update(_code(file.read_text(encoding="utf-8")).encode())
    for function in (choice, lost, tried, _found):
        mark.update(_code(inspect.getsource(function)).encode())
    return mark.hexdigest()[:12]


def family(name: str) -> str:
    """Return what a net is one size of; each kind of structure stands for itself."""
    its = re.match(r"[a-z]+(_v\d|_[xy](?=_))?", name)
    return name if name in KINDS or its is None else f"{its.group()}{'_bn' if name.endswith('_bn') else ''}"


def written() -> dict[str, str]:
    """Return the lines of the page's tables by what they are of, but for nets that were not tried."""
    lines = [text for text in PAGE.read_text(encoding="utf-8").splitlines() if text.startswith("| ")]
    return {text.split("|")[1].strip(" `"): text for text in lines if "not known: " not in text}


def deciding() -> list[Path]:
    """Return the modules that decide what becomes of a net: those asked here, and what these import of four packages.

    Elsewhere a recipe is read and images are held, which says nothing of any net.
    """
    found, todo = set(), [f"robustdeploy.{name}" for name in _FOLLOWED]
    while todo:
        file = ROOT / Path(*todo.pop().split(".")).with_suffix(".py")
        if file.is_file() and file not in found:
            found.add(file)
            todo += filter(_OF_NETS.match, _imported(ast.parse(file.read_text(encoding="utf-8"))))
    return sorted({*found, *(ROOT / "robustdeploy" / file for file in _ASKED), ROOT / "benchmarks" / "structures.py"})


def _imported(tree: ast.Module) -> list[str]:
    return [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]


def _code(text: str) -> str:
    """Return what Python makes of a source: comments, docstrings and the breaking of lines decide nothing."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


_FOLLOWED = ("cost.module", "export.rehearsal", "nets.build", "nets.steady", "prune.groups", "prune.masks")
_ASKED = ("train/setup.py", "train/start.py")
"""These hand on what the recipe says; what else they import has to do with trainings and with stored nets."""
_OF_NETS = re.compile(r"robustdeploy\.(cost|export|nets|prune)\.")
_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")


def _file(name: str, kept: Path) -> Path:
    return kept / f"{name.replace(' ', '-')}.json"


def _load() -> None:
    """Have the exporter load all that it needs, which takes it longer than a small net."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(nn.Flatten().eval(), (torch.zeros(2, 1, 8, 8),), dynamo=True)


def _held(name: str, kept: Path) -> dict[str, Any] | None:
    """Return what was found of a net before, if anything was."""
    file = _file(name, kept)
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _row(name: str, kept: Path, end: float) -> dict[str, Any]:
    if (held := _held(name, kept)) is not None:
        return held
    if time.monotonic() > end:
        return lost(name, NO_TIME)
    row = _in_a_process(name)
    kept.mkdir(parents=True, exist_ok=True)
    _file(name, kept).write_text(json.dumps(row, indent=2), encoding="utf-8")
    return row


def _in_a_process(name: str) -> dict[str, Any]:
    print(name, file=sys.stderr, flush=True)
    ours, theirs = FORK.Pipe(duplex=False)
    process, started = FORK.Process(target=_send, args=(name, theirs)), time.perf_counter()
    process.start()
    theirs.close()
    why = TOO_LITTLE  # of a process that ends without a word
    try:
        if not ours.poll(PATIENCE_S):
            why = f"it was not done after {PATIENCE_S / 60:.0f} minutes"
            process.kill()
        row = ours.recv()
    except EOFError:
        row = lost(name, why, round(time.perf_counter() - started, 1))
    process.kill()
    process.join()
    return row


def _send(name: str, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = folder  # what this user has tried before is tried again
        pipe.send(tried(name))


if __name__ == "__main__":
    sys.exit(main())
