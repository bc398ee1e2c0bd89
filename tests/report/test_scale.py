import pytest

from robustdeploy.report.scale import decades, percent_ticks, radius_texts, round_values, rows_of, zoomed


@pytest.mark.parametrize(
    ("radii", "texts", "unit"),
    [
        ([2 / 255, 8 / 255, 32 / 255], ["2", "8", "32"], "255ths"),
        ([0.025, 0.1, 0.2, 0.4], ["0.025", "0.1", "0.2", "0.4"], "[0, 1]"),
        ([0.5, 1.0, 2.0], ["0.5", "1", "2"], "[0, 1]"),
        ([], [], ""),
    ],
)
def test_radii_of_one_axis_have_one_unit(radii, texts, unit):
    found, told = radius_texts(radii)
    assert found == texts
    assert unit in told


def test_an_axis_is_zoomed_to_what_it_shows():
    assert zoomed([0.86, 0.99]) == pytest.approx((0.85, 1.0, 0.05))
    assert zoomed([0.0, 1.0]) == (0.0, 1.0, 0.2)
    assert zoomed([0.5]) == pytest.approx((0.5, 0.51, 0.01))
    assert [words for _, words in percent_ticks(0.9, 1.0, 0.05)] == ["90 %", "95 %", "100 %"]


def test_labels_that_would_touch_stand_in_rows_of_their_own():
    assert rows_of([(0.0, "0.025"), (0.06, "0.05"), (0.5, "0.2")]) == [0, 1, 0]
    assert rows_of([]) == []


def test_values_of_an_axis_are_round_and_few():
    assert round_values(1.1) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert round_values(100) == [0, 20, 40, 60, 80, 100]
    for top in (0.003, 0.7, 1, 3.3, 47, 12_345):
        values = round_values(top)
        assert 3 <= len(values) <= 6
        assert values[0] == 0
        assert 0.7 * top < values[-1] <= top * (1 + 1e-6)


def test_a_logarithmic_axis_has_few_ticks():
    assert [words for _, words in decades(0.03, 12, "ms")] == ["0.03 ms", "0.1 ms", "0.3 ms", "1 ms", "3 ms", "10 ms"]
    assert len(decades(1e-3, 1e4, "ms")) <= 8
    assert decades(2.0, 2.1, "ms")
