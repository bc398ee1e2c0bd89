"""Threat presets: under which threat and attacks a paper or a benchmark judged its nets, for a recipe to name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robustdeploy.core.complaint import Place
from robustdeploy.core.kinds import Of
from robustdeploy.core.model import Noun, Number
from robustdeploy.core.plain import plain, value_at
from robustdeploy.core.recipe import AnyAttack, Evaluate, PlugIn, Threat, check_radius


class Judged(Noun):
    """What it says of one data set."""

    data: str
    """The data set's name."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    eps: Annotated[Number, Field(ge=1 / 255)]
    """Radius of the ball, in pixels of [0, 1]."""
    attacks: tuple[AnyAttack, ...] = Field(min_length=1)
    distances: tuple[Annotated[PlugIn, Of("distances")], ...] = ()

    @model_validator(mode="after")
    def _is_a_ball(self) -> Judged:
        check_radius(self.norm, self.eps)
        return self


class ThreatPreset(Noun):
    """One YAML file; a recipe takes it by ``threat: NAME``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str
    on: tuple[Judged, ...] = ()
    refused: str = ""
    """Why no recipe may take it, where it is known and not sound."""

    @model_validator(mode="after")
    def _says_something(self) -> ThreatPreset:
        if bool(self.on) == bool(self.refused):
            raise ValueError("a preset says what it is `on`, or why it is `refused`")
        return self


def laid_over(recipe: dict[str, Any], preset: ThreatPreset, keep_attacks: bool) -> tuple[Place, ...]:
    """Put what ``preset`` says into the values of a recipe; return the places that it filled.

    Its attacks stand before the recipe's own, of which those of the same name and steps give way. With
    ``keep_attacks`` the recipe's own stand alone. Raises ValueError where the preset cannot be taken.
    """
    if preset.refused:
        raise ValueError(f"'{preset.name}' is refused: {preset.refused}")
    data = value_at(recipe, ("data",), "digits")
    name = data.get("name", "digits") if isinstance(data, dict) else data
    judged = next((each for each in preset.on if each.data == name), None)
    if judged is None:
        known = " and ".join(each.data for each in preset.on)
        raise ValueError(f"'{preset.name}' says nothing of {name}: it is for {known}; give an eps, as {{eps: 8/255}}")
    recipe["threat"] = plain(Threat(norm=judged.norm, eps=judged.eps))
    filled: list[Place] = [("threat",)]
    evaluate = recipe.get("evaluate")
    if evaluate is None:
        evaluate = recipe["evaluate"] = {}
    if not isinstance(evaluate, dict):
        return tuple(filled)  # told by the recipe's own check
    for field in ("distances",) if keep_attacks else ("attacks", "distances"):
        first = [_written(choice) for choice in plain(getattr(judged, field))]
        own = evaluate.get(field)
        own = plain(getattr(Evaluate(), field)) if own is None else own
        if first and isinstance(own, list):
            taken = [_without_step(choice) for choice in first]
            evaluate[field] = first + [each for each in own if _without_step(_written(each)) not in taken]
            filled.append(("evaluate", field))
    return tuple(filled)


def _written(choice: Any) -> Any:
    """Return a plug-in as its name beside its options, however it was written."""
    if isinstance(choice, str):
        return {"name": choice}
    if isinstance(choice, dict) and isinstance(choice.get("options"), dict):
        return {"name": choice.get("name"), **choice["options"]}
    return choice


def _without_step(choice: Any) -> Any:
    # Rows are named by the rest, so that two which differ by this alone could not stand side by side.
    return {key: value for key, value in choice.items() if key != "alpha"} if isinstance(choice, dict) else choice
