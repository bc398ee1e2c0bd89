"""The export stage: net → ONNX with metadata → parity with torch → the bundle for one target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from robustdeploy.attacks.fgsm import Fgsm
from robustdeploy.core.archive import arrays_from, check_arrays
from robustdeploy.core.files import canonical_json, sha256_of_file, sha256_of_text
from robustdeploy.core.plain import plain
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.recipe import Recipe, Threat
from robustdeploy.core.target import Target
from robustdeploy.core.trust import Trust
from robustdeploy.cost import COUNTED
from robustdeploy.cost.memory import images_at_once
from robustdeploy.cost.onnx_graph import macs as onnx_macs
from robustdeploy.data.noise import Noise
from robustdeploy.engine.manifest import Manifest
from robustdeploy.engine.seal import Stage
from robustdeploy.errors import ArtifactError
from robustdeploy.export.agent import build_agent, foreign_plugins
from robustdeploy.export.bundle import GOLDEN, golden_images, write_bundle
from robustdeploy.export.metadata import OnnxMetadata
from robustdeploy.export.onnx_file import export_onnx
from robustdeploy.export.parity import check_finite, measure_parity
from robustdeploy.export.zeros import find_zeros
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.steady import check_steady
from robustdeploy.nets.store import NetInfo, load_info, load_net
from robustdeploy.onboard.draws import key
from robustdeploy.onboard.types import Bytes, Labels
from robustdeploy.train.facts import HELD_OUT


def export(
    recipe: Recipe, target: Target, trained: Path, facts: Mapping[str, Any], stage: Stage, trust: Trust = False
) -> Manifest:
    """Export the net in ``trained`` for ``target`` and seal the stage.

    ``facts`` are those of the training stage's manifest, ``trust`` is as for ``load_net``. Raises ArtifactError
    when the ONNX file is not the same net.
    """
    folder = stage.begin()
    net, info = load_net(trained, trust=trust), load_info(trained)
    clean, labels = held_out_images(trained, info)
    check_finite(net, clean)
    many = images_at_once(net, info.image_shape, len(clean))
    check_steady(net, torch.from_numpy(clean[:many]) / 255, f"the net in {trained}")
    path = folder / "model.onnx"
    export_onnx(net, info.image_shape, path, target.opset, _metadata(recipe, info, facts), _doc(recipe, facts))
    if (counted := onnx_macs(path)) != facts["macs"]:
        raise ArtifactError(
            f"the operations were counted differently: the ONNX graph has {counted:,} MACs, the net {facts['macs']:,}; "
            "a net that an older version trained must be trained again"
        )
    zeros = find_zeros(net, path)
    parity, reference = measure_parity(net, path, clean, _attacked(net, clean, labels, recipe.threat))
    build_agent(folder / "agent.pyz", foreign_plugins())
    files = {name: (folder / name).read_bytes() for name in ("model.onnx", "agent.pyz")}
    files[GOLDEN] = golden_images(clean, labels, reference)
    write_bundle(folder / "bundle.zip", files, target, {"threat": plain(recipe.threat), "classes": list(info.classes)})
    return stage.seal(
        [folder / name for name in ("model.onnx", "agent.pyz", "bundle.zip")],
        {
            "parity": parity.model_dump(),
            "counts": {**facts.get("counts", {}), "onnx": counted},
            "opset": target.opset,
            "zeros": zeros.model_dump(mode="json") if zeros else None,
            "notes": [*_notes(target, facts), *([zeros.note] if zeros else [])],
        },
    )


def held_out_images(trained: Path, info: NetInfo) -> tuple[Bytes, Labels]:
    """Return the validation images that the training stage set aside for proofs, parity and the board's self-check."""
    path = trained / "held_out.npz"
    most = 2**20 + HELD_OUT * (math.prod(info.image_shape) + 8)
    try:
        held = arrays_from(read_bounded(path, most), str(path), most)
        check_arrays(held, str(path), {"images": ("uint8", info.image_shape), "labels": ("int64", ())})
        if not 0 <= int(held["labels"].min()) <= int(held["labels"].max()) < len(info.classes):
            raise ArtifactError(f"'labels' in {path} are not of the net's {len(info.classes)} classes")
    except ArtifactError as problem:
        raise ArtifactError(f"{problem}; `robustdeploy prune --force` makes it again") from problem
    return held["images"], held["labels"]


def export_inputs(trained: Path) -> dict[str, str]:
    """SHA-256 of everything an export reads, other packages' plug-ins for the board among it."""
    names = ("model.safetensors", "net.json", "held_out.npz")
    plugins = {f"agent/{place}": sha256_of_file(file) for place, file in foreign_plugins().items()}
    return {**{name: sha256_of_file(trained / name) for name in names}, **plugins}


def _attacked(net: Normalised, images: Bytes, labels: Labels, threat: Threat) -> Bytes:
    channels, height, width = images.shape[1:]
    found = []
    at_once = images_at_once(net, (channels, height, width), len(labels))
    for ids in torch.split(torch.arange(len(labels)), at_once):
        pixels, own = torch.from_numpy(images)[ids].float() / 255, torch.from_numpy(labels)[ids]
        found.append(torch.round(Fgsm()(net, pixels, own, threat, Noise(key(0, "parity"), ids)) * 255))
    return torch.cat(found).to(torch.uint8).numpy()


def _metadata(recipe: Recipe, info: NetInfo, facts: Mapping[str, Any]) -> OnnxMetadata:
    eps = Fraction(recipe.threat.eps * 255).limit_denominator(1000)
    return OnnxMetadata(
        recipe_sha256=sha256_of_text(canonical_json(plain(recipe))),
        threat=f"{recipe.threat.norm} {eps}/255"
        if eps.denominator == 1
        else f"{recipe.threat.norm} {recipe.threat.eps:g}",
        norm=recipe.threat.norm,
        eps=recipe.threat.eps,
        ops_ratio=facts["macs"] / facts["dense_macs"],
        macs=facts["macs"],
        macs_of=COUNTED,
        classes="\n".join(info.classes),
        input_mean=" ".join(map(str, info.mean)),
        input_std=" ".join(map(str, info.std)),
    )


def _doc(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    return (
        f"{recipe.name}: images (N, C, H, W; pixels in [0, 1]) to scores (N, classes). "
        f"{facts['macs']:,} MACs per image, {facts['params']:,} parameters."
    )


def _notes(target: Target, facts: Mapping[str, Any]) -> list[str]:
    """Say what a user of this target should know about this net."""
    odd = [
        c["layer"] for c in facts.get("channels", []) if c["kept"] < c["dense"] and c["kept"] % target.channel_multiple
    ]
    notes = []
    if repeated := facts.get("repeated_macs"):
        notes.append(
            f"torch computes {facts['macs'] + repeated:,} MACs, {repeated:,} of them again from the same numbers; "
            f"the exported graph computes those once, and its {facts['macs']:,} MACs are what counts"
        )
    if odd:
        notes.append(
            f"{len(odd)} layers keep a number of channels that is no multiple of {target.channel_multiple}, which "
            f"{target.name} runs best; prune with `--target {target.name}` to keep such multiples"
        )
    if target.status == "contract-tested":
        notes.append(f"{target.name} is contract-tested, not run on hardware")
    return notes
