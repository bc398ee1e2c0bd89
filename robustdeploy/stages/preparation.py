"""Preparation: what is looked at before stages are made, because afterwards it would cost the user something."""

from __future__ import annotations

from collections.abc import Iterator

from robustdeploy.core.plain import plain
from robustdeploy.core.recipe import Recipe
from robustdeploy.core.records import BoardRecord
from robustdeploy.core.settings import differences, overrides
from robustdeploy.core.target import Target
from robustdeploy.data.load import Loaded, load_data
from robustdeploy.engine.lineage import newest_on
from robustdeploy.engine.run import Run
from robustdeploy.engine.runner import held
from robustdeploy.errors import UsageError
from robustdeploy.stages.measure import Measure
from robustdeploy.train.facts import DENSE, dense_cost_facts
from robustdeploy.train.setup import device_from
from robustdeploy.train.start import starting_net


def check_same_target(run: Run, goal: Target) -> None:
    """Refuse a target of another definition than the one of its name that was measured: its evidence would go."""
    place = newest_on(goal.name, run.manifests())
    if not place:
        return
    # An edited definition is damage and no other target.
    sealed = held(run, place, BoardRecord).manifest
    if changed := list(differences(sealed.parameters.get("target", {}), plain(goal))):
        told = "; ".join(f"{each.field} {each.recipe}, now {each.used}" for each in changed)
        raise UsageError(
            f"{run.root} has results of another target called {goal.name} ({told}); give yours another name, or "
            f"replace them with `robustdeploy evaluate {run.root} --target … --force`"
        )


def check_images(measure: Measure, *, anew: bool) -> None:
    """Refuse test images that do not fit the net, before anything is attacked or built.

    Unless it is done ``anew``, an evaluation of the same net on other test images is not replaced either. One under
    other settings is: the recipe had them before ``prune --force`` gave it new ones, so it is out of date.
    """
    run, now = measure.session.run, measure.inputs()["test_images"]
    made, export = run.manifests(), measure.export.place
    if anew or measure.place not in made or export not in made:
        return
    measured = made[measure.place]
    if overrides(measure.session.asked.evaluate, measured.parameters.get("evaluate", {})):
        return
    # A net that was trained anew needs a new evaluation anyway, and then other images are no surprise.
    same_net = measured.inputs.get(f"{export}/model.onnx") == made[export].outputs.get("model.onnx")
    if same_net and measured.inputs.get("test_images") != now:
        raise UsageError(
            f"the test images are not those that {run.root / measure.place} was evaluated on; name the folder of those "
            "with --data, or replace that evaluation with --force"
        )


def kept_settings(run: Run, asked: Recipe) -> Iterator[str]:
    """Say where a run keeps its own evaluation and gate, though others were asked for."""
    for change in overrides(run.recipe.evaluate, plain(asked.evaluate)):
        yield f"note: the run keeps its own recipe; asked for: {change}"
    if plain(run.recipe.gate) != plain(asked.gate):
        yield "note: the run keeps its own gate; others judge with `robustdeploy gate --rules FILE`"


def dense_costs(recipe: Recipe, data: Loaded | None = None) -> dict[str, float]:
    """Return what the dense net costs, by the names of Budget; ``data`` is its data set where that is read already."""
    data = data or load_data(recipe.data)
    # On the CPU: counting needs no speed, and a GPU may be in use by a training.
    facts = dense_cost_facts(starting_net(recipe, data, device_from("cpu")), data.image_shape)
    return {name: facts[fact] or 0 for name, fact in DENSE.items()}
