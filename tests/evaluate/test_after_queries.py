"""What stood after how many queries: rows made from outcomes made up for them."""

import numpy as np
import pytest

from robustdeploy.core.subject import subject_from
from robustdeploy.evaluate.outcomes import AttackOutcome, Outcomes
from robustdeploy.evaluate.rows import accuracy_rows
from robustdeploy.onboard.queries import MARKS

SUBJECT = subject_from("pruned/fp32@host-cpu")
LABELS = np.zeros(10, np.int64)
CLEAN = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])  # the first is wrong as it is
FOUND = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])  # and four others fall
QUERIES = np.array([1, 10, 11, 30, 250, 250, 250, 250, 250, 250])


def rows(queries=QUERIES, how=None):
    images = np.zeros((10, 1, 2, 2), np.uint8)
    # A microsecond for each query.
    spent = 1000 * np.minimum(queries[:, None], MARKS) if (queries >= 0).all() else np.full((10, len(MARKS)), -1)
    attack = AttackOutcome("rays-250", "query", images, FOUND, FOUND, queries, spent)
    outcomes = Outcomes(np.arange(10), images, LABELS, CLEAN, CLEAN, (attack,))
    settings = {"rays-250": {"attack": "rays", "needs": "labels", "queries": 250} if how is None else how}
    made = accuracy_rows(outcomes, settings, SUBJECT)
    return [row for row in made if row.metric == "robust_accuracy_after_queries"]


def test_an_image_counts_as_right_until_the_query_at_which_it_fell():
    found = rows()
    assert [row.conditions["queries"] for row in found] == [10, 30, 100, 250]
    assert [row.value for row in found] == [0.8, 0.6, 0.6, 0.5]
    assert {(row.n, row.attack, row.kind, row.subject) for row in found} == {(10, "rays-250", "query", str(SUBJECT))}
    assert all(row.low < row.value < row.high for row in found)
    assert {row.conditions["needs"] for row in found} == {"labels"}


def test_device_seconds_are_those_of_the_queries_up_to_there():
    spent = [int(np.minimum(QUERIES, asked).sum()) for asked in (10, 30, 100, 250)]
    assert [row.conditions["device_s"] for row in rows()] == pytest.approx([queries * 1e-6 for queries in spent])


def test_without_a_budget_the_last_row_is_at_the_most_that_was_spent():
    found = rows(np.minimum(QUERIES, 40), {"attack": "mine"})
    assert [row.conditions["queries"] for row in found] == [10, 30, 40]
    assert found[0].conditions["needs"] == "scores"


def test_nothing_is_told_where_queries_were_not_counted_by_image():
    assert rows(np.full(10, -1)) == []
