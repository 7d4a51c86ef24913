"""What a suite may be called, and how much it may try."""

import pytest

from dpet_jax.config.load import validate_as
from dpet_jax.errors import UserError
from dpet_jax.suite.schema import SuiteConfig


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
