"""The comparison: several systems at one budget, each a row of one table, and what they all have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from robustdeploy.core.kinds import Of
from robustdeploy.core.model import Noun
from robustdeploy.core.recipe import Budget, PlugIn, Recipe, Train

PRETRAIN: Final = "pretrain"
"""What a row begins with that is ``after`` the shared dense training."""
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"


class ComparedRow(Noun):
    """One system: how it prunes, how it is trained, and what it begins with."""

    name: str = Field(pattern=_NAME)
    system: str = ""
    """Whose it is, as the table says it, such as ``HYDRA (Sehwag et al. 2020)``."""
    prune: Annotated[PlugIn, Of("pruners")] | None
    """The pruner; ``null`` for a net that nothing is removed from."""
    budget: Budget | None = None
    """What it may cost where that is not the comparison's own; rows of another budget are ranked by themselves."""
    train: Train = Train()
    """What of the training is its own; all that is not given is the recipe's."""
    after: str | None = None
    """What it begins with: ``pretrain``, or an earlier row's net; unset: fresh weights."""
    published: tuple[str, ...] = ()
    """Names of published rows to print beside it, see ``comparisons/published.yaml``."""

    @property
    def own_training(self) -> dict[str, Any]:
        """What of the training the row gives itself."""
        return {name: getattr(self.train, name) for name in self.train.model_fields_set}


class Comparison(Noun):
    """A plan of ``robustdeploy table``; one YAML file."""

    name: str = Field(pattern=_NAME)
    description: str = ""
    recipe: str
    """The recipe of all rows, by name or YAML file; one beside the plan where it is a path."""
    set: tuple[str, ...] = ()
    """What of the recipe is another for all rows, as ``--set`` takes it: ``train.epochs=10``."""
    target: str = "host-cpu"
    """Where the rows are measured: a target by name or YAML file."""
    pretrain: Train | None = None
    """The dense training that rows ``after: pretrain`` share, once for each seed; what is not given is the recipe's."""
    budget: Budget = Budget()
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = (0,)
    against: tuple[str, ...] = ()
    """Rows that the others of the same budget and kind are tested against, such as in-train pruning."""
    rows: tuple[ComparedRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_fit(self) -> Comparison:
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rows are named '{twice[0]}'; give each a name of its own")
        if PRETRAIN in names:
            raise ValueError(f"no row can be named '{PRETRAIN}', which is what the shared dense training is called")
        for index, row in enumerate(self.rows):
            self._check_start(row, names[:index])
        if unknown := [name for name in self.against if name not in names]:
            raise ValueError(f"against names '{unknown[0]}', and the rows are {', '.join(names)}")
        if not self.seeds or len({*self.seeds}) != len(self.seeds):
            raise ValueError("seeds must be one or more, each once")
        return self

    def _check_start(self, row: ComparedRow, before: list[str]) -> None:
        if "start" in row.train.model_fields_set:
            raise ValueError(f"row '{row.name}' gives train.start; say with `after` what it begins with")
        if row.after == PRETRAIN and self.pretrain is None:
            raise ValueError(f"row '{row.name}' is after pretrain, which this plan does not have; give it one")
        if row.after not in (None, PRETRAIN, *before):
            above = ", ".join([*([PRETRAIN] if self.pretrain is not None else []), *before]) or "nothing"
            raise ValueError(
                f"row '{row.name}' is after '{row.after}', and a row begins only with one that is above it, or with "
                f"{PRETRAIN}: here with {above}"
            )

    def row(self, name: str) -> ComparedRow:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)

    def budget_of(self, row: ComparedRow) -> Budget:
        """Return what a row may cost."""
        if row.prune is None:
            return Budget()
        return self.budget if row.budget is None else row.budget


def with_training(recipe: Recipe, own: Mapping[str, Any]) -> Recipe:
    """Return the recipe with fields of its training replaced."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=dict(own))})
