"""What a suite's file may say."""

import pytest
from pydantic import ValidationError

from dpet_jax.suite.schema import SuiteConfig

SUITE = {
    "name": "some",
    "base": "base.yaml",
    "seeds": [0, 1],
    "targets": [0.5],
    "variants": {"one": {}, "two": {"role": "random"}},
}


def test_a_suite_needs_no_more_than_this():
    suite = SuiteConfig.model_validate(SUITE)
    assert suite.variants["one"].role is None
    assert suite.variants["two"].tune is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "at least 1"),
        ({"variants": {"plots": {}}}, r"variants\.plots: the folder is compare's own"),
        ({"variants": {"../x": {}}}, "should match pattern"),
        (
            {"variants": {"a": {"role": "tuned"}, "b": {"role": "tuned"}}},
            r"variants\.b\.role: tuned is a's already",
        ),
        ({"seeds": [3, 3]}, r"seeds: \[3, 3\] holds one twice"),
        ({"seeds": []}, "at least 1"),
        ({"targets": []}, "at least 1"),
        (
            {"variants": {"a": {"tune": {"grid": {"seed": [1]}, "seeds": [9, 1]}}}},
            r"variants\.a\.tune\.seeds: 1 is reported as well",
        ),
        ({"variants": {"a": {"tune": {"grid": {}, "seeds": [9]}}}}, "at least 1"),
        (
            {"variants": {"a": {"tune": {"grid": {"x": []}, "seeds": [9]}}}},
            "at least 1",
        ),
    ],
)
def test_what_makes_no_suite_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        SuiteConfig.model_validate(SUITE | changes)
