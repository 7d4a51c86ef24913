"""The planner: what it chooses within a budget, what it says, what it refuses."""

import dataclasses

import pytest

from dpet_jax.errors import UserError
from dpet_jax.planner.law import SHIPPED, Level, shipped
from dpet_jax.planner.planner import (
    PLANNED,
    Budget,
    BudgetTooSmallError,
    Spend,
    StepCost,
    plan,
)

#: As measured on a CPU core, in batches of 64; compiling takes 20 s.
PARAMETERS = {0.25: 6_066, 0.5: 20_906, 0.75: 99_762, 1.0: 272_474, 1.4: 703_410}
STEP_S = {0.25: 0.00397, 0.5: 0.00512, 0.75: 0.01146, 1.0: 0.0206, 1.4: 0.0598}
COMPILE_S = {0.25: 24.0, 0.5: 23.0, 0.75: 26.0, 1.0: 19.0, 1.4: 27.0}
COSTS = {
    (scale, 64): StepCost(
        seconds,
        PARAMETERS[scale],
        compiling=Spend(COMPILE_S[scale]),
        evaluating=Spend(2.0),
    )
    for scale, seconds in STEP_S.items()
}
#: The same with 30 W while training and 10 W otherwise.
METERED = {
    key: dataclasses.replace(cost, joules=30 * cost.seconds)
    for key, cost in COSTS.items()
}


def planned(costs=COSTS, **options):
    budget = {
        name: options.pop(name)
        for name in ("seconds", "wh", "epochs", "target")
        if name in options
    }
    return plan(Budget(**budget), costs, num_train=10_000, **options)


def row(found, scale, batch=64):
    (one,) = [c for c in found.table if (c.scale, c.batch_size) == (scale, batch)]
    return one


def test_visits_are_what_the_budget_leaves_for_training():
    found = planned(seconds=60)
    assert found.scale == 0.5
    left = PLANNED * 60 - 23 - 2
    assert found.steps == int(left / 0.00512)
    assert found.visits == 64 * found.steps
    assert found.epochs == found.visits / 10_000
    assert found.seconds == pytest.approx(25 + found.steps * 0.00512)
    assert found.seconds <= PLANNED * 60
    assert found.wh is None
    assert found.drop == "auto"


@pytest.mark.parametrize("seconds", [40.0, 60.0, 600.0, 6_000.0, 60_000.0])
def test_the_choice_has_the_largest_score(seconds):
    found = planned(seconds=seconds)
    scores = {
        scale: SHIPPED.score(
            64 * int((PLANNED * seconds - COMPILE_S[scale] - 2) / each),
            PARAMETERS[scale],
        )
        for scale, each in STEP_S.items()
    }
    assert found.scale == max(scores, key=lambda scale: scores[scale])
    assert row(found, found.scale).score == pytest.approx(scores[found.scale])


def test_every_candidate_is_listed_with_a_reason():
    found = planned(seconds=60)
    assert [one.scale for one in found.table] == sorted(STEP_S)
    assert row(found, 0.5).why == "chosen"
    assert "too small" in row(found, 0.25).why
    assert "too few examples" in row(found, 1.4).why
    assert found.reasons[0].startswith("scale 0.5 sees")
    assert "level of the error on this data is not known" in " ".join(found.reasons)
    assert SHIPPED.origin in found.reasons[-1]


def test_what_was_spent_on_measuring_is_inside_the_budget():
    one = {(0.5, 64): COSTS[0.5, 64]}
    warm, cold = (planned(one, seconds=120, spent=Spend(s)) for s in (0.0, 46.0))
    assert cold.steps == pytest.approx(warm.steps - 46 / 0.00512, abs=1)
    assert cold.seconds == pytest.approx(PLANNED * 120, abs=0.00512)


def test_one_warm_and_measured_network_pays_for_its_own_compilation_alone():
    found = planned(seconds=60)
    training = found.steps * 0.00512
    overhead = found.seconds - training - COMPILE_S[0.5] - 2.0
    assert overhead < 0.01 * 60


def test_a_budget_below_every_compilation_is_refused_with_the_least_one():
    with pytest.raises(BudgetTooSmallError, match="takes the least, 21") as refused:
        planned(seconds=20)
    # scale 1 compiles fastest
    assert refused.value.least == pytest.approx((19 + 2 + 0.0206) / PLANNED)
    least = refused.value.least
    assert planned(seconds=1.001 * least).steps >= 1
    with pytest.raises(BudgetTooSmallError):
        planned(seconds=0.999 * least)


def test_the_least_budget_in_the_message_is_enough():
    with pytest.raises(BudgetTooSmallError) as refused:
        planned(seconds=1)
    told = float(str(refused.value).partition("takes the least, ")[2].split()[0])
    assert planned(seconds=told).steps >= 1


def test_a_budget_that_measuring_used_up_is_enough_the_next_time():
    with pytest.raises(BudgetTooSmallError, match="plan again") as refused:
        planned(seconds=40, spent=Spend(38.0))
    assert refused.value.least == pytest.approx((19 + 2 + 0.0206) / PLANNED)
    assert planned(seconds=40).steps > 0


def test_few_steps_are_warned_of():
    few = planned(seconds=24)
    assert few.steps < 150
    assert any("steps are few" in text for text in few.warnings)
    assert planned(seconds=60).warnings == ()


def test_resnet18_is_planned_by_a_law_of_its_own():
    found = planned(seconds=60, family="resnet18")
    assert found.law == shipped("resnet18") != SHIPPED
    assert not any("coefficients" in text for text in found.warnings)


def test_what_is_extrapolated_is_said():
    other = planned(seconds=60, family="cnn")
    assert [text for text in other.warnings if text.startswith("extrapolated")] == [
        "extrapolated: no coefficients were fitted to cnn; those of resnet20 are used"
    ]
    long = planned(seconds=6_000)
    assert any("examples, not 5,000 to 640,000" in text for text in long.warnings)


def test_the_smallest_batch_within_a_tenth_of_the_fastest_is_taken():
    costs = {
        (0.5, 64): StepCost(0.0100, 20_906),  # 6,400 images a second
        (0.5, 128): StepCost(0.0125, 20_906),  # 10,240
        (0.5, 256): StepCost(0.0240, 20_906),  # 10,667
    }
    found = planned(costs, seconds=100)
    assert found.batch_size == 128
    assert "nearly as many images" in row(found, 0.5, 256).why
    assert "more images" in row(found, 0.5, 64).why


def test_guesses_are_shown_and_not_chosen():
    costs = COSTS | {
        (0.5, 64): dataclasses.replace(
            COSTS[0.5, 64], measured=False, note="no time left for it"
        )
    }
    found = planned(costs, seconds=60)
    assert found.scale != 0.5
    assert row(found, 0.5).why == "not measured: no time left for it"


def test_energy_is_planned_from_joules_and_the_watts_of_idling():
    found = planned(METERED, wh=0.5, idle_w=10.0)
    fixed = 10 * (COMPILE_S[found.scale] + 2)
    each = 30 * STEP_S[found.scale]
    assert found.steps == int((PLANNED * 0.5 * 3600 - fixed) / each)
    assert found.wh == pytest.approx((fixed + found.steps * each) / 3600)
    assert found.wh <= PLANNED * 0.5


def test_energy_of_parts_that_were_measured_needs_no_idle_watts():
    costs = {
        key: dataclasses.replace(
            cost, compiling=Spend(20.0, 400.0), evaluating=Spend(2.0, 40.0)
        )
        for key, cost in METERED.items()
    }
    found = planned(costs, wh=0.5)
    each = 30 * STEP_S[found.scale]
    assert found.steps == int((PLANNED * 0.5 * 3600 - 440) / each)


def test_energy_without_a_meter_is_refused():
    with pytest.raises(UserError, match="cannot be planned for"):
        planned(wh=5)


def test_energy_below_what_compiling_takes_is_refused_in_wh():
    with pytest.raises(BudgetTooSmallError, match="Wh") as refused:
        planned(METERED, wh=0.01, idle_w=10.0)
    want = (10 * (19 + 2) + 30 * 0.0206) / PLANNED / 3600
    assert refused.value.least == pytest.approx(want)


def test_epochs_fix_the_examples_whatever_a_step_costs():
    found = planned(epochs=8)
    assert (found.visits, found.epochs) == (80_000, 8)
    assert found.scale == max(
        PARAMETERS, key=lambda s: SHIPPED.score(8e4, PARAMETERS[s])
    )
    assert found.seconds == pytest.approx(
        COMPILE_S[found.scale] + 2 + 1_250 * STEP_S[found.scale]
    )


def test_a_target_takes_the_cheapest_network_that_reaches_it():
    level = Level(-0.573, -0.158)
    found = planned(target=0.6, level=level)
    aim = SHIPPED.aim(0.6)
    assert aim == pytest.approx(0.6 + 0.0085, abs=1e-4)
    assert found.accuracy == pytest.approx(aim, abs=1e-4)
    seconds = {
        scale: COMPILE_S[scale]
        + 2
        + STEP_S[scale] * SHIPPED.visits_to(level.score(aim), PARAMETERS[scale]) / 64
        for scale in STEP_S
    }
    assert found.scale == min(seconds, key=lambda scale: seconds[scale])
    assert found.seconds == pytest.approx(seconds[found.scale], abs=0.1)


def test_a_target_without_a_level_is_refused():
    with pytest.raises(UserError, match="level of the error on this data is not known"):
        planned(target=0.6)


def test_an_accuracy_is_predicted_where_runs_have_fixed_the_level():
    level = Level(-0.573, -0.158)
    found = planned(seconds=60, level=level)
    score = SHIPPED.score(found.visits, PARAMETERS[found.scale])
    assert found.accuracy == pytest.approx(level.accuracy(score))
    assert "points of accuracy" in found.reasons[1]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "one of"),
        ({"seconds": 1, "wh": 1}, "one of"),
        ({"seconds": 0}, "above 0"),
        ({"wh": -1.0}, "above 0"),
        ({"epochs": float("nan")}, "above 0"),
        ({"seconds": float("inf")}, "above 0"),
        ({"target": 1}, "share below 1"),
    ],
)
def test_budgets_that_are_none_are_refused(given, match):
    with pytest.raises(UserError, match=match):
        Budget(**given)
