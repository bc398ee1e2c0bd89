"""Measure: attack a row's net on all test images, with the package's own attacks, resumable batch by batch.

An image that is wrong as it is needs no attack. FGSM and PGD-10 see all others; PGD-50-10, which costs fifty times as
much, sees only those that stand under both, so its figure counts what any of the three found.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from making import Places
from rowfile import ROW_FILE, read_row
from rows import Row
from stopwatch import Stopwatch

from robustdeploy.core.callback import Callback
from robustdeploy.core.files import atomic_write_json
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Choice, Threat
from robustdeploy.core.subject import FP32, PRUNED, TORCH
from robustdeploy.core.subject import Subject as Own
from robustdeploy.data.load import load_test
from robustdeploy.engine.ledger import Ledger
from robustdeploy.engine.manifest import fingerprint, loaded_versions, producer
from robustdeploy.engine.seal import PARTS
from robustdeploy.errors import UsageError
from robustdeploy.evaluate.attack import Adversary, Bench, Images, Progress, adversaries_from, attack_host
from robustdeploy.evaluate.host import HostNet, load_host_net
from robustdeploy.evaluate.outcomes import Bits
from robustdeploy.evaluate.parts import Parts
from robustdeploy.evaluate.rows import share_row
from robustdeploy.nets.store import NetInfo, load_info
from robustdeploy.train.setup import device_from

ATTACKS = (
    Choice(name="fgsm"),
    Choice(name="pgd", options={"steps": 10, "alpha": 2 / 255}),
    Choice(name="pgd", options={"steps": 50, "restarts": 10, "alpha": 2 / 255}),
)
SEED = 0
"""Of the attacks' random starts; the same for all rows, so that they are compared under the same noise."""


@dataclass(frozen=True)
class Subject:
    """A net under attack, and the images it is attacked on."""

    net: HostNet
    info: NetInfo
    images: Images
    threat: Threat
    parts: Parts
    mark: str
    """Fingerprint of all that decides the outcome."""
    adversaries: Sequence[Adversary]


def measure(row: Row, data: Path | None, device: str, places: Places, callback: Callback, quick: bool = False) -> Path:
    """Write the accuracies of ``row`` into its row file, beside how it was trained; return that file.

    ``quick`` leaves the last attack out, which takes most of the time. A net that was measured in just this way already
    is not measured again.
    """
    folder = places.results / row.name
    if (known := read_row(folder)) is None:
        raise UsageError(f"{folder} holds no {ROW_FILE}: train that row first")
    attacks = ATTACKS[:-1] if quick else ATTACKS
    subject = _subject(row, folder, data, device, places.work / f"{row.name}.measure", callback, attacks)
    if known.get("measured", {}).get("mark") == subject.mark:
        callback.say(f"{row.name}: measured already; skipped")
        return folder / ROW_FILE
    watch = Stopwatch(places.work / f"{row.name}.measure" / f"seconds-{subject.mark[:16]}.json")
    with catch_signals():
        try:
            measurements = _measurements(subject, watch, callback)
        finally:
            seconds = watch.stop()
    atomic_write_json(folder / ROW_FILE, {**known, "measured": _record(subject, measurements, seconds)})
    shutil.rmtree(places.work / f"{row.name}.measure" / PARTS, ignore_errors=True)
    return folder / ROW_FILE


def _subject(
    row: Row,
    folder: Path,
    data: Path | None,
    device: str,
    work: Path,
    callback: Callback,
    choices: tuple[Choice, ...],
) -> Subject:
    info = load_info(folder)
    recipe = row.recipe_from(data, epochs=1, device=device)
    found = load_test(recipe.data, info.classes, lambda done, total: callback.progress("reading images", done, total))
    images = Images(found.ids.numpy(), found.images.numpy(), found.labels.numpy())
    inputs = {"weights": info.weights_sha256, "images": images_digest(images)}
    attacks = {"attacks": plain(choices), "threat": plain(recipe.threat), "seed": SEED}
    mark = fingerprint("measure", inputs, attacks)
    parts = Parts(work, mark, Ledger(work / "ledger.jsonl"))
    net = load_host_net(folder, str(device_from(device)))
    return Subject(net, info, images, recipe.threat, parts, mark, adversaries_from(choices))


def images_digest(images: Images) -> str:
    """Return the SHA-256 of images, labels and their order."""
    digest = hashlib.sha256()
    for part in (images.ids, images.images, images.labels):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _measurements(subject: Subject, watch: Stopwatch, callback: Callback) -> list[dict[str, Any]]:
    """Attack, and return one row per attack after the row without any."""

    def progress(what: str, done: int, total: int) -> None:
        watch.tick()
        callback.progress(what.removeprefix("dense-"), done, total)

    watch.tick()
    clean = subject.net.score(subject.images.images).argmax(1) == subject.images.labels
    rows = [_row(clean, "clean_accuracy", {})]
    standing = clean
    quick = subject.adversaries[: len(ATTACKS) - 1]
    for adversary in quick:
        bits = _standing(subject, adversary, clean, progress)
        rows.append(_row(bits, "robust_accuracy", adversary.settings, attack=adversary.label))
        standing = standing & bits
    before = {"counted_as_broken": [adversary.label for adversary in quick]}
    for thorough in subject.adversaries[len(quick) :]:
        bits = _standing(subject, thorough, standing, progress)
        rows.append(_row(bits, "robust_accuracy", {**thorough.settings, **before}, attack=thorough.label))
    return rows


def _standing(subject: Subject, adversary: Adversary, among: Bits, progress: Progress) -> Bits:
    """Return one bit per test image: it is ``among`` those that are attacked, and right after the attack too."""
    places = np.flatnonzero(among)
    bits = np.zeros(len(among), dtype=bool)
    if len(places):
        all_ = subject.images
        images = Images(all_.ids[places], all_.images[places], all_.labels[places])
        bench = Bench(images, subject.threat, SEED, subject.parts, progress)
        bits[places] = attack_host(adversary, bench, subject.net).predictions == images.labels
    return bits


def _row(bits: Bits, metric: str, conditions: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    row = share_row(metric, Own(PRUNED, FP32, TORCH), bits, conditions, **more)
    # Whose it is, the row's folder says.
    return {"count": int(bits.sum()), **row.model_dump(mode="json", exclude_none=True, exclude={"subject"})}


def _record(subject: Subject, measurements: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    return {
        "mark": subject.mark,
        "n": len(subject.images.ids),
        "test_sha256": images_digest(subject.images),
        "threat": plain(subject.threat),
        "measurements": measurements,
        "seconds": round(seconds, 1),
        "precision": "float32",
        "machine": machine.description(subject.net.device),
        "versions": loaded_versions(),
        "producer": producer(),
    }
