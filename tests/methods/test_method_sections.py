"""What is trained: the paper's defaults, and settings that exclude each other."""

import pytest
from pydantic import ValidationError

from dpet_jax.config import experiment as schema
from dpet_jax.methods import sections
from dpet_jax.scores.registry import selectable_scores


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
        {"compat": "artifact", "diversity": {"kind": "badge"}},
        {"score": "random", "diversity": {"kind": "k_center"}},
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
    for score in selectable_scores():
        assert section(kind=kind, score=score).score == score


# one-shot and dynamic methods


@pytest.mark.parametrize(
    "changes",
    [
        {"by": "el2n", "weighted": True},
        {"by": "craig", "networks": 2},
        {"by": "random", "networks": 2},
        {"by": "random", "proxy": {}},
        {"by": "forgetting", "choose_every": 5},
        {"by": "forgetting", "pretrain_passes": 0},
        {"by": "el2n", "choose_every": 5, "networks": 2},
        {"by": "el2n", "choose_every": 5, "proxy": {}},
    ],
)
def test_one_shot_refuses_settings_that_contradict_each_other(changes):
    section = sections.OneShotMethod
    with pytest.raises(ValidationError, match="value_error"):
        section(kind="one_shot", **changes)
    for key in changes.keys() - {"by"}:
        rest = {name: value for name, value in changes.items() if name != key}
        if rest != {"by": "random", "proxy": {}}:
            section(kind="one_shot", **rest)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        (sections.OneShotMethod, {"by": "zero_one"}),
        (sections.OneShotMethod, {"keep_fraction": 0}),
        (sections.OneShotMethod, {"networks": 0}),
        (sections.InfoBatchMethod, {"prune_probability": 1}),
        (sections.InfoBatchMethod, {"annealing_start": 0}),
        (sections.LossThresholdMethod, {"threshold_per": "epoch"}),
        (sections.LossThresholdMethod, {"refresh_every": 0}),
        (sections.LossThresholdMethod, {"prune_fraction": 0.6, "drop_highest": 0.4}),
        (sections.StaleSelectiveBackpropMethod, {"beta": -1}),
        (sections.SelectiveBackpropMethod, {"look_ahead": 0}),
        (sections.EpsilonGreedyMethod, {"epsilon": 1.1}),
    ],
)
def test_methods_refuse_what_they_cannot_do(section, changes):
    kind = section.model_fields["kind"].annotation.__args__[0]
    section(kind=kind)
    with pytest.raises(ValidationError):
        section(kind=kind, **changes)


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "infobatch"},
        {"kind": "selective_backprop"},
        {"kind": "one_shot", "choose_every": 3},
    ],
)
def test_a_horizon_in_epochs_is_refused_where_the_method_has_its_own(method):
    schedule = {"schedule": {"kind": "cosine", "horizon": 12.5}}
    with pytest.raises(ValidationError, match="leave it at plan"):
        schema.Config(method=method, train=schedule)
    schema.Config(method=method)
    schema.Config(method={"kind": "one_shot"}, train=schedule)


def test_methods_with_a_schedule_of_their_own_are_all_of_the_dynamic_ones():
    kinds = {
        section.model_fields["kind"].annotation.__args__[0]
        for section in sections._DynamicMethod.__subclasses__()
    }
    assert kinds == set(schema.PACED_METHODS)
