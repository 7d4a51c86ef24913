"""Searches on functions whose optimum is known: nothing here trains anything."""

import math
import statistics

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpet_jax.errors import UserError
from dpet_jax.suite.searchers.axis import Axis
from dpet_jax.suite.searchers.base import Observed
from dpet_jax.suite.searchers.brackets import (
    Halving,
    Hyperband,
    described,
    filled,
    standing,
)
from dpet_jax.suite.searchers.by_name import NAMES, search_of, searches_of
from dpet_jax.suite.searchers.gp import (
    Gp,
    expected_improvement,
    probability_of_improvement,
)
from dpet_jax.suite.tuning import ask

RATE = Axis("train.optimizer.learning_rate", low=0.001, high=1.0, log=True)
DECAY = Axis("train.optimizer.weight_decay", low=0.0, high=1.0)
BOWL = (RATE, DECAY)
TRIED = Observed({}, 0.5, 1.0)
QUICK = Gp(restarts=0, candidates=400)


def bowl(values):
    """Fall away smoothly from 1 at a rate of 0.063 and a decay of 0.3."""
    rate, decay = values[RATE.key], values[DECAY.key]
    return 1 - ((math.log10(rate) + 1.2) / 3) ** 2 - (decay - 0.3) ** 2


def play(search, axes, objective, count, *, seed=0, cost=lambda _: 1.0):
    """Search a function instead of training."""
    space, past = search.space(axes), []
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        study.sampler = search.sampler(10_007 * seed + number)
        trial = ask(study, search, space, past, seed)
        values = dict(trial.params)
        accuracy = objective(values)
        if accuracy is None:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, accuracy)
        past.append(Observed(values, accuracy, cost(values)))
    return past


def best(past):
    return max(one.accuracy for one in past if one.accuracy is not None)


# who finds more


def test_random_search_finds_the_expected_best_of_so_many_draws():
    table = [0.1, 0.2, 0.3, 0.5, 0.9]  # stored results, one setting each
    axis = Axis("setting", tuple("abcde"))
    stored = dict(zip("abcde", table, strict=True))
    draws, searches = 3, 150
    cdf = [((k + 1) / 5) ** draws - (k / 5) ** draws for k in range(5)]
    wanted = sum(value * p for value, p in zip(table, cdf, strict=True))
    found = [
        best(
            play(
                search_of("random"), (axis,), lambda v: stored[v["setting"]], 3, seed=s
            )
        )
        for s in range(searches)
    ]
    spread = statistics.stdev(found) / math.sqrt(searches)
    assert abs(statistics.mean(found) - wanted) < 3 * spread


@pytest.mark.parametrize(("search", "gain"), [(QUICK, 10.0), (search_of("tpe"), 1.0)])
def test_a_model_of_what_was_tried_finds_more_on_a_bowl_than_chance(search, gain):
    seeds = range(3 if search is QUICK else 7)

    def regret(searched):
        found = [1 - best(play(searched, BOWL, bowl, 18, seed=s)) for s in seeds]
        return statistics.median(found)

    assert gain * regret(search) < regret(search_of("random"))


def test_a_search_that_minds_the_cost_leaves_dear_settings_alone():
    axis = Axis("x", low=0.0, high=1.0)  # as good at 0.25 as at 0.75, where it is dear

    def spent(search, seed):
        past = play(
            search,
            (axis,),
            lambda v: 1 - min(abs(v["x"] - 0.25), abs(v["x"] - 0.75)),
            12,
            seed=seed,
            cost=lambda v: 10.0 if v["x"] > 0.5 else 1.0,
        )
        assert best(past) > 0.98
        return sum(one.cost for one in past[QUICK.initial :])

    mindful = QUICK.model_copy(update={"per_cost": True})
    plain, careful = (
        sum(spent(search, seed) for seed in range(3)) for search in (QUICK, mindful)
    )
    assert careful < 0.5 * plain


def test_where_all_cost_the_same_minding_it_changes_nothing():
    mindful = QUICK.model_copy(update={"per_cost": True})
    plain, careful = (
        [one.values for one in play(search, BOWL, bowl, 7)]
        for search in (QUICK, mindful)
    )
    assert careful == plain


def test_settings_that_diverge_are_left_behind_and_stop_nothing():
    def diverging(values):
        return None if values[RATE.key] > 0.1 else bowl(values)

    for search in (QUICK, QUICK.model_copy(update={"per_cost": True})):
        past = play(search, BOWL, diverging, 14)
        assert 0 < sum(one.accuracy is None for one in past) < 7
        assert best(past) > 0.97
    nothing = play(QUICK, BOWL, lambda _: None, 7)
    assert len(nothing) == 7


def test_what_another_worker_is_trying_is_not_tried_again():
    past = play(QUICK, BOWL, bowl, 8)
    first = QUICK.point(BOWL, past, 0)
    pending = [*past, Observed(first, None, None)]
    second = QUICK.point(BOWL, pending, 0)
    apart = [
        axis.share_of(first[axis.key]) - axis.share_of(second[axis.key])
        for axis in BOWL
    ]
    assert max(map(abs, apart)) > 0.02


def test_choices_are_tried_once_each_and_words_are_equally_far_apart():
    axes = (Axis("batch", ("16", "32", "64")), Axis("kind", ("sgd", "adam")))
    worth = {"16": 0.1, "32": 0.2, "64": 0.3, "sgd": 0.0, "adam": 0.5}
    search = Gp(initial=1, restarts=0, candidates=100)
    past = play(search, axes, lambda v: worth[v["batch"]] + worth[v["kind"]], 6)
    assert len({tuple(one.values.values()) for one in past}) == 6


def test_improvement_by_hand():
    mean, deviation = np.array([0.6, 0.4, 0.6, 0.4]), np.array([0.1, 0.1, 0.0, 0.0])
    gain = expected_improvement(mean, deviation, 0.5)
    # z = 1: 0.1 x 0.841345 + 0.1 x 0.241971; z = -1: less 0.1 x 0.158655
    np.testing.assert_allclose(gain, [0.1083316, 0.0083316, 0.1, 0.0], atol=1e-6)
    chance = probability_of_improvement(mean[:2], deviation[:2], 0.5)
    np.testing.assert_allclose(chance, [0.841345, 0.158655], atol=1e-6)


# axes


@given(
    axis=st.sampled_from(
        [
            RATE,
            DECAY,
            Axis("n", low=1.0, high=9.0, whole=True),
            Axis("c", ("a", "b", "c")),
        ]
    ),
    share=st.floats(0, 1),
)
@settings(max_examples=30, deadline=None)
def test_a_place_on_an_axis_is_a_value_of_it_and_back(axis, share):
    value = axis.value_at(share)
    back = axis.share_of(value)
    assert 0 <= back <= 1
    if axis.choices:
        assert value in axis.choices
    elif axis.whole:
        assert isinstance(value, int)
        assert axis.low <= value <= axis.high
    else:
        assert back == pytest.approx(share, abs=1e-9)


def test_whole_numbers_and_choices_have_equal_parts_of_an_axis():
    axis = Axis("n", low=1.0, high=4.0, whole=True)
    assert [axis.value_at(s) for s in (0.0, 0.24, 0.26, 0.51, 0.76, 1.0)] == [
        *(1, 1, 2, 3, 4, 4)
    ]
    words = Axis("c", ("a", "b"))
    assert [words.value_at(s) for s in (0.0, 0.49, 0.51, 1.0)] == ["a", "a", "b", "b"]


# brackets


def test_hyperband_has_the_brackets_of_the_paper():
    search = Hyperband(eta=3, stops=5)  # 81 units of resource, of which 1 is the least
    assert search.sizes == (81, 34, 15, 8, 5)
    found, first = [], 0
    while first < search.round_size:
        bracket = search.bracket(first)
        assert bracket.first == first
        found.append([*zip(bracket.sizes, bracket.shares, strict=True)])
        first += bracket.sizes[0]
    units = [[(size, round(81 * share)) for size, share in each] for each in found]
    assert units == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    assert first == search.round_size == 143
    # the next round is the same again
    assert search.bracket(143 + 81)._replace(first=81) == search.bracket(81 + 33)


def test_a_bracket_costs_the_new_parts_of_its_trials():
    (nine, five, three) = (Hyperband().bracket(first) for first in (0, 9, 14))
    assert nine.cost == pytest.approx(9 / 9 + 3 * 2 / 9 + 2 / 3)
    assert five.cost == pytest.approx(5 / 3 + 2 / 3)
    assert three.cost == 3
    assert described(Hyperband()) == (
        "17 trials a round, which cost 7.7 whole runs: 9 to 11.1 % > 3 to 33.3 % > 1 "
        "to 100 %; 5 to 33.3 % > 1 to 100 %; 3 to 100 %"
    )
    assert Halving().bracket(13) == nine._replace(first=9)
    assert Halving(size=4, stops=2).bracket(0).sizes == (4, 1)
    assert described(search_of("tpe")) is None


FOUR = Halving(eta=2, stops=3).bracket(0)  # 4 trials, 2 and 1 of which go on


@pytest.mark.parametrize(
    ("reached", "goals", "out"),
    [
        ([], [], set()),
        ([[0.1], [0.2], [0.3]], [0, 0, 0], set()),  # one was not begun yet
        ([[0.1], [0.2], [0.3], []], [0, 0, 0, 0], set()),  # or is on its way
        ([[0.1], [0.4], [0.3], [0.2]], [0, 1, 1, 0], {0, 3}),
        ([[0.4], [0.4], [0.4], [0.4]], [1, 1, 0, 0], {2, 3}),  # the first of equals
        ([[0.1], [0.4, 0.5], [0.3], [0.2]], [0, 1, 1, 0], {0, 3}),
        ([[0.1], [0.4, 0.5], [0.3, 0.6], [0.2]], [0, 1, 2, 0], {0, 1, 3}),
        ([[0.1], [0.4, 0.5], [0.3, 0.6, 0.7], [0.2]], [0, 1, 2, 0], {0, 1, 3}),
        ([[None] * 3, [None] * 3, [0.3], [None] * 3], [0, 0, 1, 0], {0, 1, 3}),
        ([[None] * 3] * 4, [0, 0, 0, 0], {0, 1, 2, 3}),
        ([[0.1], [0.4, None, None], [0.3, 0.6], [0.2]], [0, 1, 2, 0], {0, 1, 3}),
    ],
)
def test_the_best_go_on_when_all_have_come_so_far(reached, goals, out):
    assert standing(FOUR, reached) == (goals, out)


def test_a_run_that_has_ended_early_stands_at_later_stops_as_it_ended():
    assert filled(FOUR, [0.9], ended=True) == [0.9, 0.9, 0.9]
    assert filled(FOUR, [0.1, None], ended=True) == [0.1, None, None]
    assert filled(FOUR, [0.1], ended=False) == [0.1]
    assert filled(FOUR, [], ended=False) == []


# as the study searched

BETAS = (
    Axis("train.optimizer.learning_rate", low=1e-5, high=0.1, log=True),
    Axis("train.optimizer.b1", low=0.1, high=0.999),
    Axis("train.optimizer.b2", low=0.8, high=0.999),
)


def test_the_grid_of_the_study_leaves_the_upper_end_out_and_repeats_nothing():
    grid = search_of("study_grid")
    space = grid.space(BETAS)
    assert space[0].choices == ("1e-05", "0.02001", "0.04001", "0.06", "0.08")
    assert grid.points(space) == 125
    drawn = [grid.point(space, [TRIED] * k, 3) for k in range(125)]
    assert len({tuple(values.values()) for values in drawn}) == 125
    order = [[*axis.choices].index(drawn[0][axis.key]) for axis in space]
    other = grid.point(space, [], 4)
    assert order != [0, 0, 0] or other != drawn[0]  # not from its corner


def test_a_grid_of_ranges_has_both_ends_and_goes_row_by_row():
    grid = search_of("{kind: grid, values: 3}")
    space = grid.space((RATE, Axis("n", low=1.0, high=2.0, whole=True)))
    assert space[0].choices == ("0.001", "0.03162", "1")
    assert space[1].choices == ("1", "2")  # of whole numbers there are no more
    rows = [tuple(grid.point(space, [TRIED] * k, 0).values()) for k in range(6)]
    assert rows[:3] == [("0.001", "1"), ("0.001", "2"), ("0.03162", "1")]
    with pytest.raises(UserError, match="a grid of 1,000,000,000 points"):
        search_of("{kind: grid, values: 1000}").space(BETAS)


def test_the_study_drew_rates_evenly_and_did_not_set_b2():
    search = search_of("study_random")
    rates = [one.values[BETAS[0].key] for one in play(search, BETAS, lambda _: 0.5, 40)]
    assert statistics.median(rates) > 0.02  # by equal factors it would be 0.001
    values = {axis.key: "0.9" for axis in BETAS}
    assert [*search.applied(values)] == [axis.key for axis in BETAS[:2]]
    assert search_of("random").applied(values) == values


def test_the_study_went_by_the_probability_of_improvement_after_one_setting():
    study = search_of("study")
    space = study.space(BETAS)
    assert study.point(space, [], 0) is None
    past = play(study, BETAS, lambda v: 1 - abs(v[BETAS[1].key] - 0.6), 4)
    again = play(study, BETAS, lambda v: 1 - abs(v[BETAS[1].key] - 0.6), 4)
    assert [one.values for one in past] == [one.values for one in again]
    # nothing explores: what it takes is close to the best, where it is most likely
    assert abs(past[-1].values[BETAS[1].key] - 0.6) < 0.25


# names


def test_every_name_is_a_search_of_that_name():
    assert [search_of(name).name for name in NAMES] == [*NAMES]


def test_keys_that_are_not_as_usual_are_in_the_name():
    found = searches_of(
        "tpe, {kind: hyperband, eta: 4}, {kind: gp, per_cost: true, initial: 3}, "
        "{kind: grid, values: 4, shuffle: true}"
    )
    assert [search.name for search in found] == [
        *("tpe", "hyperband_eta=4", "energy_aware_initial=3", "grid_values=4_shuffle")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpee", "unknown 'tpee'; one of tpe, random, grid"),
        ("{kind: hyperband, et: 4}", "did you mean"),
        ("{kind: hyperband, eta: 1}", "greater than or equal to 2"),
        ("{kind: gp", "not YAML"),
        ("5", "where keys are needed"),
    ],
)
def test_a_search_that_there_is_none_of(text, message):
    with pytest.raises(UserError, match=message) as caught:
        search_of(text)
    assert str(caught.value).startswith("--search: ")


def test_several_searches_are_different_ones():
    with pytest.raises(UserError, match="one twice among tpe, tpe"):
        searches_of("tpe,{kind: tpe}")
    with pytest.raises(UserError, match="names no search"):
        searches_of("")
