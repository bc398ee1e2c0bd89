"""Collecting: the adversarial images that runs have stored, put into one replay set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustdeploy.core.archive import Arrays
from robustdeploy.core.subject import DENSE, FP32, TORCH, Subject
from robustdeploy.data.replay_set import (
    Origin,
    ReplaySet,
    empty,
    hashes,
    is_replay_set,
    read_replay_set,
    size_of,
    write_replay_set,
)
from robustdeploy.engine.places import BOARDS, kind_of, subject_of
from robustdeploy.engine.run import Run
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.evaluate.paired import array_in, read_outcomes
from robustdeploy.nets.store import load_info


@dataclass(frozen=True)
class Collected:
    """What a replay set holds after runs were added to it."""

    folder: Path
    images: int
    added: int
    clean_images: int
    """Test images that they are of."""
    bytes: int


def collect(runs: Sequence[Run], folder: Path) -> Collected:
    """Add what attacks found in ``runs`` to the replay set in ``folder``, which is made where it is not there.

    An image is taken where a net that labelled the clean one right labels it wrong: on a target, or in torch. Raises a
    UsageError for a run without an evaluation, or of other data, and an ArtifactError for one that is damaged.
    """
    before = read_replay_set(folder) if is_replay_set(folder) else None
    whole = before
    for run in runs:
        info = load_info(run.root / run.net_place)
        whole = empty(info.image_shape, info.classes) if whole is None else whole
        whole.check_fits(info.image_shape, info.classes, str(folder) if before else f"the run {runs[0].root}")
        whole = whole.added(found_in_run(run, whole))
    if whole is None or not len(whole.images):
        raise UsageError("no attack of these runs found an image that is labelled wrong, so there is nothing to keep")
    added = len(whole.images) - (0 if before is None else len(before.images))
    if added:
        write_replay_set(folder, whole)
    clean = len({bytes(one) for one in whole.clean})
    return Collected(folder, len(whole.images), added, clean, size_of(folder))


def found_in_run(run: Run, like: ReplaySet) -> Iterator[ReplaySet]:
    """Yield, for each attack of each evaluation of a run, the images that it made wrong."""
    places = sorted(place for place in run.manifests() if kind_of(place) == BOARDS)
    if not places:
        raise UsageError(f"{run.root} has no finished evaluation yet: run `robustdeploy evaluate {run.root}` first")
    for place in places:
        run.sealed(place)
        path = run.root / place / "outcomes.npz"
        arrays, where = read_outcomes(path), str(path)
        images, labels, ids = (array_in(arrays, name, where) for name in ("images", "labels", "ids"))
        clean = hashes(images)
        for subject, attack, name, bits in _wrong(arrays, where, subject_of(place)):
            at = np.flatnonzero(bits)
            if len(at):
                threat = run.recipe.threat
                whose = {"run": run.name, "subject": str(subject), "attack": attack}
                origin = Origin(**whose, eps=threat.eps, norm=threat.norm)
                yield ReplaySet(
                    like.image_shape,
                    like.classes,
                    (origin,),
                    array_in(arrays, name, where)[at],
                    labels[at],
                    clean[at],
                    ids[at],
                    np.zeros(len(at), np.int64),
                )


def _wrong(arrays: Arrays, where: str, subject: Subject) -> Iterator[tuple[Subject, str, str, Bits]]:
    """Yield whose images an array holds, by which attack, the array's name, and which of them fell."""
    labels = array_in(arrays, "labels", where)
    dense = Subject(DENSE, FP32, TORCH)
    for name in sorted(arrays):
        if not name.endswith("/images"):
            continue
        stem = name.removesuffix("/images")
        if stem.startswith("dense/"):
            yield dense, stem.removeprefix("dense/"), name, _fell(arrays, where, labels, "dense/", f"{stem}/")
            continue
        board = _fell(arrays, where, labels, "", f"{stem}/")
        if f"{stem}/host_images" in arrays:
            # The worst of each for torch itself lies beside.
            yield subject, stem, name, board
            yield subject.reference, stem, f"{stem}/host_images", _fell(arrays, where, labels, "host/", f"{stem}/host_")
        else:
            yield subject, stem, name, board | _fell(arrays, where, labels, "host/", f"{stem}/host_")


def _fell(arrays: Arrays, where: str, labels: np.ndarray, before: str, after: str) -> Bits:
    clean = array_in(arrays, f"{before}predictions", where)
    attacked = array_in(arrays, f"{after}predictions", where)
    bits: Bits = (clean == labels) & (attacked != labels)
    return bits
