from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from robustdeploy.core.amount import Amount, Bytes, absolute
from robustdeploy.core.load import load_recipe
from robustdeploy.core.recipe import Budget
from robustdeploy.errors import RecipeError

COUNT, BYTES = TypeAdapter(Amount), TypeAdapter(Bytes)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (0.3, 0.3),
        ("0.3", 0.3),
        ("30%", 0.3),
        (" 30 % ", 0.3),
        ("100%", 1.0),
        (1, 1.0),
        ("8/255", 8 / 255),
        (7, 7.0),
        (12_200_000, 12_200_000.0),
        ("12.2M", 12_200_000.0),
        ("64k", 64_000.0),
        ("64K", 64_000.0),
        ("1.5G", 1.5e9),
        ("1e7", 1e7),
        ("0.5k", 500.0),
    ],
)
def test_an_amount_is_a_fraction_or_a_number(given, means):
    assert COUNT.validate_python(given) == means == BYTES.validate_python(given)


@pytest.mark.parametrize(
    ("given", "means"),
    [("64KiB", 65536.0), ("1.5MiB", 1.5 * 2**20), ("2GiB", 2.0**31), ("64kB", 64e3), ("9B", 9.0)],
)
def test_bytes_have_units_of_their_own(given, means):
    assert BYTES.validate_python(given) == means
    with pytest.raises(ValidationError):
        COUNT.validate_python(given)


@pytest.mark.parametrize("kind", [COUNT, BYTES])
@pytest.mark.parametrize(
    "given",
    [
        0,
        -1,
        1.5,
        "1.5",
        "3/2",
        "0%",
        "150%",
        "100.1%",
        "0.0001k",
        "0.5B",
        "1B",
        "half",
        "",
        "12.2X",
        "1M2",
        "nan",
        "-8/255",
        float("nan"),
        float("inf"),
    ],
)
def test_anything_else_is_refused_with_the_value_and_the_forms(kind, given):
    with pytest.raises(ValidationError) as caught:
        kind.validate_python(given)
    (error,) = caught.value.errors()
    assert "must be a fraction above 0 and at most 1, or a whole number above 1, such as 0.3, 30% or" in error["msg"]
    assert error["msg"].endswith("not " + (f"{3 / 2}" if given == "3/2" else "1.5" if given == "1.5" else repr(given)))


@given(st.integers(1, 9999), st.integers(0, 3), st.sampled_from(["k", "M", "G"]))
def test_decimal_units_are_exact(digits, places, unit):
    """In binary, 12.2 million is not 12.2 times a million."""
    text = f"{digits / 10**places:.{places}f}"
    exact = Fraction(text) * {"k": 10**3, "M": 10**6, "G": 10**9}[unit]
    if exact > 1:
        assert Fraction(COUNT.validate_python(text + unit)) == exact


def test_an_absolute_limit_is_itself_and_a_fraction_is_one_of_the_dense_net():
    assert absolute(0.25, 1000) == 250
    assert absolute(1.0, 1000) == 1000
    assert absolute(4000.0, 1000) == 4000


def test_a_recipe_takes_every_form_and_says_it_in_words(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: t\nbudget: {ops: 30%, params: 64k}\n")
    budget = load_recipe(path, ["budget.ops=12.2M", "budget.memory=1.5MiB"], registries=None).budget
    assert budget.amounts == {"ops": 12_200_000.0, "params": 64_000.0, "memory": 1_572_864.0}
    assert str(budget) == "operations 12,200,000, parameters 64,000, bytes of activation memory 1,572,864"
    assert str(Budget(ops=0.3)) == "operations 0.3"
    assert (Budget().amounts, str(Budget())) == ({}, "everything")


@pytest.mark.parametrize("amount", ["true", "[0.5]"])
def test_what_is_no_number_at_all_is_said_to_be_none(tmp_path, amount):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: t\n")
    with pytest.raises(RecipeError, match=r"--set budget.ops=.*: budget.ops: must be a number, not (true|a list of 1)"):
        load_recipe(path, [f"budget.ops={amount}"], registries=None)
