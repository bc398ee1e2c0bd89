"""Save a net as ``net.json`` and ``model.safetensors``, and load it again; nothing in them is ever executed.

``net.json`` names the dense net and the layers whose size differs from it. Each of the two files holds a digest of the
other, so a pair that was edited, mixed up or cut short by a crash is refused. The weights of a net that is an ONNX file
are one tensor: that file's bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from pydantic import AfterValidator, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robustdeploy.core.files import (
    atomic_write_bytes,
    atomic_write_json,
    canonical_json,
    sha256_of_file,
    sha256_of_text,
)
from robustdeploy.core.model import Noun
from robustdeploy.core.reading import parse_json, read_bounded, size_text
from robustdeploy.core.recipe import Choice
from robustdeploy.core.trust import Trust, check_trusted
from robustdeploy.engine.ledger import LEDGER, Ledger, own_net
from robustdeploy.engine.lineage import remedy
from robustdeploy.engine.places import net_place
from robustdeploy.errors import ArtifactError, RecipeError
from robustdeploy.foreign import shown_name
from robustdeploy.nets.build import build_net
from robustdeploy.nets.channel_pad import set_gains
from robustdeploy.nets.graph import TENSOR, GivenFile, graph_net
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.size import Size, resize_modules, size_differences

NET_FILE = "net.json"
WEIGHTS_FILE = "model.safetensors"
_DIGEST_KEY = "net_json"
# Files are bounded before they are read: a run may come from anybody, and memory is taken at once.
_MOST_INFO = 64 * 2**20
_MOST_WEIGHTS = 16 * 2**30
"""The largest classifiers of torchvision have 2.6 GB of weights."""

_MOST_NUMBERS = 3 * 4096**2
"""Of one image; the first layer alone takes many times that."""

_Name = Annotated[str, AfterValidator(shown_name)]
_Pixels = Annotated[int, Field(ge=1, le=4096)]


def _holdable(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"one image of {'×'.join(map(str, shape))} has more than {_MOST_NUMBERS:,} numbers")
    return shape


class NetInfo(Noun):
    """What ``net.json`` holds: all that rebuilds a net but its weights."""

    schema_version: Literal[1] = 1
    net: Choice
    """The dense net."""
    classes: Annotated[tuple[_Name, ...], Field(min_length=1)]
    """Names of the classes, in the order of the logits."""
    image_shape: Annotated[tuple[_Pixels, _Pixels, _Pixels], AfterValidator(_holdable)]
    """C, H, W; of the camera's images where there is ``preprocess``."""
    preprocess: tuple[Choice, ...] = ()
    """Steps in front of the net, which are a part of it."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """One value per channel that the net reads, in pixels of [0, 1]; the normalisation is part of the net."""
    modules: Mapping[str, Size] = Field(default_factory=dict)
    """Layers whose size differs from the dense net, by module name; ``save_net`` finds them."""
    graph: GivenFile | None = None
    """What is known of the ONNX file that the net is; None for a net of torch."""
    weights_sha256: str = ""
    """SHA-256 of ``model.safetensors``; ``save_net`` fills it in."""


def save_graph(folder: Path, content: bytes, info: NetInfo) -> NetInfo:
    """Write the ONNX file that is deployed as a net into ``folder``; returns as ``save_net``."""
    return _save(folder, {TENSOR: torch.frombuffer(bytearray(content), dtype=torch.uint8)}, info)


def save_net(folder: Path, net: Normalised, info: NetInfo) -> NetInfo:
    """Write ``net`` into ``folder`` and return ``info`` as written, with the sizes found and the digest of the weights.

    A net that ``info`` cannot be made into by changing the sizes of layers is an ArtifactError.
    """
    whole = info.model_copy(update={"modules": size_differences(dense_net(info), net)})
    # Cloned, since safetensors refuses tensors that share memory; contiguous, since it stores no strides.
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    return _save(folder, state, whole)


def _save(folder: Path, state: Mapping[str, Tensor], info: NetInfo) -> NetInfo:
    # Weights first: a crash between the two leaves an old net.json, whose digest refuses the new weights.
    atomic_write_bytes(folder / WEIGHTS_FILE, save(dict(state), metadata={_DIGEST_KEY: _digest(info)}))
    whole = info.model_copy(update={"weights_sha256": sha256_of_file(folder / WEIGHTS_FILE)})
    atomic_write_json(folder / NET_FILE, whole.model_dump(mode="json", exclude_none=True))
    return whole


def load_net(folder_or_run: Path | str, *, trust: Trust = False) -> Normalised:
    """Return the net saved in a folder, or of a run's own net: pixels in [0, 1], N×C×H×W, to logits.

    It is on the CPU and in eval mode; torch's global generator is left as it was. Loading a net that was made by a
    ``package.module:factory`` calls what ``net.json`` names there, so this needs the user's word: ``trust`` holds the
    factories that may be called, or is True for any. One that this user has trained with needs no further word.
    Files that are missing, truncated, edited or of different nets are an ArtifactError.
    """
    folder = net_folder(Path(folder_or_run))
    info = load_info(folder)
    # Before anything is built: building is what runs the factory.
    check_trusted(info.net, folder / NET_FILE, trust)
    # The weights are checked before the net is built from the same files.
    state = _weights(folder, info)
    if info.graph is not None:
        return _loaded_graph(folder, state, info.graph, info.image_shape[0])
    net = dense_net(info, origin=folder / NET_FILE)
    try:
        resize_modules(net, info.modules)
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:  # also torch's word for sizes that no memory can hold
        raise ArtifactError(f"the weights in {folder} are not of the net in its {NET_FILE}: {error}") from error
    # No masks act on a delivered net, and its export is spared a multiplication by ones.
    set_gains(net, on=False)
    return net.eval()


def _loaded_graph(folder: Path, state: Mapping[str, Tensor], given: GivenFile, channels: int) -> Normalised:
    if TENSOR not in state or state[TENSOR].dtype != torch.uint8:
        raise ArtifactError(f"the weights in {folder} hold no ONNX file, though its {NET_FILE} says so")
    try:
        return graph_net(state[TENSOR].numpy().tobytes(), given, channels)
    except DecodeError as error:
        raise ArtifactError(f"the ONNX file in the weights in {folder} cannot be read: {error}") from error


def load_info(folder_or_run: Path | str) -> NetInfo:
    """Return what the ``net.json`` of a folder or a run says; anything wrong with it is an ArtifactError."""
    path = net_folder(Path(folder_or_run)) / NET_FILE
    try:
        return NetInfo.model_validate(parse_json(read_bounded(path, _MOST_INFO), "it"))
    except ArtifactError as error:
        raise ArtifactError(f"{path} is no description of a net: {error}; {remedy(path)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ArtifactError(f"{path} is no description of a net: {place}: {first['msg']}; {remedy(path)}") from error


def dense_net(info: NetInfo, origin: Path | None = None) -> Normalised:
    """Return the dense net of ``info`` with fresh weights, without moving torch's global generator (CPU).

    ``origin`` is the file that ``info`` was read from; with it, a net that cannot be built is an ArtifactError.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return build_net(info.net, len(info.classes), info.image_shape, info.mean, info.std, info.preprocess)
        except (RecipeError, ValueError) as error:
            if origin is None:
                raise
            raise ArtifactError(f"the net in {origin} cannot be built here: {error}") from error


def net_folder(folder: Path) -> Path:
    """Return where the net of a folder, or a run's own net, lies; where there is none, that is an ArtifactError."""
    if (folder / NET_FILE).is_file():
        return folder
    records = Ledger(folder / LEDGER).records() if (folder / LEDGER).is_file() else []
    place = folder / net_place(own_net(records))
    if (place / NET_FILE).is_file():
        return place
    raise ArtifactError(f"there is no net in {folder}: expected {NET_FILE} there or in {place.relative_to(folder)}")


def _digest(info: NetInfo) -> str:
    # Without the digest of the weights, which holds this one in turn.
    # Files of older versions know no graph and no steps, and their digest must stay theirs.
    without = {"weights_sha256", *(name for name in ("graph", "preprocess") if not getattr(info, name))}
    content: dict[str, Any] = info.model_dump(mode="json", exclude=without)
    return sha256_of_text(canonical_json(content))


def _weights(folder: Path, info: NetInfo) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    content = read_bounded(path, _MOST_WEIGHTS)
    if (found := hashlib.sha256(content).hexdigest()) != info.weights_sha256:
        raise ArtifactError(
            f"{path} is not the file that {NET_FILE} was written with (SHA-256 {found[:12]}…, expected "
            f"{info.weights_sha256[:12]}…): it was truncated, edited or replaced; {remedy(path)}"
        )
    if _said(content, path) != _digest(info):
        raise ArtifactError(f"{folder / NET_FILE} was edited after {WEIGHTS_FILE} was written; {remedy(path)}")
    try:
        return load(content)
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"cannot read {path}: {error}; {remedy(path)}") from error


def _said(content: bytes, path: Path) -> Any:
    """Return the digest of ``net.json`` that a safetensors file has in its header, which is JSON behind its length."""
    length = int.from_bytes(content[:8], "little")
    # The length is the file's own claim, and slicing or parsing by it must not take more than there is.
    if not 2 <= length <= min(_MOST_INFO, len(content) - 8):
        raise ArtifactError(f"{path} is no safetensors file: its header would have {size_text(length)}")
    header = parse_json(content[8 : 8 + length], f"the header of {path}")
    about = header.get("__metadata__") if isinstance(header, dict) else None
    return about.get(_DIGEST_KEY) if isinstance(about, dict) else None
