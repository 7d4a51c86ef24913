"""What a suite may be called, and how much it may try."""

import pytest

from dpet_jax.config.load import validate_as
from dpet_jax.errors import UserError
from dpet_jax.suite.schema import Axis, SuiteConfig


def suite(**changes):
    keys = {"name": "s", "base": "b.yaml", "seeds": [0], "targets": [0.5]}
    return keys | {"variants": {"a": {}}} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "x" * 256}, "name: 'xxx.*256 bytes"),
        ({"name": "a/b"}, "name: .*pattern"),
        ({"name": "a\0b"}, "name: .*pattern"),
        ({"name": ".."}, "name: .*pattern"),
        ({"variants": {"x" * 256: {}}}, "variants.*256 bytes"),
        ({"variants": {"..": {}}}, "variants.*pattern"),
        ({"base": "b\0.yaml"}, "base: .*control character"),
        ({"base": "x" * 256}, "base: 'xxx.*256 bytes"),
        ({"seeds": [0.5]}, "seeds.0: .*fractional"),
        ({"seeds": ["0"]}, "seeds.0: must be a number"),
        ({"targets": [1e-40]}, "targets.0: must be at least 1e-30"),
    ],
)
def test_names_and_numbers_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UserError, match=f"^x: {words}") as caught:
        validate_as(SuiteConfig, suite(**changes), "x")
    assert len(str(caught.value)) < 400


def test_a_grid_that_nobody_could_try_is_refused():
    def tuned(*lengths):
        grid = {f"k{i}": [*range(n)] for i, n in enumerate(lengths)}
        return suite(variants={"a": {"tune": {"grid": grid, "seeds": [9]}}})

    validate_as(SuiteConfig, tuned(10, 10, 10), "x")
    with pytest.raises(UserError, match="grid: 1,001 combinations"):
        validate_as(SuiteConfig, tuned(7, 11, 13), "x")
    with pytest.raises(UserError, match=r"combinations.*give fewer values"):
        validate_as(SuiteConfig, tuned(*[10] * 30), "x")


def at_end(**changes):
    variant = {"role": "tuned", "horizons": {"method.passes": [2, 4]}} | changes
    return suite(read="end", variants={"a": variant})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (suite(read="end", variants={"a": {"role": "tuned"}}), "variants.a.horizons"),
        (at_end(role=None), "read is end, but no variant has role tuned"),
        (at_end(horizons={"a.b": [1, 2], "c.d": [1, 2]}), "variants.a: .*2 keys"),
        (at_end(horizons={"a.b": [1]}), "variants.a.horizons: .*at least 2"),
        (at_end(horizons={"a.b": [1, 1]}), "variants.a: .*holds one twice"),
        (at_end(horizons={"a.b": [0, 1]}), "variants.a.horizons.*greater than 0"),
        (at_end(tune={"grid": {"x": [1]}, "seeds": [9]}), "tune.at: None is none of"),
        (
            at_end(tune={"grid": {"x": [1]}, "seeds": [9], "at": 3}),
            "variants.a: .*tune.at: 3 is none of the horizons; choose one of 2, 4",
        ),
        (
            at_end(tune={"grid": {"method.passes": [1]}, "seeds": [9], "at": 2}),
            "variants.a: .*tune.grid.method.passes: horizons has it",
        ),
        (suite(variants={"a": {"arm": "b"}}), "variants.a.arm: .*set read: end"),
        (
            suite(variants={"a": {"horizons": {"a.b": [1, 2]}}}),
            "variants.a.horizons: .*set read: end",
        ),
        (
            suite(
                variants={"a": {"tune": {"grid": {"x": [1]}, "seeds": [9], "at": 3}}}
            ),
            "variants.a.tune.at: .*set read: end",
        ),
        (
            suite(
                variants={
                    "a": {"tune": {"grid": {"x": ["y"]}, "seeds": [9], "grow": 1}}
                }
            ),
            "variants.a.tune: .*grow: no key of the grid has two or more",
        ),
    ],
)
def test_what_does_not_fit_the_way_of_reading_is_refused(keys, words):
    with pytest.raises(UserError, match=rf"(?s){words}"):
        validate_as(SuiteConfig, keys, "x")


def test_a_horizon_stays_the_number_it_is():
    read = validate_as(SuiteConfig, at_end(horizons={"a.b": [2, 4.5]}), "x")
    assert repr(read.variants["a"].horizons) == "{'a.b': (2, 4.5)}"


@pytest.mark.parametrize(
    ("given", "grow", "expected"),
    [
        ([0.1, 0.2, 0.4], 2, ((0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), 2, 2)),
        ([0.1, 0.3], 1, ((0.0333333, 0.1, 0.3, 0.9), 1, 1)),
        ([2, 4, 6], 2, ((1, 2, 4, 6, 9, 14), 1, 2)),
        ([0.1, 0.2], 0, ((0.1, 0.2), 0, 0)),
        ([0.2, 0.1], 1, ((0.2, 0.1), 0, 0)),
        ([0.1, "x"], 1, ((0.1, "x"), 0, 0)),
        ([0, 1], 1, ((0, 1), 0, 0)),
        ([True, False], 1, ((True, False), 0, 0)),
        ([0.1], 1, ((0.1,), 0, 0)),
    ],
)
def test_a_row_of_numbers_goes_on_in_its_ratio(given, grow, expected):
    assert Axis.of(given, grow) == expected
