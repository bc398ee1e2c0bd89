import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeploy.core.report import Measurement
from robustdeploy.report.quantity import apart, eps_text, interval, quantity, samples


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.462, "fraction", "46.2 %"),
        (0.99996, "fraction", "99.996 %"),
        (0.00001, "fraction", "0.001 %"),
        (1.0, "fraction", "100.0 %"),
        (0.0, "fraction", "0.0 %"),
        (2.4, "ms", "2.40 ms"),
        (10, "ms", "10 ms"),
        (12088320, "macs", "12,088,320 macs"),
        (12345.678, "queries", "12,346 queries"),
        (3.1e-6, "logits", "3.10e-06 logits"),
        (7.0, "", "7"),
    ],
)
def test_quantities_read_as_a_person_would_write_them(value, unit, expected):
    assert quantity(value, unit) == expected


@given(st.floats(0, 1), st.sampled_from(["fraction", "ms"]), st.floats(0, 1))
def test_a_value_and_a_limit_that_differ_never_read_the_same(value, unit, limit):
    shown = apart(value, limit, unit)
    assert value == limit or shown[0] != shown[1]


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_share_that_is_not_certain_never_reads_as_certain(value):
    assert 0 < float(quantity(value, "fraction").removesuffix(" %")) < 100


def row(**changes):
    fields = {"metric": "m", "subject": "pruned/fp32@host-cpu", "value": 0.5, "unit": "fraction", "n": 10}
    return Measurement(**fields | changes)


def test_intervals_name_open_ends():
    assert interval(row(low=0.43, high=0.5)) == "43.0 to 50.0 %"
    assert interval(row(low=0.43)) == "at least 43.0 %"
    assert interval(row(value=5, unit="ms", high=6.5)) == "at most 6.50 ms"
    assert interval(row()) == ""


def test_counts_and_radii():
    assert samples(row(n=1)) == "1 image"
    assert samples(row(n=7000, unit="ms")) == "7,000 samples"
    assert eps_text(8 / 255) == "8/255"
    assert eps_text(0.03) == "0.03"
