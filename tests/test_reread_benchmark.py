"""The independent reading of stored images: a grey level too much, an image twice, another image."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from reread import counted


@pytest.fixture
def known() -> np.ndarray:
    """Test images of a data set."""
    return np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)


def outcomes(run: Path, known: np.ndarray, ids: list[int], add: int) -> Path:
    """Store an evaluation of some images, one pixel of the last of them moved by ``add`` grey levels."""
    clean = known[ids]
    found = clean.astype(np.int16)
    found[-1, 0, 0, 0] += add if found[-1, 0, 0, 0] < 128 else -add
    path = run / "boards" / "pruned" / "fp32@host-cpu" / "outcomes.npz"
    path.parent.mkdir(parents=True)
    (run / "recipe.yaml").write_text("threat: {norm: linf, eps: 8/255}\n")
    np.savez(path, ids=np.array(ids), images=clean, **{"pgd-10/images": found.astype(np.uint8)})
    return path


@pytest.mark.parametrize(("add", "wrong"), [(0, 0), (8, 0), (9, 1)])
def test_a_grey_level_too_much_is_found(tmp_path: Path, known: np.ndarray, add: int, wrong: int) -> None:
    """Eight levels are inside 8/255 and nine are not."""
    assert list(counted(outcomes(tmp_path, known, [3, 5, 7], add), known)) == [
        ("clean", 3, 0),
        ("adversarial", 3, wrong),
    ]


def test_an_image_that_stands_there_twice_or_is_another_is_found(tmp_path: Path, known: np.ndarray) -> None:
    """Both are counted among the clean images."""
    path = outcomes(tmp_path, known, [3, 5, 5], 0)
    other = known.copy()
    other[3] ^= 1
    assert next(counted(path, known)) == ("clean", 3, 1)
    assert next(counted(path, other)) == ("clean", 3, 2)
