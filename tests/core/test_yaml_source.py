import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeploy.core.yaml_source import source_from_file, text_from_value, value_from_text
from robustdeploy.errors import RecipeError


def _value(text):
    source = value_from_text(text, "x")
    assert source.problems == []
    return source.data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("8 / 255", 8 / 255),
        ("'8/255'", "8/255"),
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("-2.5E+2", -250.0),
        ("010", 10),
        ("0x1f", 31),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        (".inf", float("inf")),
        ("{on: 1, y: [a, 2]}", {"on": 1, "y": ["a", 2]}),
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
    ],
)
def test_scalars_follow_yaml_1_2_and_fractions_are_numbers(text, value):
    found = _value(text)
    assert found == value
    assert type(found) is type(value)


def test_every_value_has_its_line_and_column():
    source = value_from_text("a:\n  b: 1\n  c:\n    - x\n    - d: 2\n", "f.yaml")
    assert str(source.mark(("a", "b"))) == "f.yaml:2:3"
    assert str(source.mark(("a", "c", 1, "d"))) == "f.yaml:5:7"
    assert str(source.mark(("a", "zzz"))) == "f.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2", "x:2:1: a: stands here a second time (first in line 1); keep one"),
        ("a:\n  b: 8/0", "x:2:6: a.b: 8/0 divides by zero"),
        ("a: !!python/object:os.system 1", "the tag tag:yaml.org,2002:python/object:os.system is not allowed"),
        ("a: !!int x", "invalid literal"),
        ("a: &b [*b]", "refers to itself"),
        ("? [a]\n: 1", "a key must be a single word"),
        ("a: " + "9" * 5000, "limit"),
    ],
)
def test_what_is_wrong_with_a_value_is_noted_with_its_place(text, sentence):
    assert sentence in "\n".join(map(str, value_from_text(text, "x").problems))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a:\n\tb: 1", "x:2:1: a tab; YAML is indented with spaces"),
        ("a: [1", "x:1:6: not valid YAML: "),
        ("a: 1\n---\nb: 2", "a second document starts here"),
        ("a: \x07", "the character"),
        ("a: *nowhere", "undefined alias"),
        ("[" * 5000, "nested deeper than 32 levels"),
        ("a: &x 1\nb: [" + "*x," * 17 + "]", "more than 16 aliases"),
    ],
)
def test_a_text_that_cannot_be_read_is_told_with_its_line(text, sentence):
    with pytest.raises(RecipeError) as caught:
        value_from_text(text, "x")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"- 1", "holds a list"),
        (b"", "holds nothing"),
        (b"# only words", "holds nothing"),
        (b"abc", "holds a single value"),
        (b"a: \xff", "not UTF-8"),
        (b"a: 1\n" * 300_000, "too large"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path, content, sentence):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(RecipeError, match=sentence):
        source_from_file(tmp_path / "f", "f")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa: 1")
    assert source_from_file(tmp_path / "f", "f").data == {"a": 1}


_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text("abony~1/<=", min_size=1), inner)
)


@given(_values)
def test_what_is_written_reads_back_equal(value):
    source = value_from_text(text_from_value(value), "x")
    assert source.problems == []
    assert source.data == value
    assert repr(source.data) == repr(value)


@given(st.text("ab:[]{}&*!-? \n\t'\"#|>%@,1/0e.~", max_size=60))
def test_any_text_is_read_or_refused_in_words(text):
    told = "x:"
    try:
        value_from_text(text, "x")
    except RecipeError as error:
        told = str(error)
    assert told.startswith("x:")
