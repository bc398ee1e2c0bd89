"""Read all adversarial images that runs have stored again, as integers, and count those that are not what they must be.

An image must lie within the whole grey levels of the run's eps, and belong to one image of the data set's test part,
which stands in the run as torchvision reads it. Nothing of the package's own checks is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

Pixels = npt.NDArray[np.uint8]


def test_images(name: str, path: Path) -> Pixels:
    """Read a data set's test images, N×C×H×W."""
    from torchvision import datasets

    if name == "mnist":
        return np.asarray(datasets.MNIST(str(path), train=False).data)[:, None]
    if name == "cifar10":
        return np.ascontiguousarray(datasets.CIFAR10(str(path), train=False).data.transpose(0, 3, 1, 2))
    raise SystemExit(f"{name}: only mnist and cifar10 have a reader of their own here")


def counted(outcomes: Path, known: Pixels) -> Iterator[tuple[str, int, int]]:
    """Yield what was looked at, of how many images, and how many were not as they must be."""
    recipe = yaml.safe_load((outcomes.parents[3] / "recipe.yaml").read_text())
    levels = int(255 * Fraction(str(recipe["threat"]["eps"])))
    with np.load(outcomes, allow_pickle=False) as arrays:
        ids, clean = arrays["ids"], arrays["images"]
        twice = len(ids) - len(np.unique(ids))
        yield "clean", len(clean), twice + int((clean != known[ids]).any(axis=(1, 2, 3)).sum())
        for name in arrays.files:
            if name.endswith("/images"):
                moved = np.abs(arrays[name].astype(np.int16) - clean.astype(np.int16)).max(axis=(1, 2, 3))
                yield "adversarial", len(moved), int((moved > levels).sum())


def main() -> int:
    """Parse the command line, read, and print the counts as JSON; exit with 1 if any image is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that hold runs")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="mnist", choices=["mnist", "cifar10"], help="data set of all these runs")
    options = parser.parse_args()
    known = test_images(options.name, options.data)
    found = {"evaluations": 0, "clean": 0, "adversarial": 0, "wrong_clean": 0, "wrong_adversarial": 0}
    for outcomes in sorted(path for runs in options.runs for path in runs.rglob("outcomes.npz")):
        found["evaluations"] += 1
        for kind, images, wrong in counted(outcomes, known):
            found[kind] += images
            found[f"wrong_{kind}"] += wrong
    print(json.dumps(found))
    return int(bool(found["wrong_clean"] or found["wrong_adversarial"]))


if __name__ == "__main__":
    sys.exit(main())
