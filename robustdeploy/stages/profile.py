"""Profile: how long each layer of a recipe's net takes on a target, kept for the runs that come."""

from __future__ import annotations

from pathlib import Path

import torch

from robustdeploy.core.callback import SILENT, Callback
from robustdeploy.core.files import atomic_write_text, make_folder, temporary_folder
from robustdeploy.core.interrupts import catch_signals
from robustdeploy.core.precisions import precisions_on
from robustdeploy.core.profile import Profile
from robustdeploy.core.recipe import Choice, Recipe
from robustdeploy.core.target import Target
from robustdeploy.devices.fleet import fleet_of
from robustdeploy.devices.profiles import again, check_device, check_profilable, load_profile, net_of, profile_path
from robustdeploy.errors import ArtifactError, ToolchainError, UsageError
from robustdeploy.evaluate.profiling import device_of, profile_net
from robustdeploy.export.agent import build_agent, foreign_plugins
from robustdeploy.nets.build import build_net
from robustdeploy.nets.preprocess.steps import prepared_statistics
from robustdeploy.prune.multiples import times_by_multiple
from robustdeploy.prune.rehearsal import find_groups


def profile(
    recipe: Recipe,
    target: Target,
    *,
    precision: Choice | None = None,
    folder: Path,
    seconds: float,
    force: bool = False,
    callback: Callback = SILENT,
) -> tuple[Profile, Path]:
    """Measure nets like the recipe's on ``target`` for about ``seconds``; return the profile and where it is kept.

    One that is there already, of the same device, is returned as it is, unless ``force`` says otherwise.
    """
    check_profilable(target)
    chosen = precision or precisions_on(target, recipe.precisions)[0]
    about = net_of(recipe)
    path = profile_path(folder, target.name, chosen.name, about)
    with catch_signals(), temporary_folder() as place:
        build_agent(place / "agent.pyz", foreign_plugins())
        with fleet_of(target, place / "agent.pyz", callback.say, deadline_s=600) as fleet:
            board = fleet.boards[0]  # boards of one target are alike
            if path.is_file() and not force:
                try:
                    kept = load_profile(folder, target.name, chosen.name, about, again(recipe, target, chosen))
                    check_device(kept, device_of(board, target), "")
                    callback.say(f"profile: {path} is of this device already; --force measures it anew")
                    return kept, path
                except (ArtifactError, ToolchainError) as error:
                    callback.say(f"profile: measured again, since {str(error).partition('; run')[0]}")
            samples = path.with_suffix(".samples")
            if force:
                samples.unlink(missing_ok=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(recipe.seed)
                shape, plainly = about.image_shape, (0.5,) * about.image_shape[0]
                mean, std = prepared_statistics(about.preprocess, shape, plainly, plainly)
                net = build_net(recipe.net, about.classes, shape, mean, std, about.preprocess).eval()
            groups = find_groups(net, about.image_shape).groups
            if not groups:
                raise UsageError(f"no channels of '{recipe.net.name}' can be removed, so there is nothing to profile")

            def progress(what: str, done: int, total: int) -> None:
                callback.progress(f"{target.name}, {what}", done, total)

            found = profile_net(
                net, groups, about, target, chosen, board, place / "agent.pyz", samples, progress, seconds
            )
    found = found.model_copy(update={"multiples": times_by_multiple(net, groups, about.image_shape, found)})
    make_folder(path.parent)
    atomic_write_text(path, found.model_dump_json() + "\n")
    samples.unlink(missing_ok=True)  # the profile holds what they said
    return found, path
