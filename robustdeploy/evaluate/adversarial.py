"""Adversarial images found in torch, on the host: once for each net, replayed on every target."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from robustdeploy.core.archive import Arrays, arrays_from, check_arrays
from robustdeploy.core.corruptions import listed_corruptions
from robustdeploy.core.files import atomic_write_bytes
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import AttackRecord
from robustdeploy.core.trust import Trust
from robustdeploy.engine.lineage import remedy
from robustdeploy.engine.stage import Work
from robustdeploy.errors import ArtifactError, UsageError
from robustdeploy.evaluate.adversaries import in_order, in_torch
from robustdeploy.evaluate.attack import (
    Adversary,
    Bench,
    Found,
    Images,
    Progress,
    adversaries_from,
    attack_host,
)
from robustdeploy.evaluate.box import violations
from robustdeploy.evaluate.corruptions import (
    Corrupted,
    corrupted_in,
    corrupted_on_host,
    corruption_arrays,
    shapes_of_corrupted,
)
from robustdeploy.evaluate.curve import curve_found, first_images, radii
from robustdeploy.evaluate.distances import (
    Reach,
    arrays_of,
    distances_from,
    find_distances,
    looked_at,
    reach_of,
    shapes_of,
)
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.nodes import Nodes, sent
from robustdeploy.evaluate.outcomes import Substituted
from robustdeploy.evaluate.parts import Parts, npz_from
from robustdeploy.evaluate.patches import (
    PatchFound,
    find_patches,
    patch_arrays,
    patch_in,
    patch_shapes,
    patches_asked,
)
from robustdeploy.evaluate.substitute import Victim, by_substitute
from robustdeploy.evaluate.vulnerability import Moves, find_moves, moves_arrays, moves_in
from robustdeploy.evaluate.workers import Share, sharing
from robustdeploy.export.exporting import held_out_images
from robustdeploy.nets.store import load_info
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Bytes, Labels, Threat

FILE = "attacks.npz"
_MOST_BYTES = 2**36


@dataclass(frozen=True)
class Attacked:
    """A net to be attacked in torch."""

    folder: Path
    """Holds ``net.json`` and ``model.safetensors``."""
    deployed: bool
    """Whether it will run on targets, where query attacks ask it; otherwise these ask it in torch."""
    device: str
    """Torch device."""
    trust: Trust = False
    """Whose factory may be called to load it."""
    twin: Path | None = None
    """An ONNX file in low precision whose torch twin is attacked instead."""
    exported: Path | None = None
    """What was found on the same net in float32, which is tried on the twin too."""

    def load(self) -> HostNet:
        """Load it."""
        return load_host_net(self.folder, self.device, self.trust, self.twin)


def answerable(recipe: Recipe, host: HostNet) -> Recipe:
    """Return the recipe without what asks for gradients, or for scores, where a net has none; as it is for all others.

    Where no attack is left that is a UsageError.
    """
    if host.followable:
        return recipe
    kept = []
    for adversary in adversaries_from(recipe.evaluate.attacks):
        reads = "labels" if host.labels_alone else adversary.needs
        if adversary.asks and adversary.needs in (None, reads) and adversary.choice not in kept:
            kept.append(adversary.choice)
    if not kept:
        what, fix = ("labels", "rays") if host.labels_alone else ("scores", "square or rays")
        raise UsageError(
            f"this net answers {what} alone, and the recipe has no attack that asks for these: add {fix} with "
            "--attacks, or to evaluate.attacks"
        )
    changed = {"attacks": tuple(kept), "eps_curve": (), "distances": (), "vulnerability": False, "patches": ()}
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=changed)})


@dataclass(frozen=True)
class HostAttacks:
    """Everything that was found in torch on one net."""

    clean: Labels
    """How the net labels the images as they are."""
    attacks: Mapping[str, Found]
    """By the attack's label."""
    curve: Mapping[float, Found]
    """By the multiple of the threat's eps; only for a net that is deployed."""
    distances: Mapping[str, Reach]
    """By the distance's label; always of the net in float32."""
    moves: Mapping[str, Moves]
    """By the attack's label: how far latent features are moved; always of the net in float32."""
    patches: Mapping[str, PatchFound]
    """By the patch attack's label."""
    corrupted: Mapping[str, Corrupted]
    """By the corruption's name."""


def attack_net(
    net: Attacked,
    recipe: Recipe,
    test: Images,
    work: Work,
    progress: Progress,
    workers: int = 1,
    nodes: Nodes | None = None,
) -> AttackRecord:
    """Attack a net in torch. Sealed parts of an interrupted call are used again.

    ``workers`` processes share its blocks, or the ``nodes`` of a cluster; what is found does not depend on how many.
    """
    host = net.load()
    recipe = answerable(recipe, host)
    parts = Parts(work.folder, work.mark, work.ledger)
    with _sharing(net, workers, nodes, host, test, progress) as share:
        bench = Bench(test, recipe.attacked_within, recipe.seed, parts, progress, share=share)
        arrays = _found(net, recipe, bench, host)
    atomic_write_bytes(work.folder / FILE, npz_from(arrays))
    work.keep(FILE)
    return AttackRecord(n=len(test.ids))


def _sharing(
    net: Attacked, workers: int, nodes: Nodes | None, host: HostNet, test: Images, progress: Progress
) -> AbstractContextManager[Share]:
    if nodes is None:
        return sharing(workers, net.load, host)
    return nullcontext(nodes.share(sent(net.folder, net.twin, net.device, net.trust), host, test, progress))


def _found(net: Attacked, recipe: Recipe, bench: Bench, host: HostNet) -> Arrays:
    """Attack a net in torch; return all that was found, by its name in the file."""
    test = bench.images
    # Query attacks ask what is deployed. Only a net that stays in torch, the dense one, is asked here.
    adversaries = in_torch(adversaries_from(recipe.evaluate.attacks), net.deployed)
    before = None if net.exported is None else load_attacks(net.exported, recipe, test, net.deployed)
    tried = {} if before is None else before.attacks
    # Labels by the net itself, not by its faster twin that gradients are followed through.
    clean = Found(test.images, CLASSIFICATION.predictions(host.score(test.images)))

    def one(adversary: Adversary, ahead: Found | None) -> Found:
        return _found_on(net, adversary, bench, host, tried.get(adversary.label), ahead)

    made = in_order(adversaries, clean, one)
    found = {adversary.label: each for adversary, each in zip(adversaries, made, strict=True)}
    # Only for what runs on a board: it is there that a gradient may mislead.
    curve = curve_found(bench, host, recipe, {} if before is None else before.curve) if net.deployed else {}
    # Of the net and not of a twin: what is rounded has no boundary that a gradient leads to.
    distances = find_distances(bench, host, recipe) if before is None else before.distances
    arrays: Arrays = {"predictions": clean.predictions}
    for name, each in {**found, **{_curve_name(multiple): one for multiple, one in curve.items()}}.items():
        arrays |= {f"{name}/images": each.images, f"{name}/predictions": each.predictions}
        if each.substituted is not None:
            arrays[f"{name}/substituted"] = np.array([astuple(each.substituted)], np.float64)
        arrays |= {} if each.lost is None else {f"{name}/lost": each.lost}
    arrays |= arrays_of(distances)
    if recipe.evaluate.vulnerability:
        gradients = {a.label: found[a.label] for a in adversaries if a.kind == "transfer"}
        arrays |= moves_arrays(find_moves(bench, host, gradients) if before is None else before.moves)
    # On a twin anew, whatever was found in float32: what a square may hold is not near the image that it is laid on.
    arrays |= patch_arrays(find_patches(bench, host, recipe, partial(_held_out, net.folder)))
    return arrays | corruption_arrays(corrupted_on_host(bench, host, recipe))


def _held_out(folder: Path) -> tuple[Bytes, Labels]:
    return held_out_images(folder, load_info(folder))


def _found_on(
    net: Attacked, adversary: Adversary, bench: Bench, host: HostNet, before: Found | None, ahead: Found | None
) -> Found:
    if adversary.substitute is None:
        return attack_host(adversary, bench, host, before, ahead)
    info = load_info(net.folder)

    def ask(images: Bytes) -> Labels:
        labels: Labels = CLASSIFICATION.predictions(host.score(images))
        return labels

    seeds, _ = _held_out(net.folder)
    victim = Victim(ask, seeds, len(info.classes), clean=ask(bench.images.images))
    return by_substitute(adversary, bench, host, victim)


def load_attacks(path: Path, recipe: Recipe, test: Images, deployed: bool) -> HostAttacks:
    """Read what was found on a net; anything but what the recipe's attacks must give is an ArtifactError.

    What is replayed is evidence only inside the threat's ball, so every image is held against that again.
    """
    arrays = arrays_from(read_bounded(path, _MOST_BYTES), str(path), _MOST_BYTES)

    def found(name: str, of: Images, threat: Threat) -> Found:
        shapes = {f"{name}/images": ("uint8", of.images.shape[1:]), f"{name}/predictions": ("int64", ())}
        _check(arrays, path, shapes, len(of.ids))
        images = arrays[f"{name}/images"]
        # The seal is checked already; this also catches a ball that was made smaller since.
        if outside := violations(of.images, images, threat):
            where = f"{path}: {outside:,} images of '{name}' lie outside of the threat's ball"
            raise ArtifactError(f"{where}, so it was edited; {remedy(path)}")
        # Only attacks have it, and not the curve; files of an older version have none.
        lost = arrays.get(f"{name}/lost")
        if lost is not None:
            _check(arrays, path, {f"{name}/lost": ("bool", ())}, len(of.ids))
        return Found(images, arrays[f"{name}/predictions"], lost=lost)

    _check(arrays, path, {"predictions": ("int64", ())}, len(test.ids))
    adversaries = adversaries_from(recipe.evaluate.attacks)
    replayed = in_torch(adversaries, deployed)
    few = first_images(test, recipe)
    curve = {
        multiple: found(_curve_name(multiple), few, threat) for multiple, threat in (radii(recipe) if deployed else ())
    }
    distances = {}
    asked = recipe.evaluate.distances
    for choice, distance in zip(asked, distances_from(asked), strict=True):
        its = looked_at(test, distance)
        _check(arrays, path, shapes_of(distance, its), len(its.ids))
        distances[distance.label] = reach_of(choice, distance, arrays, its, path)
    attacks = {a.label: found(a.label, test, recipe.attacked_within) for a in replayed}
    for label in (a.label for a in replayed if a.substitute is not None):
        attacks[label] = replace(attacks[label], substituted=_substituted(arrays, path, label))
    looked = [a.label for a in adversaries if a.kind == "transfer"] if recipe.evaluate.vulnerability else []
    moves = {label: moves_in(arrays, label, len(test.ids), path) for label in looked}
    patches = {}
    for patch in patches_asked(recipe, test.images.shape[1:]):
        _check(arrays, path, patch_shapes(patch, test), len(test.ids))
        patches[patch.label] = patch_in(arrays, patch, test, path)
    corrupted = {}
    for corruption in listed_corruptions(recipe.evaluate.corruptions):
        _check(arrays, path, shapes_of_corrupted(corruption), len(test.ids))
        corrupted[corruption.name] = corrupted_in(arrays, corruption.name)
    return HostAttacks(arrays["predictions"], attacks, curve, distances, moves, patches, corrupted)


def _check(arrays: Arrays, path: Path, wanted: Mapping[str, tuple[str, tuple[int, ...]]], count: int) -> None:
    """Raise an ArtifactError where an array is missing, of another kind, or not for ``count`` images."""
    try:
        check_arrays(arrays, str(path), wanted)
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; {remedy(path)}") from problem
    if (held := len(arrays[next(iter(wanted))])) != count:
        raise ArtifactError(f"{path} is of {held:,} test images where {count:,} are used; {remedy(path)}")


def _substituted(arrays: Arrays, path: Path, label: str) -> Substituted:
    name = f"{label}/substituted"
    _check(arrays, path, {name: ("float64", (3,))}, 1)
    queries, seed_images, agreement = arrays[name][0]
    return Substituted(int(queries), int(seed_images), float(agreement))


def _curve_name(multiple: float) -> str:
    return f"curve-{multiple:g}"
