"""Turn weights of PyTorch that others trained into a stored net. Nothing in the file is executed.

``torch.load`` is asked for weights alone: its unpickler knows tensors and plain containers, and refuses all else.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from robustdeploy.core.complaint import did_you_mean
from robustdeploy.core.reading import parse_json, read_bounded, size_text
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.trust import Trust, check_trusted, told
from robustdeploy.data.images import pixels
from robustdeploy.data.load import Loaded
from robustdeploy.errors import ArtifactError, RecipeError, UsageError
from robustdeploy.imports.asked import Asked, check_said_once
from robustdeploy.imports.noticing import Normalisation, Reading, notice, readings
from robustdeploy.nets.build import build_net
from robustdeploy.nets.channel_pad import set_gains
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.preprocess.steps import Steps, prepared_statistics
from robustdeploy.nets.store import NetInfo, save_net
from robustdeploy.onboard.criterion import CLASSIFICATION
from robustdeploy.onboard.types import Labels
from robustdeploy.train.facts import HELD_OUT
from robustdeploy.train.start import info_of

_MOST_BYTES = 16 * 2**30
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "student.", "encoder.")
"""What trainers put before the names of a net's weights."""
USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights", "state_dict_ema", "model_ema", "ema")
"""Where trainers put the weights, the most usual first."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Of an exported program, by the numbers in ``torch/_export/serde/schema.py``."""
_COUNTERS = ("num_batches_tracked", "n_averaged")
"""Buffers that change no answer, and that old files lack."""


def import_checkpoint(
    path: Path, asked: Asked, recipe: Recipe, data: Loaded, folder: Path, trust: Trust = False
) -> tuple[NetInfo, tuple[str, ...]]:
    """Write the recipe's net with the weights in ``path`` into ``folder``; return what it is, and what was found.

    Weights that are not that net's, or a file that is more than weights, are a UsageError that says what to do.
    """
    if asked.layout or asked.output or asked.labels is not None:
        raise UsageError("--layout, --output and --labels are for ONNX files; of weights the net itself decides these")
    whole = weights_in(path)
    state, how = _chosen(whole, asked.key, path)
    usual = prepared_statistics(recipe.preprocess, data.image_shape, data.mean, data.std)
    said = Steps(recipe.preprocess).normalise
    mean, std, why = _normalisation(asked, usual, said)
    check_trusted(recipe.net, path, trust)
    with torch.random.fork_rng(devices=[]):
        try:
            net = build_net(recipe.net, len(data.classes), data.image_shape, mean, std, recipe.preprocess)
        except RecipeError as error:
            raise ArtifactError(f"{path}: the net that its weights are for cannot be built: {error}") from error
    set_gains(net, on=False)
    prefix = _fill(net, state, path, told(recipe.net))
    info = info_of(recipe, data, mean, std)
    found = [f"guessed {each}" for each in (how, why) if each]
    others = {} if said else readings(usual, len(mean))
    odd = _noticed(net.eval(), data, others, not why)
    if prefix:
        found.append(f"'{prefix}' was taken from the names of the weights in {path.name}")
    found += [odd] if odd else []
    return save_net(folder, net.eval(), info), tuple(found)


def weights_in(path: Path) -> Any:
    """Return the tensors and plain values in a file of PyTorch or of safetensors; nothing in it is executed."""
    if path.suffix.lower() == ".safetensors":
        try:
            return load_safetensors(read_bounded(path, _MOST_BYTES))
        except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
            raise ArtifactError(f"cannot read {path}: {error}; it was cut short, or is another kind of file") from error
    if not path.stat().st_size:
        raise ArtifactError(f"{path} is empty; save the weights again: torch.save(net.state_dict(), file)")
    names = _names_in(path)
    if any(name.endswith("/constants.pkl") and "/code/" not in name for name in names) and any(
        "/code/" in name for name in names
    ):
        raise ArtifactError(
            f"{path} is TorchScript, a program with its weights, which is not run here. Give its weights, in Python: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pt'), or its ONNX file"
        )
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        return _exported_weights(path, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of kinds of tensors that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are none of its own the unpickler may raise anything
        if type(error).__name__ == "UnpicklingError":
            found = _GLOBAL.search(str(error))
            if found is None:
                raise ArtifactError(
                    f"{path} is no file of PyTorch, or was damaged, and nothing of it was run; save the weights again: "
                    "torch.save(net.state_dict(), file)"
                ) from error
            raise ArtifactError(
                f"{path} holds more than weights, such as {found[1]}: to read it would run code, and nothing of it was "
                "run. Save the weights alone where you trust it: torch.save(net.state_dict(), file)"
            ) from error
        words = " ".join(str(error).split())[:200]
        raise ArtifactError(f"cannot read {path}: {words}; it was cut short, or is another kind of file") from error


def _names_in(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _exported_weights(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Return the weights of an exported program, read as plain numbers.

    ``torch.export.load`` is not called: it unpickles sample inputs and constants, and runs the graph's code.
    """
    config = next((name for name in names if name.endswith("/data/weights/model_weights_config.json")), None)
    if config is None:
        raise ArtifactError(
            f"{path} is an exported program of an older form, whose weights are pickled. Give its weights, in Python: "
            "torch.save(torch.export.load(file).state_dict, 'weights.pt')"
        )
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            listed = parse_json(_member(archive, config), f"{config} in {path}")["config"]
            for name, about in listed.items():
                meta = about["tensor_meta"]
                if about["use_pickle"]:
                    raise ArtifactError(f"{path}: the weight {name} is pickled; save net.state_dict() instead")
                content = _member(archive, f"{config.rpartition('/')[0]}/{about['path_name']}")
                sizes, strides = ([each["as_int"] for each in meta[what]] for what in ("sizes", "strides"))
                flat = torch.frombuffer(bytearray(content), dtype=_TYPES[meta["dtype"]])
                found[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()
    except (KeyError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"cannot read the weights in {path}: {error}; it was cut short, or damaged") from error
    return found


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    # A few bytes may unpack to any number.
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ArtifactError(f"{name} in {archive.filename} has more than {size_text(_MOST_BYTES)}, and was not read")
    return archive.read(name)


def _chosen(whole: Any, key: str | None, path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state dict in what was loaded, and how it was found; '' where it was told or is all there is."""
    if key is not None:
        at = whole
        for part in key.split("."):
            if not isinstance(at, Mapping) or part not in at:
                there = list(map(str, at)) if isinstance(at, Mapping) else []
                raise UsageError(f"--key {key}: {path.name} has no such key{did_you_mean(part, there)}{_listed(there)}")
            at = at[part]
        if not (state := _state(at)):
            raise UsageError(f"--key {key}: no weights lie there in {path.name}")
        return state, ""
    if state := _state(whole):
        return state, ""
    if not isinstance(whole, Mapping):
        raise ArtifactError(f"{path} holds {type(whole).__name__} and no weights by name; save net.state_dict()")
    found = dict(_states_in(whole))
    if not found and (state := _state({name: each for name, each in whole.items() if isinstance(each, Tensor)})):
        return state, f"weights: they lie at the top of the file, beside {', '.join(sorted(set(whole) - set(state)))}"
    # An optimiser keeps tensors too, by number and not by name.
    if not found:
        raise ArtifactError(
            f"{path} holds no weights by name{_listed(list(map(str, whole)))}; name their place with --key"
        )
    usual = [name for name in found if name.split(".")[0] in USUAL_KEYS] or list(found)
    usual.sort(key=_usualness)
    others = [name for name in found if name != usual[0]]
    beside = f", beside {', '.join(others)}" if others else ""
    return found[usual[0]], f"key {usual[0]}: weights lie there{beside}"


def _states_in(whole: Mapping[Any, Any], depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each state dict among nested ones, by the keys that lead there, joined by dots."""
    for name, value in whole.items():
        if state := _state(value):
            yield str(name), state
        elif isinstance(value, Mapping) and depth:
            yield from ((f"{name}.{below}", state) for below, state in _states_in(value, depth - 1))


def _usualness(name: str) -> tuple[int, int]:
    """Order keys: those whose first part is most usual come first, and of these the least nested."""
    first, *below = name.split(".")
    return (USUAL_KEYS.index(first) if first in USUAL_KEYS else len(USUAL_KEYS), len(below))


def _state(value: Any) -> dict[str, Tensor]:
    """Return ``value`` if it maps names to tensors, else nothing; torch's own counters beside them are left out."""
    if not isinstance(value, Mapping) or not value:
        return {}
    if not all(isinstance(name, str) for name in value):
        return {}
    tensors = {name: each for name, each in value.items() if isinstance(each, Tensor)}
    return tensors if len(tensors) == len(value) else {}


def _normalisation(asked: Asked, usual: Normalisation, said: bool) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean and std of what the net reads, and how they were found; '' where they were told.

    ``usual`` are those of the data set. Where a step has ``said`` them, they leave its numbers as they are.
    """
    channels = len(usual[0])
    if said:
        check_said_once(asked)
        return (*usual, "")
    if asked.values is not None:
        if asked.values[0] > asked.values[1]:
            raise UsageError(
                "--range: of weights it must rise, since images enter them as (x - mean) / std; turn the first layer's "
                "weights around instead"
            )
        return (*as_normalisation(asked.values, channels), "")
    if asked.mean is None or asked.std is None:
        listed = " and ".join(", ".join(f"{each:g}" for each in values) for values in usual)
        return *usual, f"normalisation by {listed}: that of the data set, as nothing was said"
    for option, values in (("--mean", asked.mean), ("--std", asked.std)):
        if len(values) not in (1, channels):
            raise UsageError(f"{option} has {len(values)} numbers, and images have {channels} channels")
    many = [values * channels if len(values) == 1 else values for values in (asked.mean, asked.std)]
    return many[0], many[1], ""


def _noticed(net: Normalised, data: Loaded, read: Mapping[str, Reading], sure: bool) -> str:
    """Say whether the net seems to read pixels otherwise than it was told, and what fits."""
    held = data.validation.first(HELD_OUT)
    images = pixels(held.images)

    def label(mean: Sequence[float], std: Sequence[float]) -> Labels:
        other = Normalised(net.net, mean, std, net.preprocess).eval()
        with torch.no_grad():
            found = [CLASSIFICATION.predictions(other(part)) for part in torch.split(images, 64)]
        return np.asarray(torch.cat(found))

    channels, others = len(net.mean), {}
    for option, (values, pair) in read.items():
        mean, std = pair or as_normalisation(values or (0.0, 1.0), channels)
        others[option] = partial(label, mean, std)
    own = net.mean.flatten().tolist(), net.std.flatten().tolist()
    return notice(label(*own), held.labels.numpy(), others, data.classes, sure)


def as_normalisation(values: tuple[float, float], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Write ``x * (high - low) + low`` as ``(x - mean) / std``."""
    low, high = values
    return (-low / (high - low),) * channels, (1 / (high - low),) * channels


def _fill(net: Normalised, state: Mapping[str, Tensor], path: Path, name: str) -> str:
    """Load ``state`` into ``net`` and return the prefix that was taken off its names."""
    wanted = net.net.state_dict()
    _check_numbers(state, path)
    best = max(_without_prefixes(state, next(iter(wanted), "")), key=lambda each: len(set(each[1]) & set(wanted)))
    prefix, renamed = best
    missing = [key for key in wanted if key not in renamed and not key.endswith(_COUNTERS)]
    unexpected = [key for key in renamed if key not in wanted and not key.endswith(_COUNTERS)]
    shapes = [key for key in wanted if key in renamed and renamed[key].shape != wanted[key].shape]
    if missing or unexpected or shapes:
        raise ArtifactError(_mismatch(path, name, wanted, renamed, (missing, unexpected, shapes)))
    whole = {key: renamed.get(key, wanted[key]).to(wanted[key].dtype) for key in wanted}
    net.net.load_state_dict(whole, strict=True)
    return prefix


def _check_numbers(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that no net of float32 can hold; each error names the first."""
    for name, each in state.items():
        if each.layout is not torch.strided or each.is_meta or each.is_quantized or each.is_complex():
            forms = {"sparse": each.layout is not torch.strided, "without values": each.is_meta}
            forms |= {"quantised": each.is_quantized, "complex": each.is_complex()}
            kind = next(form for form, is_it in forms.items() if is_it)
            raise ArtifactError(f"{path}: the weight {name} is {kind}; save weights as dense tensors of floats")
        if each.is_floating_point() and not torch.isfinite(each.float()).all():
            raise ArtifactError(
                f"{path}: the weight {name} has numbers that are not finite (NaN or infinity); take a checkpoint from "
                "before the training broke down"
            )


def _without_prefixes(state: Mapping[str, Tensor], first: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the weights by their names without a prefix, with one, two and more of the usual ones taken off.

    Then come the prefixes that make a name the net's ``first``, whatever they are.
    """
    prefix, current = "", dict(state)
    yield prefix, current
    while usual := next((each for each in PREFIXES if any(key.startswith(each) for key in current)), None):
        # What lacks the prefix is no part of the net: a head for training, or a counter of averages.
        current = _taken_off(usual, current)
        prefix += usual
        yield prefix, current
    for key in state:
        if key.endswith(f".{first}"):
            yield (other := key.removesuffix(first)), _taken_off(other, state)


def _taken_off(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _mismatch(
    path: Path,
    name: str,
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    found: tuple[list[str], list[str], list[str]],
) -> str:
    missing, unexpected, shapes = found
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {len(wanted)} are missing, such as {missing[0]}")
    if unexpected:
        near = did_you_mean(unexpected[0], missing) if missing else ""
        parts.append(f"{len(unexpected)} are not of it, such as {unexpected[0]}{near}")
    if shapes:
        first = shapes[0]
        parts.append(
            f"{len(shapes)} have another shape, such as {first} with {_times(given[first])} where the net has "
            f"{_times(wanted[first])}"
        )
    fix = "name the net that they are for with --net, with its options"
    if shapes and not missing and not unexpected:
        last = list(wanted)[-2:]
        fix = (
            "the number of classes differs: name data with as many"
            if set(shapes) <= set(last)
            else "name the net with the options that it was trained with: --net '{name: …, width: …}'"
        )
    return f"the weights in {path} are not those of the net {name}: {'; '.join(parts)}; {fix}"


def _times(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f" (it has {shown}{', …' if len(names) > 8 else ''})" if names else ""
