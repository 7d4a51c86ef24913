"""Whatever a config holds, it loads or is refused in sentences."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpet_jax.config import yaml12
from dpet_jax.config.experiment import Config
from dpet_jax.config.load import COMMAND_LINE, flat, load, read_tree, validate_as
from dpet_jax.errors import UserError
from dpet_jax.suite.schema import SuiteConfig

ROOT = Path(__file__).parents[2] / "configs"
REAL = [path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.yaml"))]

# Pieces of which YAML is made, and characters that have broken a loader before.
PIECES = st.sampled_from(
    [
        *("a", "train", "kind", "on", "~", "null", "true", "1e-3", "1e400", "0o17"),
        *("010", ".nan", "-.inf", "1:30", "2020-01-31", "9" * 5000, "<<", "=", ".."),
        *(": ", ":", "- ", "? ", ", ", "\n", "\n  ", "\n    ", "\t", " ", "#", "|"),
        *("[", "]", "{", "}", "&a ", "*a", "!!int ", "!!binary ", "!x ", "!!set "),
        *('"', "'", '"\\0"', '"\\ud800"', '"\\U00110000"', "%YAML 1.2\n", "---\n"),
        *("\0", "\x85", "\u2028", "\ufeff", "\ud800", "é", "\U0001f600", "\x07", "\r"),
        *("!!python/name:", "...\n", ">", "/"),
    ]
)
TEXT = st.lists(PIECES | st.text(max_size=3), max_size=40).map("".join)


@st.composite
def mutated(draw):
    """A config that works, cut and pasted in a few places."""
    text = draw(st.sampled_from(REAL))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        to = min(len(text), at + draw(st.integers(0, 12)))
        text = text[:at] + draw(PIECES | st.text(max_size=4)) + text[to:]
    return text


KEYS = sorted({*dict(flat(Config().model_dump())), "data.path", "method.passes"})
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**24, 2**31, 1e-320, 1e39])
WORDS = st.sampled_from(KEYS) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | PIECES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(KEYS), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@st.composite
def overrides(draw):
    """A few keys of a config set to anything, as the command line does it."""
    keys = draw(
        st.lists(st.sampled_from(KEYS) | st.text("ab.", max_size=6), max_size=3)
    )
    values = [draw(TEXT | VALUES.map(yaml12.write)) for _ in keys]
    return [f"--{key}={value}" for key, value in zip(keys, values, strict=True)]


def problem(call, *arguments):
    """Return what a call returns, and the message of the error that it may raise."""
    try:
        return call(*arguments), None
    except UserError as error:
        return None, str(error)


def check(path, text, changes):
    """Load a config; what loads must survive being saved."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    config, message = problem(load, path, changes)
    if config is not None:
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert load(path) == config
    else:
        assert message.startswith((f"{path}: ", f"{COMMAND_LINE}: "))
        assert len(message) < 50_000
    _, message = problem(read_suite, path)
    assert message is None or message.startswith(f"{path}: ")


def read_suite(path):
    return validate_as(SuiteConfig, read_tree(path), str(path))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "c.yaml"


@settings(
    derandomize=True,
    deadline=None,
    max_examples=90,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(text=TEXT | mutated(), changes=overrides())
def test_any_config_loads_or_is_refused(path, text, changes):
    check(path, text, changes)
