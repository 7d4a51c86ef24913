"""The ranking law: its score, its inverse, its refit, and where it was calibrated."""

import math

import numpy as np
import pytest

from dpet_jax.planner.law import (
    SEED_NOISE,
    SHIPPED,
    Law,
    Level,
    Observation,
    fit_level,
    refit,
    steepest_level,
)


def runs(law, level, group="data", noise=0.0, seed=0):
    """Return runs that end as a law says, on a grid of examples and parameters."""
    draw = np.random.default_rng(seed)
    found = []
    for parameters in (6e3, 2e4, 1e5, 3e5, 7e5):
        for visits in (1e4, 4e4, 1.6e5, 6.4e5):
            accuracy = level.accuracy(law.score(visits, parameters))
            accuracy += noise * draw.standard_normal()
            found.append(Observation(group, visits, parameters, float(accuracy)))
    return found


def test_score_is_the_published_quadratic():
    length, size = math.log(8.0), math.log(3.0)
    want = (
        length
        - 0.039 * size
        + 0.122 * length * size
        - 0.0085 * length**2
        - 0.040 * size**2
    )
    assert SHIPPED.score(8e4, 3e5) == pytest.approx(want, abs=1e-12)
    assert SHIPPED.score(1e4, 1e5) == 0


def test_a_larger_network_pays_only_with_examples():
    few, many = 1e4, 3e5
    assert SHIPPED.score(few, 2e4) > SHIPPED.score(few, 7e5)
    assert SHIPPED.score(many, 7e5) > SHIPPED.score(many, 2e4)


@pytest.mark.parametrize("c", [-0.0085, 0.0, 0.01])
@pytest.mark.parametrize("visits", [5e3, 1e4, 6.4e5])
def test_visits_to_inverts_the_score(c, visits):
    law = Law(c=c)
    assert law.visits_to(law.score(visits, 2e4), 2e4) == pytest.approx(visits)


def test_no_number_of_examples_reaches_a_score_above_its_largest():
    law = Law(c=-0.5)
    largest = max(law.score(math.exp(x) * 1e4, 1e5) for x in np.linspace(-5, 5, 1001))
    assert law.visits_to(largest + 0.01, 1e5) is None
    assert law.visits_to(largest - 0.01, 1e5) is not None
    assert Law(c=0.0).visits_to(1e4, 1e5) is None


def test_larger_batches_see_fewer_examples_in_effect():
    law = Law(batch_size=64, critical_batch=300)
    assert law.in_effect(1e5, 64) == 1e5
    assert law.in_effect(1e5, 32) == 1e5
    assert law.in_effect(1e5, 512) == pytest.approx(
        1e5 * (1 + 64 / 300) / (1 + 512 / 300)
    )


def test_refit_finds_the_law_that_made_the_runs():
    law = Law(a=-0.1, b=0.2, c=-0.02, d=-0.06)
    made = [
        *runs(law, Level(-0.57, -0.16), "one"),
        *runs(law, Level(-1.4, -0.33), "other"),
    ]
    found = refit(made, strength=0)
    assert found.coefficients == pytest.approx(law.coefficients, abs=1e-5)
    assert found.residual < 1e-6


def test_a_ridge_holds_a_refit_of_few_noisy_runs_to_the_prior():
    made = runs(SHIPPED, Level(-0.57, -0.16), noise=0.0066)[::4][:4]
    free = refit(made, strength=0)
    held = refit(made)

    def moved(law):
        return np.abs(np.subtract(law.coefficients, SHIPPED.coefficients)).max()

    assert moved(held) < 0.02 < moved(free)
    assert moved(refit(made, strength=1e9)) < 1e-4


def test_runs_of_another_family_are_held_to_the_prior_eight_times_as_loosely():
    law = Law(a=0.1, b=0.24, c=0.03, d=-0.05)
    made = runs(law, Level(-0.57, -0.16), noise=0.0066)[::3]
    other = refit(made, family="resnet18")
    assert other.families == ("resnet18",)
    loosely = refit(made, strength=1 / 64)
    assert other.coefficients == pytest.approx(loosely.coefficients)

    def wrong(found):
        return np.abs(np.subtract(found.coefficients, law.coefficients)).max()

    assert wrong(other) < 0.04 < 0.05 < wrong(refit(made))


def test_refit_refuses_what_says_nothing():
    made = runs(SHIPPED, Level(-0.57, -0.16))
    with pytest.raises(ValueError, match="at least three runs"):
        refit(made[:2])
    with pytest.raises(ValueError, match="at least three runs"):
        refit([])
    rising = [one._replace(accuracy=1 - one.accuracy) for one in made]
    with pytest.raises(ValueError, match="does not fall"):
        refit(rising)


def test_level_is_found_from_two_runs_and_predicts_a_third():
    level = Level(-1.44, -0.34)
    made = runs(SHIPPED, level)
    found = fit_level([made[0], made[7]])
    assert found == pytest.approx(level)
    for one in made:
        score = SHIPPED.score(one.visits, one.parameters)
        assert found.accuracy(score) == pytest.approx(one.accuracy)
        assert found.score(one.accuracy) == pytest.approx(score)


def test_the_steepest_level_goes_through_its_run_and_promises_most():
    made = runs(SHIPPED, Level(-0.57, -0.16))
    short, longer = made[0], made[1]
    steep = steepest_level(short)
    scores = [SHIPPED.score(one.visits, one.parameters) for one in (short, longer)]
    assert steep.accuracy(scores[0]) == pytest.approx(short.accuracy)
    assert steep.accuracy(scores[1]) > longer.accuracy


def test_level_refuses_runs_that_fix_none():
    made = runs(SHIPPED, Level(-1.44, -0.34))
    with pytest.raises(ValueError, match="two runs"):
        fit_level(made[:1])
    with pytest.raises(ValueError, match="too much alike"):
        fit_level([made[0], made[0]])
    worse = made[3]._replace(accuracy=0.1)
    with pytest.raises(ValueError, match="does not fall"):
        fit_level([made[0], worse])


def test_what_lies_beyond_the_calibration_is_named():
    assert SHIPPED.beyond("resnet20", 1e5, 1e5) == ()
    beyond = SHIPPED.beyond("resnet18", 1e3, 1.1e7)
    assert len(beyond) == 3
    assert "resnet18" in beyond[0]
    assert "1,000 examples" in beyond[1]
    assert "11,000,000 parameters" in beyond[2]


def test_law_refuses_ranges_that_do_not_ascend():
    with pytest.raises(ValueError, match="smaller number first"):
        Law(visits=(2.0, 1.0))


def test_a_target_is_aimed_at_from_above_by_what_runs_differ_by():
    assert SHIPPED.deviation(0.5) == pytest.approx(math.hypot(0.0056, SEED_NOISE))
    assert SHIPPED.aim(0.8) == pytest.approx(0.8 + 0.8 * SHIPPED.deviation(0.5))
    assert SHIPPED.deviation(0.99) < SHIPPED.deviation(0.9) < SHIPPED.deviation(0.5)
    assert 0.9999 < SHIPPED.aim(0.9999) < 1


def test_small_networks_learn_less_beyond_what_most_runs_saw():
    small, large, many = 2e4, 3e5, 6.4e5
    plain = SHIPPED.model_copy(update={"late": 0.0})
    for visits in (1e4, many):
        assert SHIPPED.score(visits, small) == plain.score(visits, small)
    assert SHIPPED.score(4 * many, large) == plain.score(4 * many, large)
    assert SHIPPED.score(many, small) < SHIPPED.score(4 * many, small)
    assert SHIPPED.score(4 * many, small) < plain.score(4 * many, small)
    size = math.log(small / 1e5)
    length = math.log(many / 1e4) + math.log(4) / (1 - SHIPPED.late * size)
    assert SHIPPED.length(4 * many, size) == pytest.approx(length)
    score = SHIPPED.score(4 * many, small)
    assert SHIPPED.visits_to(score, small) == pytest.approx(4 * many)
