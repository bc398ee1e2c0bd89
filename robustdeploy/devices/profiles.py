"""Profiles that are kept: where they lie, and whether one is of the device that is there now."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from robustdeploy.core.complaint import complaint
from robustdeploy.core.files import canonical_json, sha256_of_text
from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.plain import plain
from robustdeploy.core.precisions import precisions_on
from robustdeploy.core.profile import Device, Profile, ProfiledNet
from robustdeploy.core.reading import read_bounded
from robustdeploy.core.recipe import Choice, LatencyLimit, Recipe
from robustdeploy.core.shipped import shipped_names
from robustdeploy.core.target import Target
from robustdeploy.core.trust import told
from robustdeploy.data.find import find_source
from robustdeploy.devices.builder import differing
from robustdeploy.engine.places import SERIES
from robustdeploy.errors import ArtifactError, ToolchainError, UsageError

FOLDER: Final = "profiles"
"""Beside the folder of runs."""
_MOST_BYTES = 256 << 20


def profiles_beside(runs: Path) -> Path:
    """Return the folder of profiles that goes with a folder of runs, or with one of a sweep or a table in it."""
    return (runs.parent if (runs / SERIES).is_file() else runs).parent / FOLDER


def net_of(recipe: Recipe) -> ProfiledNet:
    """Return which net a recipe's profile is of; of its data, the images' shape and the classes count."""
    source = find_source(recipe.data)
    classes, shape = len(source.classes), source.image_shape
    return ProfiledNet(net=recipe.net, classes=classes, image_shape=shape, preprocess=recipe.preprocess)


def again(recipe: Recipe, target: Target, precision: Choice) -> str:
    """Return the command that makes the profile."""
    words = ["robustdeploy profile", "RECIPE"]
    if recipe.name in shipped_names("recipes"):
        words[1] = recipe.name
        if recipe.net != load_recipe(recipe.name, registries=None).net:
            words.append(f"--set 'net={told(recipe.net)}'")
    if recipe.data.path is not None:
        words.append(f"--data {shlex.quote(str(recipe.data.path))}")
    words.append(f"--target {target.name}")
    if precision.name != target.precisions[0].name:
        words.append(f"--precision {precision.name}")
    return " ".join(words)


def check_profilable(target: Target) -> None:
    """Refuse a target whose times mean nothing."""
    if target.emulated:
        raise UsageError(f"{target.name} is emulated, so its latency says nothing and there is nothing to profile")


def timed_on(recipe: Recipe, limit: LatencyLimit) -> tuple[Target, Choice]:
    """Return the target of a limit on latency, and the precision that a recipe's net is timed in there."""
    target = load_target(limit.target)
    if target.emulated:
        raise UsageError(f"budget.latency: {target.name} is emulated, and its latency says nothing; name a real device")
    return target, precisions_on(target, recipe.precisions)[0]


def kept_profile(recipe: Recipe, limit: LatencyLimit, folder: Path) -> Profile:
    """Return the profile in ``folder`` that a recipe's limit on latency needs; UsageError where there is none."""
    target, precision = timed_on(recipe, limit)
    return load_profile(folder, target.name, precision.name, net_of(recipe), again(recipe, target, precision))


def profile_path(folder: Path, target: str, precision: str, net: ProfiledNet) -> Path:
    """Return where the profile of a net on a target lies: ``host-cpu-fp32-resnet20-3fa9c2d1.json``."""
    mark = sha256_of_text(canonical_json(net.described()))[:8]
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in net.net.name)
    return folder / f"{target}-{precision}-{name}-{mark}.json"


def load_profile(folder: Path, target: str, precision: str, net: ProfiledNet, again: str) -> Profile:
    """Return a kept profile. ``again`` is the command that makes one; UsageError where there is none."""
    path = profile_path(folder, target, precision, net)
    if not path.is_file():
        raise UsageError(
            f"there is no profile of {net.net.name} in {precision} on {target} in {folder}, which a limit on latency "
            f"needs: run `{again}` first"
        )
    try:
        return Profile.model_validate_json(read_bounded(path, _MOST_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))} {complaint(first, Profile)}".strip()
        raise ArtifactError(f"{path} is no profile ({what}); run `{again}` again") from error


def check_device(profile: Profile, now: Device, again: str) -> None:
    """Raise ToolchainError where a profile was measured on another device, or with another toolchain, than there is."""
    was = profile.device
    about = f"the profile of {profile.target} in {profile.precision}"
    if (was.backend, was.version) != (now.backend, now.version):
        told = f"{was.backend} {was.version}, and {now.backend} {now.version} is there"
        raise ToolchainError(f"{about} was measured with {told}; run `{again}` again")
    if plain(was.options) != plain(now.options):
        raise ToolchainError(f"{about} was measured with other options ({was.options}); run `{again}` again")
    if unlike := differing(was.identity, now.identity):
        raise ToolchainError(f"{about} is of {unlike} that is there; run `{again}` again")
