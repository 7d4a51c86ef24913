"""The rule by which a pre-trained network is chosen: numbers in, a table out."""

import math

import pytest

from dpet_jax.errors import UserError
from dpet_jax.pretrained.choice import (
    SCRATCH,
    Candidate,
    PoolConfig,
    amortised,
    choose,
    table_lines,
)

HALF = Candidate(SCRATCH, "ResNet-10", 0.5, 1000)


def chosen(*candidates, **keys):
    return choose([HALF, *candidates], PoolConfig(**keys))


def row(decision, name):
    return next(row for row in decision["ranked"] if row["name"] == name)


def test_the_prediction_is_flops_times_exp_of_the_gain():
    decision = chosen(Candidate("a", "x", 0.7, 3000), Candidate("b", "x", 0.6, 1000))
    assert row(decision, "a")["predicted_energy"] == pytest.approx(3 * math.exp(-0.8))
    assert row(decision, "b")["predicted_energy"] == pytest.approx(math.exp(-0.4))
    assert row(decision, SCRATCH)["predicted_energy"] == 1
    # a fits better, but a visit of it costs three times as much
    assert decision["chosen"] == "b"
    assert [one["name"] for one in decision["ranked"]] == ["b", SCRATCH, "a"]
    steep = chosen(
        Candidate("a", "x", 0.7, 3000), Candidate("b", "x", 0.6, 1000), slope=20
    )
    assert steep["chosen"] == "a"


def test_a_small_gain_is_rejected_and_then_the_run_starts_from_scratch():
    decision = chosen(Candidate("a", "x", 0.54, 100))
    assert decision["chosen"] == SCRATCH
    assert row(decision, "a")["verdict"] == (
        "rejected: gains 0.040 over random features, less than 0.05"
    )
    assert chosen(Candidate("a", "x", 0.55, 100))["chosen"] == "a"
    assert chosen(Candidate("a", "x", 0.54, 100), min_gain=0)["chosen"] == "a"


def test_among_those_within_2_percent_fewer_flops_decide():
    # 1000 exp(-0.8) and 900 exp(-4 x 0.175): 0.4493 and 0.4469
    a, b = Candidate("a", "x", 0.7, 1000), Candidate("b", "x", 0.675, 900)
    assert chosen(a, b)["chosen"] == "b"
    assert "within 2 %" in row(chosen(a, b), "a")["verdict"]
    further = Candidate("b", "x", 0.66, 900)  # 0.4746
    assert chosen(a, further)["chosen"] == "a"


def test_one_that_cannot_start_the_run_is_told_and_never_chosen():
    odd = Candidate("odd", "x", None, 10, problem="reads 1 channel")
    decision = chosen(odd, Candidate("a", "x", 0.9, 1000))
    assert decision["chosen"] == "a"
    assert row(decision, "odd")["verdict"] == "reads 1 channel"
    assert row(decision, "odd")["predicted_energy"] is None
    assert decision["ranked"][-1]["name"] == "odd"


def test_one_that_the_config_names_is_chosen_whatever_it_gains():
    decision = chosen(Candidate("a", "x", 0.1, 5000), network="a")
    assert decision["chosen"] == decision["ranked"][0]["name"] == "a"
    odd = Candidate("odd", "x", None, 10, problem="reads 1 channel")
    with pytest.raises(UserError, match=r"^pool\.network: 'odd' reads 1 channel; "):
        chosen(odd, network="odd")


def test_scores_far_apart_stay_finite():
    decision = chosen(Candidate("a", "x", -1e4, 1), Candidate("b", "x", 1e4, 1))
    assert decision["chosen"] == "b"
    assert all(math.isfinite(one["predicted_energy"]) for one in decision["ranked"])


def test_the_table_has_a_line_for_each_with_its_reason():
    lines = table_lines(chosen(Candidate("long name", "x", 0.7, 2_000_000, note="n")))
    assert lines[0].split() == [
        *("network", "knn", "gain", "MFLOPs/visit", "energy", "verdict")
    ]
    assert lines[1].startswith("scratch ")
    assert lines[2].split()[:2] == ["long", "name"]
    assert lines[2].endswith("(n)")
    assert "+0.200" in lines[2]
    assert table_lines({}) == []


def test_pretraining_is_shared_out_over_its_uses():
    assert amortised(2.0, 50.0) == {"without": 2, "1": 52, "10": 7, "100": 2.5}
    assert amortised(None, 50.0) is None
    assert amortised(2.0, None) is None
