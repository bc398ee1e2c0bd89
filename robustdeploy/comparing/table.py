"""The table of a comparison: its lines by track, what is not alike, paired tests, and published figures beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from robustdeploy.comparing.alike import differences
from robustdeploy.comparing.folder import TableFolder
from robustdeploy.comparing.found import Found, found_of
from robustdeploy.core.comparison import PRETRAIN, ComparedRow
from robustdeploy.core.load import load_published
from robustdeploy.core.published import Protocol, Published, PublishedRow
from robustdeploy.core.recipe import Budget
from robustdeploy.evaluate.intervals import mcnemar_exact, paired_difference
from robustdeploy.evaluate.paired import CLEAN, WORST
from robustdeploy.report.quantity import eps_text

DENSE = "dense"


@dataclass(frozen=True)
class Pair:
    """Two rows on the same test images: this one less the other, with the interval and the test of the difference."""

    other: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Beside:
    """A published row, and what of its protocol is not ours."""

    row: PublishedRow
    protocol: Protocol
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One run of a row."""

    row: ComparedRow
    found: Found
    asked: Budget
    track: str
    """Rows of one track are ranked together: what is removed, and how much may stay."""
    differs: tuple[str, ...]
    """How it is not like the others."""
    to_dense: Mapping[str, Pair]
    """By attack; empty where there is no dense row under the same seed."""
    against: Mapping[str, Pair]
    """The same against the row that the plan names for its track."""
    published: tuple[Beside, ...]


@dataclass(frozen=True)
class Mean:
    """One row over its seeds."""

    row: str
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, float, float]]
    """By attack: mean, least and largest."""


@dataclass(frozen=True)
class Table:
    """Everything that the renderings show."""

    attacks: tuple[str, ...]
    lines: tuple[Line, ...]
    missing: Mapping[str, str]
    """Runs without a report, and why."""
    means: tuple[Mean, ...]

    @property
    def distances(self) -> tuple[str, ...]:
        """Labels of the distances that any line has."""
        return tuple(dict.fromkeys(name for line in self.lines for name in line.found.distances))

    @property
    def vulnerabilities(self) -> tuple[str, ...]:
        """Labels of the attacks of which any line has a vulnerability."""
        return tuple(dict.fromkeys(name for line in self.lines for name in line.found.vulnerability))

    @property
    def alike(self) -> tuple[Line, ...]:
        """Lines that may be compared."""
        return tuple(line for line in self.lines if not line.differs)

    @property
    def apart(self) -> tuple[Line, ...]:
        """Lines that may not."""
        return tuple(line for line in self.lines if line.differs)

    @property
    def tracks(self) -> dict[str, tuple[Line, ...]]:
        """The lines that may be compared, by track, the dense ones first."""
        names = dict.fromkeys(line.track for line in self.alike)
        ordered = sorted(names, key=lambda name: name != DENSE)
        return {name: tuple(line for line in self.alike if line.track == name) for name in ordered}


def table_of(folder: TableFolder, why: Mapping[str, str] = {}) -> Table:
    """Read the runs of all rows; ``why`` says how those failed that were begun and have no report."""
    found, missing = list[Found](), dict[str, str]()
    for run in folder.runs:
        if run.row == PRETRAIN:
            if run.name in why:
                missing[run.name] = why[run.name]
            continue
        read = found_of(folder, run)
        if isinstance(read, str):
            missing[run.name] = why.get(run.name, read)
        else:
            found.append(read)
    apart = differences(found)
    published = load_published() if any(row.published for row in folder.comparison.rows) else None
    lines = tuple(_line(folder, each, found, apart.get(each.run.name, ()), published) for each in found)
    attacks = tuple(dict.fromkeys(name for each in found for name in each.attacks))
    return Table(attacks, lines, missing, tuple(_means(lines)))


def _line(
    folder: TableFolder, one: Found, all_found: Sequence[Found], differs: tuple[str, ...], published: Published | None
) -> Line:
    comparison = folder.comparison
    row = comparison.row(one.run.row)
    track = track_of(one)
    # Under one seed: two trainings that began alike differ by the system alone.
    same_seed = [each for each in all_found if each.run.seed == one.run.seed and each is not one]
    dense = next((each for each in same_seed if comparison.row(each.run.row).prune is None), None)
    among = [each for each in same_seed if each.run.row in comparison.against and track_of(each) == track]
    return Line(
        row=row,
        found=one,
        asked=comparison.budget_of(row),
        track=track,
        differs=differs,
        to_dense={} if dense is None or row.prune is None else dict(_pairs(one, dense)),
        against=dict(_pairs(one, among[0])) if among else {},
        published=tuple(_beside(one, published, name) for name in row.published) if published else (),
    )


def track_of(one: Found) -> str:
    """Return what a row is ranked among: what it removes and how much may stay."""
    if one.run.net == DENSE:
        return DENSE
    kind = "channels" if one.record.removes_channels else "weights"
    budget = one.run.recipe.budget
    return f"{kind}, {budget}" if budget.is_set else f"{kind}, without a budget"


def _pairs(one: Found, other: Found) -> Iterator[tuple[str, Pair]]:
    if one.test_images != other.test_images:  # a pair is of the same image
        return
    for name in one.right:
        if name in other.right:
            bits = one.right[name], other.right[name]
            yield name, Pair(other.run.row, *paired_difference(*bits), mcnemar_exact(*bits))


def _beside(one: Found, published: Published, name: str) -> Beside:
    row = published.rows[name]
    protocol = published.protocols[row.protocol]
    return Beside(row, protocol, tuple(_protocol_differences(one, row, protocol)))


def _protocol_differences(one: Found, row: PublishedRow, protocol: Protocol) -> Iterator[str]:
    recipe, threat = one.run.recipe, one.report.threat
    if row.net != recipe.net.name:
        yield f"net {row.net}"
    if protocol.data != recipe.data.name:
        yield f"images {protocol.data}"
    if protocol.norm != threat.norm:
        yield f"norm {protocol.norm}"
    if protocol.eps is None:
        yield "ε not stated"
    elif abs(protocol.eps - threat.eps) > 1e-9:
        yield f"ε {eps_text(protocol.eps)}"
    if protocol.attack is None:
        yield "attack not stated"
    elif protocol.attack not in one.attacks:
        yield f"attack {protocol.attack}"
    elif protocol.alpha is not None and not _same_step(one, protocol):
        yield f"step {eps_text(protocol.alpha)}"
    if protocol.note:
        yield protocol.note


def _same_step(one: Found, protocol: Protocol) -> bool:
    ours = one.measured[str(protocol.attack)].conditions.get("alpha")
    return isinstance(ours, float) and protocol.alpha is not None and abs(ours - protocol.alpha) < 1e-9


def _means(lines: Sequence[Line]) -> Iterator[Mean]:
    for name in dict.fromkeys(line.row.name for line in lines):
        its = [line for line in lines if line.row.name == name]
        if len(its) < 2:
            continue
        shared = [attack for attack in its[0].found.measured if all(attack in line.found.measured for line in its)]
        values = {attack: [line.found.measured[attack].value for line in its] for attack in shared}
        spread = {attack: (sum(each) / len(each), min(each), max(each)) for attack, each in values.items()}
        yield Mean(name, tuple(line.found.run.seed for line in its), spread)


__all__ = ["CLEAN", "DENSE", "WORST", "Line", "Pair", "Table", "table_of", "track_of"]
