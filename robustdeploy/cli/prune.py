"""``robustdeploy prune``: train under masks, reach the budget, compact and certify."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from robustdeploy.cli.heavy import api
from robustdeploy.cli.options import (
    RUNS,
    DataOption,
    ForceOption,
    JsonOption,
    LatencyOption,
    MemoryOption,
    NameOption,
    OpsOption,
    OptionalTarget,
    ParamsOption,
    QuietOption,
    RecipeArgument,
    RunsOption,
    SeedOption,
    SetOption,
    SkipOption,
    StartOption,
    TrackOption,
    overrides,
)
from robustdeploy.cli.result import show
from robustdeploy.cli.starting import started
from robustdeploy.core.asked import recipe_for
from robustdeploy.core.load import load_target
from robustdeploy.core.records import NetRecord
from robustdeploy.data.find import looking_once
from robustdeploy.engine.manifest import read_manifest
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import record_from
from robustdeploy.preflight import check_training, remarks
from robustdeploy.tracking.chosen import listening
from robustdeploy.train.launch import follows


def prune(
    recipe: RecipeArgument = "digits-resnet8",
    ops_target: OpsOption = None,
    params_target: ParamsOption = None,
    memory_target: MemoryOption = None,
    latency_target: LatencyOption = None,
    target: OptionalTarget = None,
    data: DataOption = None,
    skip_unreadable: SkipOption = False,
    start: StartOption = None,
    seed: SeedOption = None,
    set_: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = RUNS,
    force: ForceOption = False,
    track: TrackOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a net while pruning it to its budget.

    It trains robustly under masks until the budget is met, then makes the net compact and certifies it. A repeated
    command resumes what was interrupted. With --target, layers keep channels in the target's multiples.
    """
    with listening(track, quiet or as_json) as callback, looking_once():
        goals = [load_target(target)] if target else []
        start = started(start, recipe, overrides(set_, data=data, skip=skip_unreadable), runs, callback)
        more = overrides(
            set_,
            ops_target,
            seed,
            data,
            params_target,
            memory_target,
            start,
            skip_unreadable,
            latency_target,
            [target] if target else [],
        )
        # Of several processes one has the run's folder already.
        check = None if follows() else partial(check_training, runs=runs, name=name, targets=goals, force=force)
        loaded = recipe_for(recipe, targets=goals, overrides=more, before=check)
        if follows():
            api.follow(loaded)
            return
        for remark in remarks(loaded):
            callback.say(f"note: {remark}")
        callback.say(f"recipe {loaded.name}: {loaded.net.name} on {loaded.data.name}, to keep: {loaded.budget}")
        run = api.prune(loaded, targets=goals, runs=runs, name=name, force=force, callback=callback)
    _show(run, target or "host-cpu", as_json)


def _show(run: Run, target: str, as_json: bool) -> None:
    """Print what the net costs and how that was certified, and the command that goes on."""
    folder = run.root / run.net_place
    manifest = read_manifest(folder)
    record = record_from(manifest, NetRecord, str(folder))
    lines = [
        f"{record.macs:,} of {record.dense_macs:,} MACs kept ({record.macs / record.dense_macs:.4f}), "
        f"{record.params:,} parameters{_memory(record)}",
        *_zeros(record),
        *_certificate(record),
        f"{folder / 'model.safetensors'} is written; next: robustdeploy export {run.root} --target {target}",
    ]
    show(lines, {"run": str(run.root), "stage": "train", **manifest.model_dump(mode="json")}, as_json)


def _memory(record: NetRecord) -> str:
    """Return the peak activation memory; there is no figure for a net that cannot be traced."""
    if record.memory_bytes is None:
        return ""
    return f", {record.memory_bytes / 1024:,.1f} KiB of activation memory for one image"


def _zeros(record: NetRecord) -> Iterator[str]:
    """Say what masked weights are worth, where weights are what was masked."""
    if record.nonzero_macs is not None:
        share = record.nonzero_macs / record.dense_macs
        yield (
            f"{record.nonzero_macs:,} MACs ({share:.4f}) are by weights other than 0; "
            "a dense runtime gains no time from the zeros"
        )
    if (codes := record.codes) is not None:
        yield (
            f"in codes of {codes.bits} bits the parameters would take {codes.total_bytes:,} of {codes.dense_bytes:,} "
            f"bytes: {codes.codes_bytes:,} of codes, {codes.indices_bytes:,} of places, {codes.codebooks_bytes:,} of "
            f"values and {codes.others_bytes:,} of all others; the files hold floats"
        )


def _certificate(record: NetRecord) -> Iterator[str]:
    """Say what was proved of the compact net; a net without a budget has no proof."""
    if (proof := record.proof) is not None:
        yield (
            f"counted alike from {', '.join(record.counts)}; masked and compact scores within "
            f"{max(proof.clean, proof.adversarial):.1e} ({proof.precision}) on {proof.n} clean and "
            f"{proof.n} adversarial images"
        )
