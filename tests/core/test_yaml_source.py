import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdeploy.core.load import load_recipe, load_target
from robustdeploy.core.yaml_source import source_from_file, text_from_value, value_from_text
from robustdeploy.errors import RecipeError
from robustdeploy.report.load import load_rules


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
        ("a: " + "9" * 5000, "a number of"),
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


def _doubled(values, levels, times):
    """Aliases of aliases: what is written is short, what it stands for is ``values * times ** levels``."""
    lines = [f"a0: &a0 [{', '.join(['x'] * values)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * times)}]" for n in range(1, levels + 1)]
    return "\n".join(lines)


BOMBS = {
    "doubled aliases": (_doubled(300, 8, 2), "more than 20,000 values"),
    "aliases by four": (_doubled(500, 4, 4), "more than 20,000 values"),
    "one long list, often": (f"a: &a [{'x,' * 15_000}]\nb: [{'*a,' * 16}]", "more than 20,000 values"),
    "many aliases": (f"a: &a 1\nb: [{'*a,' * 17}]", "more than 16 aliases"),
    "itself": ("a: &a [*a]", "refers to itself"),
    "a long list": (f"a: [{'x,' * 500_000}]", "more than 20,000 values"),
    "many keys": ("".join(f"k{n}: 1\n" for n in range(60_000)), "more than 20,000 values"),
    "deep lists": ("a: " + "[" * 100_000, "nested deeper than 32"),
    "deep mappings": ("a: " + "{a: " * 100_000, "nested deeper than 32"),
    "deep keys": ("? " * 100_000, "nested deeper than 32"),
    "digits": (f"a: {'9' * 1_000_000}", "a number of 1,000,000 characters"),
    "negative digits": (f"a: -{'9' * 5000}", "a number of 5,001 characters"),
    "hexadecimal digits": (f"a: 0x{'f' * 1_000_000}", "a number of 1,000,002 characters"),
    "octal digits": (f"a: 0o{'7' * 1_000_000}", "a number of 1,000,002 characters"),
    "decimals": (f"a: 1.{'9' * 1_000_000}", "a number of 1,000,002 characters"),
    "an exponent": (f"a: 1e{'9' * 1000}", "a number of 1,002 characters"),
    "a fraction": (f"a: {'8' * 5000}/{'3' * 5000}", "a number of 10,001 characters"),
    "a key twice": ("a: 1\nb: {c: 1, c: 2}", "b.c: stands here a second time (first in line 2)"),
    "merged keys": ("a: &a {b: 1}\nc: {<<: *a}", "c.<<: keys are not merged here"),
    "an object": ("a: !!python/object/apply:os.system [id]", "is not allowed"),
    "a set": ("a: !!set {b}", "is not allowed"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_short_sentence_at_once(name):
    text, words = BOMBS[name]
    began = time.process_time()
    try:
        (told,) = map(str, value_from_text(text, "x").problems)
    except RecipeError as error:
        told = str(error)
    assert words in told
    assert told.startswith("x:")
    assert len(told) < 200
    assert "\n" not in told
    assert time.process_time() - began < 10


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("load", [load_recipe, load_target, load_rules])
@pytest.mark.alike(20)
def test_every_reader_of_yaml_refuses_bombs(tmp_path, load, name):
    (tmp_path / "x.yaml").write_text("a9: b\n" + BOMBS[name][0] if name != "deep keys" else BOMBS[name][0])
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "x.yaml")
    assert all(len(line) < 500 for line in caught.value.args)


OVERRIDES = {
    ".".join(["net"] + ["a"] * 20_000) + "=1": "leads deeper than 32 levels",
    "seed=" + "9" * 100_000: "a number of 100,000 characters",
    "seed=0x" + "f" * 100_000: "a number of 100,002 characters",
    "data=" + "[" * 50_000: "nested deeper than 32 levels",
    f"evaluate.attacks.{'9' * 10_000}=1": "there is no item 99999999999999999999; it has 5",
    "x" * 100_000 + "=1": "unknown key",
    "budget.ops=1" + " " * 100_000 + "x": "must be a fraction",
    "budget.memory=" + "1" * 100_000 + "x": "must be a fraction",
    "threat.eps='8" + " " * 100_000 + "/x'": "must be a number",
    "train={epochs: 1, epochs: 2}": "stands here a second time",
    "train={<<: {epochs: 1}}": "keys are not merged here",
    "data.path={a: &a [1, 2], b: &b [*a, *a, *a], c: [*b, *b, *b]}": "must be a path",
}


@pytest.mark.parametrize("override", OVERRIDES, ids=range(len(OVERRIDES)))
def test_an_override_is_no_way_to_a_bomb(override):
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits-resnet8", [override])
    assert OVERRIDES[override] in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.process_time() - began < 10
