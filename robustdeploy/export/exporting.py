"""Exporting: net → ONNX with metadata → parity with torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.archive import arrays_from, check_arrays
from robustdeploy.core.files import atomic_write_bytes, canonical_json, sha256_of_text
from robustdeploy.core.plain import in_words, plain
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.recipe import Budget, Recipe, Threat
from robustdeploy.core.records import Given, NetRecord, OnnxRecord
from robustdeploy.core.registry import PRECISIONS
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.cost import COUNTED
from robustdeploy.cost.memory import images_at_once
from robustdeploy.cost.onnx_graph import macs as onnx_macs
from robustdeploy.data.images import pixels
from robustdeploy.data.noise import Noise
from robustdeploy.engine.lineage import remedy
from robustdeploy.engine.stage import Finished, Work
from robustdeploy.errors import ArtifactError
from robustdeploy.export.golden import GOLDEN, golden_images
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.parity import check_finite, measure_parity
from robustdeploy.export.zeros import find_zeros
from robustdeploy.nets.graph import GraphNet, graph_of
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.steady import check_steady
from robustdeploy.nets.store import NetInfo, load_info, load_net
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Bytes, Labels
from robustdeploy.train.facts import HELD_OUT


def export(recipe: Recipe, opset: int, trained: Finished[NetRecord], work: Work, trust: Trust = False) -> OnnxRecord:
    """Export a trained net and measure how far its scores are from torch's; ``trust`` is as for ``load_net``.

    Raises ArtifactError when the ONNX file is not the same net.
    """
    record = trained.record
    net, info = load_net(trained.folder, trust=trust), load_info(trained.folder)
    clean, labels = held_out_images(trained.folder, info)
    check_finite(net, clean)
    # An unsteady net gives other scores at each look, and parity would blame the exporter for it.
    many = images_at_once(net, info.image_shape, len(clean))
    check_steady(net, pixels(torch.from_numpy(clean[:many])), f"the net in {trained.folder}")
    path = work.folder / "model.onnx"
    if (graph := graph_of(net)) is not None:
        return _as_given(graph, net, (clean, labels), recipe, opset, record, work)
    export_onnx(net, info.image_shape, path, opset, _metadata(recipe, info, record), _doc(recipe, record))
    # The budget was certified on the torch net. Only the graph is shipped, so its count has to be the same.
    if (counted := onnx_macs(path)) != record.macs:
        raise ArtifactError(
            f"the operations were counted differently: the ONNX graph has {counted:,} MACs, the net {record.macs:,}; "
            "a net that an older version trained must be trained again"
        )
    zeros = find_zeros(net, path)
    # The runtime's scores, not torch's, go along: a board's engine is made from this file.
    parity, reference = measure_parity(net, path, clean, attacked(net, clean, labels, recipe.threat))
    atomic_write_bytes(work.folder / GOLDEN, golden_images(clean, labels, reference))
    work.keep("model.onnx", GOLDEN)
    notes = [*_notes(record), *([zeros.note] if zeros else [])]
    counts = {**record.counts, "onnx": counted}
    return OnnxRecord(parity=parity, counts=counts, opset=opset, zeros=zeros, notes=tuple(notes))


def _as_given(
    graph: GraphNet,
    net: Normalised,
    held_out: tuple[Bytes, Labels],
    recipe: Recipe,
    opset: int,
    record: NetRecord,
    work: Work,
) -> OnnxRecord:
    """Deploy the ONNX file that a net is, byte for byte."""
    (clean, labels), path = held_out, work.folder / "model.onnx"
    atomic_write_bytes(path, graph.content)
    its = graph.given
    adversarial = attacked(net, clean, labels, recipe.threat) if graph.followable else clean
    limits = PRECISIONS.get(its.computes_in).LIMITS
    parity, reference = measure_parity(net, path, clean, adversarial, 1 - limits.twin)
    atomic_write_bytes(work.folder / GOLDEN, golden_images(clean, labels, reference))
    work.keep("model.onnx", GOLDEN)
    return OnnxRecord(
        # Where there is no twin, the runtime was compared with itself.
        parity=parity if graph.followable else None,
        counts=dict(record.counts),
        opset=opset,
        given=Given(
            file=its.name,
            unchanged=its.unchanged,
            computes_in=its.computes_in,
            scores=its.scores,
            twin_problem=its.twin_problem,
        ),
    )


def held_out_images(trained: Path, info: NetInfo) -> tuple[Bytes, Labels]:
    """Return the validation images that the training stage set aside for proofs, parity and the board's self-check."""
    # Validation images, never test images: what travels to a board must not give away what it is tested on.
    path = trained / "held_out.npz"
    most = 2**20 + HELD_OUT * (math.prod(info.image_shape) + 8)
    try:
        held = arrays_from(read_bounded(path, most), str(path), most)
        check_arrays(held, str(path), {"images": ("uint8", info.image_shape), "labels": ("int64", ())})
        if not 0 <= int(held["labels"].min()) <= int(held["labels"].max()) < len(info.classes):
            raise ArtifactError(f"'labels' in {path} are not of the net's {len(info.classes)} classes")
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; {remedy(path)}") from problem
    return held["images"], held["labels"]


def attacked(net: Normalised, images: Bytes, labels: Labels, threat: Threat) -> Bytes:
    """Return ``images`` as FGSM changes them against ``net``."""
    channels, height, width = images.shape[1:]
    found = []
    at_once = images_at_once(net, (channels, height, width), len(labels))
    for ids in torch.split(torch.arange(len(labels)), at_once):
        clean, own = pixels(torch.from_numpy(images)[ids]), torch.from_numpy(labels)[ids]
        # FGSM, as it takes one step: parity needs images near decisions and no strong attack.
        found.append(torch.round(Fgsm()(net, clean, own, threat, Noise(key(0, "parity"), ids)) * 255))
    return torch.cat(found).to(torch.uint8).numpy()


def _metadata(recipe: Recipe, info: NetInfo, record: NetRecord) -> OnnxMetadata:
    # 8/255 is stored as a binary fraction; people read the whole number of levels.
    eps = Fraction(recipe.threat.eps * 255).limit_denominator(1000)
    return OnnxMetadata(
        recipe_sha256=sha256_of_text(canonical_json(plain(recipe))),
        threat=f"{recipe.threat.norm} {eps}/255"
        if eps.denominator == 1
        else f"{recipe.threat.norm} {recipe.threat.eps:g}",
        norm=recipe.threat.norm,
        eps=recipe.threat.eps,
        ops_ratio=record.macs / record.dense_macs,
        macs=record.macs,
        macs_of=COUNTED,
        classes="\n".join(info.classes),
        input_mean=" ".join(map(str, info.mean)),
        input_std=" ".join(map(str, info.std)),
        preprocess="\n".join(map(in_words, info.preprocess)),
    )


def _doc(recipe: Recipe, record: NetRecord) -> str:
    return (
        f"{recipe.name}: images (N, C, H, W; pixels in [0, 1]) to scores (N, classes). "
        f"{record.macs:,} MACs per image, {record.params:,} parameters."
    )


def _notes(record: NetRecord) -> Iterator[str]:
    """Say what a user should know about this net, wherever it goes."""
    if repeated := record.repeated_macs:
        yield (
            f"torch computes {record.macs + repeated:,} MACs, {repeated:,} of them again from the same numbers; "
            f"the exported graph computes those once, and its {record.macs:,} MACs are what counts"
        )


def target_notes(target: Target, budget: Budget, record: NetRecord) -> Iterator[str]:
    """Say what a user of this target should know about this net."""
    multiple = target.channel_multiple
    if odd := [c.layer for c in record.channels if c.kept < c.dense and c.kept % multiple]:
        if budget.channel_multiple is not None and budget.channel_multiple % multiple:
            fix = f"prune without budget.channel_multiple (it is {budget.channel_multiple}) to keep such multiples"
        elif (budget.preferred_multiple or 1) % multiple:
            fix = f"prune with `--target {target.name}` to keep such multiples"
        else:  # the budget, or a small layer, left no other choice
            fix = "where that makes it slow, prune with a limit on the time itself (--latency-target)"
        kept = "layer keeps" if len(odd) == 1 else "layers keep"
        yield (
            f"{len(odd)} {kept} a number of channels that is no multiple of {multiple}, which {target.name} runs best; "
            f"{fix}"
        )
    if target.status == "contract-tested":
        yield f"{target.name} is contract-tested, not run on hardware"
