"""Published figures as data: what papers report, and under which protocol, so that a table can print them too."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from robustdeploy.core.model import Noun, Number

_PERCENT = (0.0, 100.0)
COLUMNS: Final[dict[str, tuple[str, float, float]]] = {
    "clean": ("% of images as they are", *_PERCENT),
    "clean_spread": ("± of clean, in points", *_PERCENT),
    "fgsm_first": ("% under FGSM at the first of three radii", *_PERCENT),
    "fgsm_second": ("% under FGSM at the second", *_PERCENT),
    "fgsm_third": ("% under FGSM at the third", *_PERCENT),
    "robust": ("% under the protocol's attack", *_PERCENT),
    "transfer": ("% under images found on another net", *_PERCENT),
    "vulnerability": ("mean distortion of features under the attack", 0.0, 10.0),
    "vulnerability_transfer": ("the same under images found on another net", 0.0, 10.0),
    "memory": ("% of the dense net's memory", 0.0, 1000.0),
    "speedup": ("dense FLOPs over those that are left", 0.0, 1000.0),
    "removed": ("% of weights, filters or units that are gone", *_PERCENT),
    "compression": ("dense parameters over those that are left", 1.0, 10000.0),
    "ops_asked": ("operations asked for, of the dense net's", 0.0, 1.0),
    "ops_kept": ("operations left, of the dense net's", 0.0, 1.0),
    "params_kept": ("parameters left, of the dense net's", 0.0, 1.0),
    "params_m": ("millions of parameters", 0.0, 1000.0),
    "ops_m": ("millions of operations", 0.0, 100000.0),
    "kept": ("% that is left", *_PERCENT),
    "iterations": ("steps of the attack", 1.0, 10000.0),
    "r2": ("mean ℓ2 distance to another label", 0.0, 1000.0),
    "r2_spread": ("± of it", 0.0, 1000.0),
    "points": ("difference in percentage points", -100.0, 100.0),
    "points_other": ("the same of the second net", -100.0, 100.0),
}
"""What a published number may be: its meaning, and the range that it lies in."""


class Paper(Noun):
    """Where figures stand."""

    title: str
    year: int = Field(ge=1990, le=2100)
    text: str
    """Name of the file that holds the paper's text, where papers are at hand."""


class Protocol(Noun):
    """How figures were made: what has to be equal before two of them may be compared."""

    data: str
    norm: Literal["linf", "l2", "l1", "none"] = "linf"
    eps: Number | None = Field(default=None, ge=0)
    """In pixels of [0, 1]; unset where the paper does not say."""
    attack: str | None = None
    """Label of the attack behind ``robust``, such as ``pgd-40``; unset where the paper does not say."""
    alpha: Number | None = Field(default=None, gt=0, le=1)
    training: str = ""
    note: str = ""
    """What else keeps the figures from being compared."""


class PublishedTable(Noun):
    """Rows of one table, or figures of one passage, with the same columns under one protocol."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    paper: str
    where: str
    """Table, slide or section."""
    net: str
    """As this package calls it, where it has it."""
    protocol: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: dict[str, tuple[float, ...]] = Field(min_length=1)
    """By the row's name: one number for each column, as printed."""

    @model_validator(mode="after")
    def _rows_fit(self) -> PublishedTable:
        if unknown := [name for name in self.columns if name not in COLUMNS]:
            raise ValueError(f"{self.name} has a column '{unknown[0]}'; known: {', '.join(COLUMNS)}")
        if len({*self.columns}) != len(self.columns):
            raise ValueError(f"{self.name} has a column twice")
        for row, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(f"{self.name}/{row} has {len(values)} figures for {len(self.columns)} columns")
            for name, value in zip(self.columns, values, strict=True):
                _, low, high = COLUMNS[name]
                if not low <= value <= high:
                    raise ValueError(f"{self.name}/{row}: {name} is {value:g}, outside {low:g} to {high:g}")
        return self


class PublishedRow(Noun):
    """One row by itself."""

    name: str
    """``TABLE/ROW``."""
    where: str
    net: str
    protocol: str
    values: dict[str, float]


class Published(Noun):
    """All figures; one YAML file."""

    papers: dict[str, Paper]
    protocols: dict[str, Protocol]
    tables: tuple[PublishedTable, ...]

    @model_validator(mode="after")
    def _names_fit(self) -> Published:
        names = [table.name for table in self.tables]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two tables are named '{twice[0]}'")
        for table in self.tables:
            if table.paper not in self.papers:
                raise ValueError(f"{table.name} is of the paper '{table.paper}'; known: {', '.join(self.papers)}")
            if table.protocol not in self.protocols:
                known = ", ".join(self.protocols)
                raise ValueError(f"{table.name} has the protocol '{table.protocol}'; known: {known}")
        return self

    @property
    def rows(self) -> dict[str, PublishedRow]:
        """Every row by its name, ``TABLE/ROW``."""
        return {
            f"{table.name}/{row}": PublishedRow(
                name=f"{table.name}/{row}",
                where=f"{self.papers[table.paper].title} ({self.papers[table.paper].year}), {table.where}",
                net=table.net,
                protocol=table.protocol,
                values=dict(zip(table.columns, values, strict=True)),
            )
            for table in self.tables
            for row, values in table.rows.items()
        }
