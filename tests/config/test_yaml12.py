"""YAML 1.2's core schema within limits, against tables of its specification."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.config import yaml12

# Of section 10.3.2 of the specification, and what YAML 1.1 would make of them.
SCALARS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{"0": 0, "-19": -19, "+7": 7, "010": 10, "0o17": 15, "0x3A": 58},
    **{"0.": 0.0, "-0.0": -0.0, ".5": 0.5, "+12e03": 12e3, "-2E+05": -2e5},
    **{".inf": math.inf, "-.Inf": -math.inf, "+.INF": math.inf, "1e400": math.inf},
    **{
        word: word
        for word in (
            *("on", "off", "yes", "no", "y", "nUll", "tRUE", "nan", "inf", "="),
            *("1:30", "1_000", "0b1", "2020-01-31", "0x", "0o8", "1e", ".", "+"),
        )
    },
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_is_what_the_core_schema_says(text):
    for value in (yaml12.read(text), yaml12.read(f"a: [{text or '~'}]")["a"][0]):
        assert (type(value), repr(value)) == (
            type(SCALARS[text]),
            repr(SCALARS[text]),
        )
    assert yaml12.read(f"'{text}'") == text
    assert yaml12.read(f"!!str {text}") == text


def test_nan_is_a_number():
    assert math.isnan(yaml12.read(".nan"))


def test_keys_are_text_as_it_is_written():
    assert yaml12.read("{1: a, on: b, ~: c, 1.0: d, 'x y': e}") == {
        **{"1": "a", "on": "b", "~": "c", "1.0": "d", "x y": "e"},
    }


def test_an_alias_gives_a_copy_of_its_own():
    found = yaml12.read("a: &x {b: [1]}\nc: *x\nd: *x")
    assert found["a"] == found["c"] == found["d"] == {"b": [1]}
    found["c"]["b"].append(2)
    assert found["a"] == found["d"] == {"b": [1]}


NINE = "[" + ",".join(["*{0}"] * 9) + "]"
BOMB = "a: &a [x]\n" + "".join(
    f"{new}: &{new} {NINE.format(old)}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "bomb of lists": (BOMB, "expand to more than"),
    "bomb of text": ("- &a " + "x" * 40_000 + "\n- *a\n- *a", "line 3, column 3"),
    "within itself": ("a: &a {b: *a}", "*a refers to nothing"),
    "list within itself": ("&a [*a]", "*a refers to nothing"),
    "no anchor": ("*a", "*a refers to nothing"),
    "depth of brackets": ("[" * 5000, "nested more than 20 deep"),
    "depth of dashes": ("- " * 5000 + "x", "nested more than 20 deep"),
    "depth of keys": (
        "\n".join(" " * i + "a:" for i in range(400)),
        "line 22, column 22: nested more than 20 deep",
    ),
    "length": ("#" * 100_001, "more than 100,000 characters"),
    "twice": ("a: 1\nb: 2\n'a': 3", "line 3, column 1: a is given twice"),
    "list for a key": ("{[a]: b}", "a key must be a word"),
    "mapping for a key": ("? {a: b}\n: c", "a key must be a word"),
    "alias for a key": ("a: &b c\n*b : d", "a key must be a word"),
    "int that is none": ("!!int abc", "'abc' is no int"),
    "bool that is none": ("!!bool 1", "'1' is no bool"),
    "null that is none": ("!!null x", "'x' is no null"),
    "date": ("!!timestamp x", "unknown tag 'tag:yaml.org,2002:timestamp'"),
    "bytes": ("!!binary '='", "unknown tag 'tag:yaml.org,2002:binary'"),
    "set": ("!!set {a, b}", "unknown tag 'tag:yaml.org,2002:set'"),
    "ordered": ("!!omap [a: 1]", "unknown tag 'tag:yaml.org,2002:omap'"),
    "object": ("!!python/name:os.system", "unknown tag"),
    "tag of one's own": ("!a b", "unknown tag '!a'"),
    "half a character": (r'"\ud800"', r"control character '\ud800'"),
    "NUL": (r'a: "b\0"', r"line 1, column 4: the control character '\x00'"),
    "NUL in a key": (r'"b\0": 1', r"control character '\x00'"),
    "raw NUL": ("a: \0", "special characters are not allowed"),
    "no character": (r'"\U00110000"', "chr() arg"),
    "no character at all": (r'"\UFFFFFFFF"', "too large"),
    "version": ("%YAML " + "9" * 5000 + ".1\n---\na", "4300 digits"),
    "two documents": ("a: 1\n---\nb: 2", "line 2, column 1: a second document"),
    "unclosed": ("a: [", "line 1, column 5"),
    "tab": ("a:\n\tb: 1", "line 2, column 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_data_is_refused_in_one_line(name):
    text, words = REFUSED[name]
    with pytest.raises(yaml12.NotYamlError) as caught:
        yaml12.read(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_numbers_of_many_digits_are_no_trap():
    assert yaml12.read("9" * 400) == int("9" * 400)
    assert yaml12.read("9" * 5000) == math.inf
    assert yaml12.read("0x" + "f" * 5000) == "0x" + "f" * 5000


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["C"]))
    | st.sampled_from([*SCALARS]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab 1e:#", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(PLAIN)
def test_what_is_written_reads_back_in_either_version(plain):
    text = yaml12.write(plain)
    assert repr(yaml12.read(text)) == repr(plain)
    assert repr(yaml.safe_load(text)) == repr(plain)
