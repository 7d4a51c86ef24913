"""What is trained: the paper's defaults, and settings that exclude each other."""

import pytest
from pydantic import ValidationError

from dpet_jax import sections


def test_dpet_defaults_are_the_papers():
    method = sections.DpetMethod()
    assert method.warmup_passes == 20
    assert method.keep_fraction == 1 / 3
    assert method.query_size == 1000
    assert method.passes_per_round == 10
    assert method.dissimilarity.kind == "none"
    assert method.candidate_fraction == 1.0
    assert method.compat == "none"


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("keep_fraction", 0),
        ("keep_fraction", 1.01),
        ("candidate_fraction", 0),
        ("query_size", 0),
        ("warmup_passes", 0),
        ("max_rounds", -1),
        ("score", "zero_one"),
        ("dissimilarity", {"kind": "kl", "weight": 1.1}),
        ("keep_fraction", float("nan")),
    ],
)
def test_dpet_refuses_what_it_cannot_train_on(key, bad):
    with pytest.raises(ValidationError):
        sections.DpetMethod(**{key: bad})


@pytest.mark.parametrize("changes", [{"keep_fraction": 1}, {"max_rounds": 0}])
def test_dpet_takes_the_borders_of_its_ranges(changes):
    assert sections.DpetMethod(**changes).model_dump().items() >= changes.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "random", "dissimilarity": {"kind": "kl"}},
        {"compat": "artifact", "score": "el2n"},
        {"compat": "artifact", "score": "random"},
        {"compat": "artifact", "candidate_fraction": 0.5},
    ],
)
def test_dpet_refuses_settings_that_contradict_each_other(changes):
    with pytest.raises(ValidationError, match="value_error"):
        sections.DpetMethod(**changes)
    for key in changes:
        rest = {name: value for name, value in changes.items() if name != key}
        sections.DpetMethod(**rest)
