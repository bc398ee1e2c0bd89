"""Two or many runs in one table, and the page with the images that were lost and won."""

import re
from hashlib import sha256

import numpy as np
import pytest

from robustdeploy.report.compare_page import compare_page, lines_of
from robustdeploy.report.pairing import pairing
from robustdeploy.report.sides import Side


def without(report, metric, name):
    rows = tuple(row for row in report.measurements if row.metric != metric)
    return report.model_copy(update={"measurements": rows, "name": name})


def test_rows_of_many_are_joined_whichever_of_them_lacks_one(report):
    sides = [Side(report), Side(without(report, "ops_fraction", "b")), Side(without(report, "clean_accuracy", "c"))]
    pairs = [pairing(sides[1], sides[0]), pairing(sides[1], sides[2])]
    lines = {line.row.label: line.values for line in lines_of(pairs, ["b", "a", "c"])}
    found = next(values for label, values in lines.items() if label.startswith("ops_fraction"))
    assert found == (None, 0.2981, 0.2981)
    clean = next(values for label, values in lines.items() if label.startswith("clean_accuracy"))
    assert clean == (0.823, 0.823, None)
    assert len(lines) == len(report.measurements)


def test_key_figures_stand_first_with_their_change_where_they_may_be_held_against_each_other(report):
    pair = pairing(Side(without(report, "params_fraction", "a")), Side(report))
    text = re.sub(r"<[^>]+>", " ", compare_page([pair], ["a", "b"]))
    first, every = text.partition(f"All {len(report.measurements)} rows")[::2]
    assert "ops_fraction" in first
    assert "robust_accuracy worst" in first
    assert "robust_accuracy fgsm" not in first
    assert "robust_accuracy fgsm" in every
    assert "0.0 points" in first

    fewer = report.model_copy(update={"threat": report.threat.__class__(norm=report.threat.norm, eps=0.5)})
    apart = re.sub(r"<[^>]+>", " ", compare_page([pairing(Side(report), Side(fewer))], ["a", "b"]))
    clean = re.search(r"robust_accuracy worst \(pruned.*?not alike", apart, re.DOTALL)[0]
    assert "points" not in clean, "what was attacked otherwise is not subtracted"


def test_the_page_stands_alone_and_nothing_in_it_is_markup_of_others(report):
    hostile = report.model_copy(update={"name": "<script>x</script>"})
    text = compare_page([pairing(Side(report), Side(hostile))], ["a", "<script>x</script>"])
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_the_page_shows_images_that_were_lost_and_won_and_names_all_of_them(planted_side):
    (now, clean, _), (then, old, _) = planted_side("now", 1), planted_side("then", 2)
    pair = pairing(then, now)
    change = next(each.change for each in pair.images if each.attack == "clean")
    assert (change.lost_ids, change.gained_ids) == (
        tuple(np.flatnonzero(old & ~clean)),
        tuple(np.flatnonzero(clean & ~old)),
    )
    text = compare_page([pair], ["then", "now"])
    for ids in (change.lost_ids, change.gained_ids):
        assert ", ".join(map(str, ids)) in text
        assert all(f"Test image {i} of class" in text for i in ids[:12])
    # All planted images are black.
    assert sha256(np.zeros((1, 2, 2), np.uint8).tobytes()).hexdigest() in text


@pytest.mark.slow
def test_many_runs_in_one_table(desk, command):
    done = command(desk, "compare", "tiny", "latest", "tiny", "--html", "pages/all.html", "--json")
    assert done.code == 0, done.err
    assert [run["name"] for run in done.document["runs"]] == ["tiny"] * 3
    assert len(done.document["against_the_first"]) == 2
    assert (desk / "pages/all.html").read_text().startswith("<!doctype html>")
    assert command(desk, "compare", "tiny").code == 2
    head = next(line for line in command(desk, "compare", "tiny", "latest", "tiny").out.splitlines() if "unit" in line)
    assert head.split() == ["1", "tiny", "2", "tiny", "3", "tiny", "unit"]
