"""What is trained: the paper's defaults, and settings that exclude each other."""

import pytest
from pydantic import ValidationError

from dpet_jax import sections
from dpet_jax.scores.pool import FEATURE_SCORES, SCORES


def test_dpet_defaults_are_the_papers():
    method = sections.DpetMethod()
    assert method.warmup_passes == 20
    assert method.keep_fraction == 1 / 3
    assert method.query_size == 1000
    assert method.passes_per_round == 10
    assert method.dissimilarity.kind == "none"
    assert method.candidate_fraction == 1.0
    assert method.compat == "none"
    assert method.proxy is None


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
        ("proxy", {"width_multiplier": 0}),
        ("proxy", {"width_multiplier": 1.5}),
        ("proxy", {"depth_multiplier": 0.5}),
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
        {"compat": "artifact", "proxy": {"width_multiplier": 0.5}},
        {"score": "random", "proxy": {"width_multiplier": 0.5}},
    ],
)
def test_dpet_refuses_settings_that_contradict_each_other(changes):
    with pytest.raises(ValidationError, match="value_error"):
        sections.DpetMethod(**changes)
    for key in changes:
        rest = {name: value for name, value in changes.items() if name != key}
        sections.DpetMethod(**rest)


def test_active_learning_refuses_a_proxy_that_would_never_be_asked():
    section = sections.ActiveLearningMethod
    settings = {"kind": "active_learning", "proxy": {}}
    with pytest.raises(ValidationError, match=r"random asks no network.*proxy at null"):
        section(score="random", **settings)
    assert section(**settings).proxy.width_multiplier == 0.25


@pytest.mark.parametrize(
    "section", [sections.DpetMethod, sections.ActiveLearningMethod]
)
def test_every_score_of_one_network_can_be_asked_for(section):
    kind = section.model_fields["kind"].annotation.__args__[0]
    for score in (*SCORES, *FEATURE_SCORES):
        if score != "zero_one":  # says whether, not how much
            assert section(kind=kind, score=score).score == score
