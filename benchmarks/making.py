"""Making: train the net of a row and lay it where everybody can load it, with how it came to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import controls
import machine
from rowfile import ROW_FILE, read_row
from rows import Row
from stopwatch import Stopwatch, Timed

from robustdeploy.api import prune
from robustdeploy.core.callback import Callback
from robustdeploy.core.files import atomic_write_bytes, atomic_write_json, atomic_write_text, sha256_of_file
from robustdeploy.core.load import resolved_yaml
from robustdeploy.core.recipe import Recipe
from robustdeploy.engine.manifest import Manifest, read_manifest
from robustdeploy.engine.run import Run
from robustdeploy.nets.store import NET_FILE, WEIGHTS_FILE, load_net
from robustdeploy.train.precision import resolved
from robustdeploy.train.setup import device_from


@dataclass(frozen=True)
class Places:
    """Where things are kept."""

    results: Path
    """Holds one folder per row."""
    work: Path
    """Runs, checkpoints and half-finished measurements."""


def make(row: Row, recipe: Recipe, places: Places, callback: Callback) -> Path:
    """Train ``row``, or go on where that was interrupted; return its folder among the results."""
    watch = Stopwatch(places.work / row.name / "training-seconds.json")
    timed = Timed(callback, watch, "training")
    try:
        run = _trained(row, recipe, places, timed)
    finally:
        seconds = watch.stop()
    return _laid_out(row, recipe, run, seconds, places.results / row.name)


def _trained(row: Row, recipe: Recipe, places: Places, callback: Callback) -> Run:
    # Rules are for what is measured later, on another number of images than a trial may have.
    recipe = recipe.model_copy(update={"gate": ()})
    if row.pattern is not None:
        return controls.trained(row, recipe, places.results / row.pattern.name, places.work, callback)
    return prune(recipe, runs=places.work, name=row.name, callback=callback)


def _laid_out(row: Row, recipe: Recipe, run: Run, seconds: float, folder: Path) -> Path:
    """Copy the net and write what is known of it; for the same weights, what was known already stays."""
    manifest = read_manifest(run.root / run.net_place)
    for name in (WEIGHTS_FILE, NET_FILE):
        atomic_write_bytes(folder / name, (run.root / run.net_place / name).read_bytes())
    load_net(folder)  # proves the pair
    atomic_write_text(folder / "recipe.yaml", resolved_yaml(_recipe_of(row, recipe)))
    mark = sha256_of_file(folder / WEIGHTS_FILE)
    known = read_row(folder) or {}
    same = known if known.get("weights_sha256") == mark else {}
    kept = {part: same[part] for part in ("training", "measured") if part in same}
    made = _description(row, recipe, manifest, max(seconds, manifest.duration_s))
    atomic_write_json(folder / ROW_FILE, {"row": row.name, "weights_sha256": mark, **made, **kept})
    return folder


def _recipe_of(row: Row, recipe: Recipe) -> Recipe:
    """Return what the row was trained by and is held against: anybody's data, and the row's own budget."""
    gate = (r.model_copy(update={"at_most": row.ops}) if r.metric == "ops_fraction" else r for r in recipe.gate)
    data = recipe.data.model_copy(update={"path": None})
    return recipe.model_copy(update={"data": data, "gate": tuple(gate)})


def _description(row: Row, recipe: Recipe, manifest: Manifest, seconds: float) -> dict[str, Any]:
    facts, device = manifest.facts, device_from(recipe.train.device)
    data = facts["data"]
    return {
        "recipe": row.recipe,
        "method": row.method,
        "net": recipe.net.name,
        "data": data["name"],
        "seed": recipe.seed,
        "epochs": recipe.train.epochs,
        **({"phases": facts["phases"]} if "phases" in facts else {}),
        "collapses": facts["events"],
        "ops_asked": row.ops,
        **({} if row.latency is None else {"latency_asked": row.latency, "latency_found": facts["latency"]}),
        "ops_fraction": facts["macs"] / facts["dense_macs"],
        **{name: facts[name] for name in ("macs", "dense_macs", "params", "dense_params")},
        "training": {
            "images": data["train"],
            "validation_images": data["validation"],
            "split_sha256": data["split_sha256"],
            "seconds": round(seconds, 1),
            "precision": str(resolved(recipe.train.precision, device)).removeprefix("torch."),
            "machine": machine.description(device),
            "versions": manifest.versions,
            "producer": manifest.producer,
        },
    }
