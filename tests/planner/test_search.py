"""What is measured for a plan: the best by a guess, then what could be better."""

import functools
from dataclasses import replace

import pytest

from dpet_jax.errors import UserError
from dpet_jax.planner.law import SHIPPED, Level
from dpet_jax.planner.planner import (
    Budget,
    BudgetTooSmallError,
    Spend,
    StepCost,
    plan,
)
from dpet_jax.planner.search import Anchor, Size, explore, with_guesses

SIZES = {
    (0.25, 64): Size(6_066, 640_000),
    (0.5, 64): Size(20_906, 1_570_000),
    (0.75, 64): Size(99_762, 5_940_000),
    (1.0, 64): Size(272_474, 15_300_000),
    (1.4, 64): Size(703_410, 40_900_000),
}
FLAT = dict.fromkeys(SIZES, 0.005)
CPU = dict(zip(SIZES, (0.00397, 0.00512, 0.01146, 0.0206, 0.0598), strict=True))
ANCHOR = Anchor(1_570_000, 8e-5)


class Machine:
    """Measures networks by a table; compiling takes 20 s each."""

    def __init__(self, step_s, compile_s=20.0, watts=None):
        self.step_s, self.compile_s, self.watts = step_s, compile_s, watts
        self.asked = []

    def measure(self, key):
        self.asked.append(key)
        watts = self.watts
        return StepCost(
            self.step_s[key],
            SIZES[key].parameters,
            joules=watts and watts * self.step_s[key],
            compiling=Spend(self.compile_s, watts and watts * self.compile_s),
            measuring=Spend(self.compile_s, watts and watts * self.compile_s),
            train_flops=SIZES[key].train_flops,
        )

    def spent(self):
        seconds = self.compile_s * len(self.asked)
        return Spend(seconds, self.watts and self.watts * seconds)

    def plan(self, budget, known=None, level=None):
        def choose(costs, spent):
            return plan(budget, costs, num_train=10_000, spent=spent, level=level)

        costs = explore(
            SIZES,
            self.measure,
            choose,
            known=known or {},
            anchor=ANCHOR,
            budget=budget,
            spent=self.spent,
        )
        return choose(costs, self.spent()), costs


def test_the_best_and_its_neighbours_are_measured():
    machine = Machine(CPU, compile_s=0.1)
    found, costs = machine.plan(Budget(seconds=10))
    assert found.scale == 0.5
    assert set(machine.asked) == {(0.25, 64), (0.5, 64), (0.75, 64)}
    assert [costs[key].measured for key in SIZES] == [True, True, True, False, False]
    assert found.table[-1].why.startswith("not measured: its guess lies behind")


def test_a_machine_on_which_size_is_free_leads_to_larger_networks():
    machine = Machine(FLAT, compile_s=0.5)
    found, _ = machine.plan(Budget(seconds=60))
    assert found.scale == 1.4
    assert len(machine.asked) <= 4


def test_a_tight_budget_pays_for_one_compilation_alone():
    machine = Machine(CPU)
    found, _ = machine.plan(Budget(seconds=60))
    assert machine.asked == [(found.scale, 64)]
    others = [one.why for one in found.table if one.scale != found.scale]
    why = "not measured: measuring it would take too much of the budget"
    assert others == [why] * 4


def test_a_guess_pays_for_its_measurement_where_something_is_known():
    known = {(0.75, 64): Machine(CPU).measure((0.75, 64))}
    cheap = {key: replace(cost, compiling=Spend(1.0)) for key, cost in known.items()}
    tight, loose = Machine(CPU), Machine(CPU)
    found, _ = tight.plan(Budget(seconds=20), cheap)
    assert (found.scale, tight.asked) == (0.75, [])
    loose.plan(Budget(seconds=4000), cheap)
    assert len(loose.asked) == 2


def test_what_is_known_is_not_measured_again():
    first = Machine(CPU, compile_s=0.1)
    _, costs = first.plan(Budget(seconds=10))
    again = Machine(CPU, compile_s=0.1)
    known = {key: cost for key, cost in costs.items() if cost.measured}
    found, _ = again.plan(Budget(seconds=10), known)
    assert again.asked == []
    assert found.scale == 0.5


def test_a_budget_of_epochs_needs_one_measurement_for_its_cost():
    machine = Machine(CPU)
    found, _ = machine.plan(Budget(epochs=8))
    assert machine.asked == [(found.scale, 64)]
    assert found.seconds == pytest.approx(20 + 20 + found.steps * CPU[found.scale, 64])


def test_a_target_is_explored_by_what_it_costs():
    machine, level = Machine(CPU, compile_s=0.5), Level(-0.573, -0.158)
    found, costs = machine.plan(Budget(target=0.6), level=level)
    seconds = {
        key: SHIPPED.visits_to(level.score(0.6), SIZES[key].parameters) / 64 * each
        for key, each in CPU.items()
    }
    best = min(seconds, key=lambda key: seconds[key])
    assert (found.scale, found.batch_size) == best
    assert costs[best].measured
    assert len(machine.asked) <= 4


def test_a_target_out_of_reach_is_refused_before_anything_is_measured():
    machine = Machine(CPU)
    # error falls by e^-0.001 for a unit of g
    with pytest.raises(UserError, match="no network of the family"):
        machine.plan(Budget(target=0.999), level=Level(-0.5, -0.001))
    assert machine.asked == []


def test_energy_is_explored_as_time_is():
    machine = Machine(CPU, compile_s=0.1, watts=40.0)
    found, _ = machine.plan(Budget(wh=10 * 40 / 3600))
    assert found.scale == 0.5
    assert len(machine.asked) == 3


def test_a_budget_too_small_is_refused_after_one_measurement():
    machine = Machine(CPU)
    with pytest.raises(BudgetTooSmallError, match="too little"):
        machine.plan(Budget(seconds=0.004))
    assert len(machine.asked) == 1


def test_guesses_pass_through_what_is_measured_and_grow_with_flops():
    guess = functools.partial(with_guesses, SIZES, anchor=ANCHOR)
    machine = Machine(CPU)
    both = {key: machine.measure(key) for key in [(0.5, 64), (1.0, 64)]}
    found = guess(both)
    seconds = [found[key].seconds for key in SIZES]
    assert seconds == sorted(seconds)
    assert found[1.0, 64] is both[1.0, 64]
    # half-way between in logarithms of FLOPs would be half-way in those of seconds
    assert CPU[0.5, 64] < found[0.75, 64].seconds < CPU[1.0, 64]
    # beyond, the exponent of the family
    want = CPU[1.0, 64] * (40.9 / 15.3) ** 0.65
    assert found[1.4, 64].seconds == pytest.approx(want)
