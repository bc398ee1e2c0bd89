"""Import: a net that is already trained takes the place of the training stage, and all later stages follow as usual."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustdeploy.core.files import atomic_write_bytes, sha256_of_file
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import NetRecord
from robustdeploy.core.trust import Trust
from robustdeploy.cost.flop_counter import macs as flop_counter_macs
from robustdeploy.data.load import Loaded
from robustdeploy.engine.stage import Work
from robustdeploy.errors import DataError
from robustdeploy.nets.graph import graph_of
from robustdeploy.nets.normalised import Normalised
from robustdeploy.nets.store import NET_FILE, WEIGHTS_FILE, NetInfo, dense_net, load_net
from robustdeploy.train.facts import (
    PRINTS_FILE,
    channel_facts,
    cost_facts,
    dense_cost_facts,
    graph_facts,
    held_out_file,
    net_record,
    preprocess_facts,
    prints_file,
    target_facts,
)


def imported_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that are taken over."""
    return {name: sha256_of_file(folder / name) for name in (NET_FILE, WEIGHTS_FILE)}


def import_net(
    recipe: Recipe,
    info: NetInfo,
    data: Loaded,
    folder: Path,
    work: Work,
    trust: Trust = False,
    told: Sequence[str] = (),
) -> NetRecord:
    """Copy the net of ``folder``, count what it costs, and set real images aside beside it.

    ``told`` are sentences on how it came into that folder, which the record keeps.

    The images are held out of the training set of ``data``; whether this net has seen them is not known here. A
    damaged net is an ArtifactError.
    """
    net = load_net(folder, trust=trust)
    where = work.folder
    for name in (NET_FILE, WEIGHTS_FILE):
        # Copied byte for byte, not saved anew: the two files hold digests of each other, and the net stays the one that
        # was given.
        atomic_write_bytes(where / name, (folder / name).read_bytes())
    atomic_write_bytes(where / "held_out.npz", held_out_file(data))
    atomic_write_bytes(where / PRINTS_FILE, prints_file(data))
    facts: dict[str, Any] = {
        **(_counted(net, info) if (graph := graph_of(net)) is None else graph_facts(graph)),
        "data": {
            **data.facts(),
            **preprocess_facts(info.preprocess),
            "imported": "trained elsewhere; the numbers of images are of the set aside here",
            **({"import": list(told)} if told else {}),
        },
    }
    facts |= target_facts(recipe.budget, facts)
    work.keep(NET_FILE, WEIGHTS_FILE, "held_out.npz", PRINTS_FILE)
    return net_record(facts)


def _counted(net: Normalised, info: NetInfo) -> dict[str, Any]:
    """Return what a net of torch costs, beside its dense form."""
    shape = info.image_shape
    dense, costs = dense_cost_facts(dense_net(info), shape), cost_facts(net, shape)
    return {
        **dense,
        **costs,
        "counts": {"module": costs["macs"], "flop_counter": flop_counter_macs(net, shape) - costs["repeated_macs"]},
        # A net that costs as much as its dense form has lost no channel, and a list of all layers would only hide that.
        "channels": channel_facts(info, net) if costs["macs"] < dense["dense_macs"] else [],
    }


def check_fits(info: NetInfo, data: Loaded) -> None:
    """Raise a DataError for a net that is for other images or classes than those of ``data``."""
    wanted, found = (info.classes, info.image_shape), (data.classes, data.image_shape)
    if wanted != found:
        (classes, shape), (its_classes, its_shape) = wanted, found
        raise DataError(
            f"the net is for {len(classes)} classes ({', '.join(classes[:3])}, …) and images of {shape}; data set "
            f"'{data.name}' has {len(its_classes)} ({', '.join(its_classes[:3])}, …) and {its_shape}: give the recipe "
            "of its own data set (evaluate: with --recipe)"
        )
