"""Held out: accuracies of stored nets on the validation images, to choose between options without the test set.

    python benchmarks/held_out.py docs/results/cifar10-resnet20-ops1 runs/floor-0.1 runs/floor-0.2 --data data/cifar10

Each net is a folder with ``net.json`` and ``model.safetensors``, or a run. All see the same images under the same
attack noise, so each is also compared with the first one image by image.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from numpy.typing import NDArray

from robustdeploy.attacks.pgd import Pgd
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.recipe import Recipe
from robustdeploy.data.images import Images
from robustdeploy.data.load import load_data
from robustdeploy.errors import RobustdeployError
from robustdeploy.evaluate.host import load_host_net
from robustdeploy.evaluate.intervals import clopper_pearson, paired_difference
from robustdeploy.nets.store import load_info, net_folder
from robustdeploy.train.import_net import check_fits
from robustdeploy.train.setup import device_from

ATTACK = Pgd(steps=10)
BATCH = 250

Right = NDArray[np.bool_]
"""One bool per image."""


def main(words: list[str] | None = None) -> int:
    """Print one JSON document and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("nets", type=Path, nargs="+", help="folders of nets, or runs")
    parser.add_argument("--recipe", default="cifar10-resnet20", help="what the data and the threat are taken from")
    parser.add_argument("--data", type=Path, help="folder of the data set")
    parser.add_argument("--limit", type=int, help="use only so many of the validation images")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(words)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit must be at least 1, not {options.limit}")
    try:
        recipe = recipe_for(options.recipe, overrides=[f"data.path={options.data}"] if options.data else [])
        print(json.dumps(compared(options.nets, recipe, options.limit, options.device), indent=2))
    except RobustdeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def compared(nets: list[Path], recipe: Recipe, limit: int | None, device: str) -> dict[str, Any]:
    """Return the accuracies of each net, its difference from the first one, and the conditions."""
    data = load_data(recipe.data)
    for net in nets:
        check_fits(load_info(net), data)
    images = data.validation.select(torch.arange(len(data.validation))[:limit])
    found = [outcomes(net, images, recipe, device) for net in nets]
    rest = zip(nets[1:], found[1:], strict=True)
    return {
        "images": f"{len(images)} held out of the training set of {data.name}",
        "split_sha256": data.digest,
        "attack": f"{ATTACK} at {recipe.threat.norm} eps {recipe.threat.eps:.6g}",
        "nets": [_told(nets[0], found[0], None), *(_told(n, its, found[0]) for n, its in rest)],
        **machine.description(device_from(device)),
    }


def outcomes(net: Path, images: Images, recipe: Recipe, device: str) -> dict[str, Right]:
    """Return which images a net has right as they are, and which of these also under the attack."""
    host = load_host_net(net_folder(net), str(device_from(device)))
    pixels, labels, ids = (part.numpy() for part in (images.images, images.labels, images.ids))
    clean = host.score(pixels).argmax(1) == labels
    standing = clean.copy()
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        moved = host.attack(ATTACK, pixels[part], labels[part], recipe.threat, 0, ids[part])
        standing[part] &= host.score(moved).argmax(1) == labels[part]
    return {"clean": clean, "pgd10": standing}


def _told(net: Path, its: Mapping[str, Right], first: Mapping[str, Right] | None) -> dict[str, Any]:
    told: dict[str, Any] = {"net": str(net)}
    for name, right in its.items():
        told[name] = {"value": float(right.mean()), "interval": clopper_pearson(int(right.sum()), len(right))}
        if first is not None:
            difference, *interval = paired_difference(right, first[name])
            told[name] |= {"minus_first": difference, "interval_of_that": interval}
    return told


if __name__ == "__main__":
    sys.exit(main())
