"""Published figures: each occurs in its paper's text where that is at hand, none is missing, and the file is sound."""

import os
import re
from functools import cache
from pathlib import Path

import pytest

from robustdeploy.core.load import load_published
from robustdeploy.core.registry import DATA, NETS
from robustdeploy.errors import RecipeError

BESIDE = [folder / "shared/papers" for folder in Path(__file__).parents]
PAPERS = Path(os.environ.get("ROBUSTDEPLOY_PAPERS") or next((path for path in BESIDE if path.is_dir()), BESIDE[0]))
"""A folder with the papers' texts: above the checkout, or where the variable says."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")
PUBLISHED = load_published()
TABLES = {table.name: table for table in PUBLISHED.tables}


@cache
def lines_of(paper):
    """The numbers of each line of a paper, as printed."""
    path = PAPERS / PUBLISHED.papers[paper].text
    if not path.is_file():
        pytest.skip(f"the papers' texts are not here: {path.name} is missing; ROBUSTDEPLOY_PAPERS names their folder")
    # Formulas that were taken out of a page twice stand right behind each other: 0.00222.0103 is 0.0022 and 2.0103.
    text = re.sub(r"(\d\.\d{4})(?=\d\.\d{4}\b)", r"\1 ", path.read_text(encoding="utf-8"))
    text = re.sub(r"(\d\d\.\d\d)(?=\d\d\.\d\d\b)|(\d\.\d\d)(?=\d\d\.\d\d\b)", r"\1\2 ", text)
    return [tuple(float(number) for number in NUMBER.findall(line)) for line in text.splitlines()]


def holds(line, values):
    """Whether a line has the values in their order, others between them or not."""
    left = iter(line)
    return all(any(abs(number - value) < 1e-9 for number in left) for value in values)


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_stands_in_its_paper(name):
    table = TABLES[name]
    lines = lines_of(table.paper)
    strangers = [row for row, values in table.rows.items() if not any(holds(line, values) for line in lines)]
    assert strangers == []


@pytest.mark.parametrize("paper", PUBLISHED.papers)
def test_every_row_of_figures_in_a_paper_is_here(paper):
    ours = [values for table in PUBLISHED.tables if table.paper == paper for values in table.rows.values()]
    text = (PAPERS / PUBLISHED.papers[paper].text) if lines_of(paper) else None
    left = []
    for line in text.read_text(encoding="utf-8").splitlines():
        # A row of figures: cells, of which three or more are numbers with decimals or percentages.
        cells = [cell for cell in line.split("\t") if re.fullmatch(r"\s*\d+(\.\d+)?%?\s*", cell)]
        if "\t" in line and sum("." in cell for cell in cells) >= 2:
            found = tuple(float(number) for number in NUMBER.findall(line))
            if not any(holds(found, values) for values in ours):
                left.append(line)
    assert left == []


def test_a_changed_figure_would_be_found(monkeypatch):
    table = TABLES["wang-2018.table-2-pgd"]
    lines = lines_of(table.paper)
    for index in range(len(table.columns)):
        values = list(table.rows["filter-65"])
        values[index] += 0.1
        assert not any(holds(line, values) for line in lines)


def test_what_the_tool_has_is_called_as_it_is_here():
    """A row is told to be of another net or of other images by their names."""
    published = load_published()
    told = {row.net for row in published.rows.values()} | {each.data for each in published.protocols.values()}
    own = [*NETS.names(), *DATA.names()]
    plain = {re.sub(r"[-_]", "", name): name for name in own}
    assert {plain.get(re.sub(r"[-_]", "", name), name) for name in told} == told
    assert {"wang-cnn", "mnist", "cifar10", "resnet20"} <= told & set(own)


def test_the_file_is_whole_without_the_papers():
    assert {table.paper for table in PUBLISHED.tables} == set(PUBLISHED.papers)
    assert {table.protocol for table in PUBLISHED.tables} == set(PUBLISHED.protocols)
    seen = [
        (table.paper, table.net, table.protocol, table.columns, values, row)
        for table in PUBLISHED.tables
        for row, values in table.rows.items()
    ]
    assert len(PUBLISHED.rows) >= 80
    # The dense net of a pair of methods is one net; everything else stands once.
    twice = {each for each in seen if seen.count(each) > 1}
    assert {each[-1] for each in twice} <= {"dense"}
    for row in PUBLISHED.rows.values():
        protocol = PUBLISHED.protocols[row.protocol]
        # A pair says under which attack, or that this is not known.
        assert "robust" not in row.values or protocol.attack or protocol.note, row.name
        if {"clean", "robust"} <= set(row.values):
            assert row.values["robust"] <= row.values["clean"], row.name


SOUND = """\
papers: {p: {title: A, year: 2020, text: a.txt}}
protocols: {q: {data: mnist}}
tables:
  - {name: t, paper: p, where: Table 1, net: lenet, protocol: q, columns: [clean, robust], rows: {r: [99.0, 50]}}
"""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("paper: p,", "paper: x,", "of the paper 'x'; known: p"),
        ("protocol: q", "protocol: x", "has the protocol 'x'; known: q"),
        ("[99.0, 50]", "[99.0]", "t/r has 1 figures for 2 columns"),
        ("[99.0, 50]", "[990, 50]", "t/r: clean is 990, outside 0 to 100"),
        ("[clean, robust]", "[clean, pgd]", "has a column 'pgd'"),
        ("[clean, robust]", "[clean, clean]", "t has a column twice"),
        ("rows: {r: [99.0, 50]}", "rows: {r: [99.0, 50], r: [1, 2]}", "r"),
        ("data: mnist", "data: mnist, eps: -8", "eps"),
        ("year: 2020", "year: 20", "year"),
    ],
)
def test_an_unsound_file_is_refused_with_its_place(tmp_path, before, after, told):
    path = tmp_path / "published.yaml"
    path.write_text(SOUND)
    assert load_published(path).rows["t/r"].values == {"clean": 99.0, "robust": 50.0}
    path.write_text(SOUND.replace(before, after))
    with pytest.raises(RecipeError) as caught:
        load_published(path)
    assert told in str(caught.value)
