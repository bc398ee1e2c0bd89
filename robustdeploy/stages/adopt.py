"""Adopt: a net that others trained becomes a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from robustdeploy.core.asked import DEFAULT_RUNS
from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.talk import SILENCE, Talk
from robustdeploy.core.trust import Trust, check_trusted, remember
from robustdeploy.data.find import looking_once
from robustdeploy.data.load import load_data
from robustdeploy.engine.run import Run
from robustdeploy.nets.store import load_info
from robustdeploy.preflight import recipe_to_adopt
from robustdeploy.stages.sealing import is_due, working
from robustdeploy.stages.train import costs_text
from robustdeploy.train.adopt import adopt as adopt_net
from robustdeploy.train.adopt import adopted_files, check_fits


def adopt(
    folder: str | Path,
    recipe: str | Path | Recipe | None = None,
    *,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    runs: Path = DEFAULT_RUNS,
    name: str | None = None,
    force: bool = False,
    trust: Trust = False,
    talk: Talk = SILENCE,
) -> Run:
    """Make a run of a net that is trained already, ``net.json`` and ``model.safetensors`` in ``folder``.

    ``recipe`` says what it is attacked with and held against; left out, it is the ``recipe.yaml`` beside the net. A
    factory is called if ``recipe`` or the override ``net=`` names it, or ``trust`` does, as for ``load_net``.
    """
    origin = Path(folder)
    more = [*overrides, *([] if data is None else [f"data.path={data}"])]
    with looking_once():
        loaded = recipe if isinstance(recipe, Recipe) else recipe_to_adopt(origin, recipe, more)
        info = load_info(origin)
        named = recipe is not None or any(each.replace(" ", "").startswith("net=") for each in overrides)
        trust = trust or ([loaded.net] if named else False)
        check_trusted(info.net, origin, trust)
        # Neither the dense net beside it nor another net's name belongs to what is taken over.
        loaded = loaded.model_copy(update={"net": info.net, "baseline": False})
        images = load_data(loaded.data, partial(talk.progress, "reading images"), talk.say)
    check_fits(info, images)
    run = Run.for_recipe(runs, loaded, name or origin.resolve().name, anew=force)
    with working(run):
        stage = run.stage("adopt", "train", {"images": images.digest, **adopted_files(origin)}, plain(loaded.budget))
        if is_due(stage, force, talk):
            manifest = adopt_net(loaded, info, images, origin, stage, trust)
            if named:
                remember(info.net)
            talk.say(f"adopt: {costs_text(manifest)}, from {origin}")
    return run
