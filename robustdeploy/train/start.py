"""Start: the dense net that a training begins with, of fresh weights or of those of a net that is trained already."""

from __future__ import annotations

from pathlib import Path

import torch

from robustdeploy.core.files import sha256_of_file
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.start import check_same_net
from robustdeploy.data.load import Loaded
from robustdeploy.nets.build import build_net
from robustdeploy.nets.channel_pad import set_gains
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.preprocess.steps import prepared_statistics
from robustdeploy.nets.store import NET_FILE, NetInfo, load_info, load_net, net_folder
from robustdeploy.train.import_net import check_fits


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the folder itself in place of a link to it: ``runs/latest`` moves on to the new run."""
    if recipe.train.start is None:
        return recipe
    start = Path()
    # Part by part, since a link may stand anywhere in the path, and ``resolve`` would make relative paths absolute.
    for part in recipe.train.start.parts:
        start /= part
        if start.is_symlink():
            start = start.parent / start.readlink()
    train = recipe.train.model_copy(update={"start": start})
    return recipe.model_copy(update={"train": train})


def starting_net(recipe: Recipe, data: Loaded, device: torch.device) -> Normalised:
    """Return the recipe's dense net on ``device``: with the weights of ``train.start``, or fresh ones.

    Fresh weights depend on the seed alone. A stored net that is another one, for other data, damaged, or compact
    already is a UsageError.
    """
    if recipe.train.start is not None:
        net_info(recipe, data)
        net = load_net(recipe.train.start, trust=[recipe.net])  # the recipe names the same factory
        # A delivered net's shortcuts have no gain, and masks could not reach their channels.
        set_gains(net, on=True)
        return net.train().to(device)
    with torch.random.fork_rng(devices=[]):
        # The generator is the process's, so it is seeded inside a fork and given back afterwards.
        torch.manual_seed(recipe.seed)
        shape, (mean, std) = data.image_shape, _statistics(recipe, data)
        net = build_net(recipe.net, len(data.classes), shape, mean, std, recipe.preprocess)
    return net.to(device)


def net_info(recipe: Recipe, data: Loaded) -> NetInfo:
    """Return all of ``starting_net`` but its weights; a trained one keeps its own normalisation."""
    if recipe.train.start is None:
        mean, std = _statistics(recipe, data)
        return info_of(recipe, data, mean, std)
    info = load_info(recipe.train.start)
    check_same_net(recipe, info.net, info.preprocess, len(info.modules), recipe.train.start)
    check_fits(info, data)
    return info


def info_of(recipe: Recipe, data: Loaded, mean: tuple[float, ...], std: tuple[float, ...]) -> NetInfo:
    """Return what is stored of the recipe's net beside its weights; ``mean`` and ``std`` are of what it reads."""
    steps = recipe.preprocess
    return NetInfo(
        net=recipe.net, classes=data.classes, image_shape=data.image_shape, preprocess=steps, mean=mean, std=std
    )


def _statistics(recipe: Recipe, data: Loaded) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return prepared_statistics(recipe.preprocess, data.image_shape, data.mean, data.std)


def start_inputs(recipe: Recipe) -> dict[str, str]:
    """Return the digest of the file that names the weights which the training begins with; nothing for fresh ones."""
    start = recipe.train.start
    # net.json holds the digest of the weights, so one small file stands for both.
    return {} if start is None else {"start": sha256_of_file(net_folder(start) / NET_FILE)}


def start_facts(recipe: Recipe) -> dict[str, str]:
    """Return what a report has to say of the data, where the training did not begin with fresh weights."""
    if recipe.train.start is None:
        return {}
    mark = load_info(recipe.train.start).weights_sha256
    told = f"from a trained net (SHA-256 {mark[:12]}…); whether it has seen the validation images is not known here"
    return {"start": told}
