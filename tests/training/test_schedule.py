"""Learning rates, and that no change of schedule compiles anything."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpet_jax.training.compilation import compile_counts
from dpet_jax.training.schedule import (
    BUILT_IN,
    SCHEDULES,
    Constant,
    Cosine,
    Linear,
    ScheduleSection,
    Step,
    Triangular,
    learning_rate,
    schedules_with,
    traced_schedule,
)

PEAK, FINAL, HORIZON = 0.8, 0.2, 80
END = {"final_learning_rate": FINAL}
SECTIONS = {
    "constant": Constant(),
    "linear": Linear(**END),
    "cosine": Cosine(**END),
    "triangular": Triangular(start_fraction=0.125, peak_at=0.25, **END),
    "step": Step(every=0.25, factor=0.5),
}


@jax.jit
def rates_of(schedule, visits):
    return jax.vmap(lambda visit: learning_rate(schedule, visit))(visits)


def rates(section, visits, *, cyclic=False):
    schedule = traced_schedule(section, PEAK)
    schedule = schedule._replace(horizon=np.float32(HORIZON), cyclic=np.bool_(cyclic))
    return rates_of(*jax.device_put((schedule, np.asarray(visits, np.int32))))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.725, 0.65, 0.5, 0.2, 0.2]),
        ("cosine", [0.8, 0.777164, 0.712132, 0.5, 0.2, 0.2]),
        ("triangular", [0.1, 0.45, 0.8, 0.6, 0.2, 0.2]),
        ("step", [0.8, 0.8, 0.4, 0.2, 0.1, 0.1]),
    ],
)
def test_rates_at_start_rise_peak_middle_end_and_past_it(kind, expected):
    got = rates(SECTIONS[kind], [0, 10, 20, 40, 80, 200])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.dtype == jnp.float32


def test_cyclic_cosine_climbs_and_falls_as_pytorchs_closed_form():
    visits = np.arange(0, 4 * HORIZON + 1, 7)
    expected = FINAL + (PEAK - FINAL) * (1 + np.cos(np.pi * visits / HORIZON)) / 2
    got = rates(SECTIONS["cosine"], visits, cyclic=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_step_falls_at_whole_stretches_that_no_float_has_exactly():
    # StepLR of 30 visits a stretch, over 90
    for size in (30, 7, 1):
        section, visits = Step(every=1 / 3), np.arange(3 * size + 5)
        schedule = traced_schedule(section, PEAK)
        schedule = schedule._replace(horizon=np.float32(3 * size))
        got = rates_of(*jax.device_put((schedule, visits.astype(np.int32))))
        expected = PEAK * 0.1 ** np.minimum(visits // size, 2)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "linear", "triangular"])
def test_no_schedule_but_the_cosine_is_cyclic(kind):
    late = [3 * HORIZON]
    last = PEAK if kind == "constant" else FINAL
    got = rates(SECTIONS[kind], late, cyclic=True)
    np.testing.assert_allclose(got, [last], rtol=1e-5)


def test_one_compilation_serves_all_schedules_and_their_numbers():
    visits = np.arange(5)
    rates(Constant(), visits)
    before = compile_counts().programs
    for section in (*SECTIONS.values(), Linear(horizon="method"), Cosine(horizon=3)):
        assert schedules_with(section) == BUILT_IN
        rates(section, visits, cyclic=True)
    assert compile_counts().programs == before


def test_schedule_is_chosen_without_a_branch_that_waits_for_the_host():
    schedule = traced_schedule(Triangular(), PEAK)
    traced = jax.make_jaxpr(learning_rate)(schedule, np.int32(3))
    assert "cond[" not in str(traced)


def test_every_schedule_of_the_list_is_compiled_in_with_its_name():
    names = [member.kind for member in BUILT_IN]
    assert names == [schedule().kind for schedule in SCHEDULES]
    assert set(names) == set(SECTIONS)


class Steps(ScheduleSection):
    """A user's own: the rate falls at milestones, which are compiled in."""

    milestones: tuple[float, ...]
    factor: float
    horizon: Literal["plan"] | float = "plan"

    def rate(self, peak: Any, progress: Any) -> Any:
        passed = jnp.sum(progress >= jnp.array(self.milestones))
        return peak * self.factor ** passed.astype(jnp.float32)


def test_schedule_of_the_users_own_is_compiled_in_beside_the_others():
    section = Steps(milestones=(0.5, 0.75), factor=0.1, horizon=3.0)
    members = schedules_with(section)
    assert members[:-1] == BUILT_IN
    # numbers and the horizon are arguments, milestones are not
    assert members == schedules_with(Steps(milestones=(0.5, 0.75), factor=0.3))
    assert members != schedules_with(Steps(milestones=(0.5,), factor=0.1))
    schedule = traced_schedule(section, 1.0)
    got = [
        float(learning_rate(schedule, jnp.array(visit, jnp.int32), members))
        for visit in (0, 1)
    ]
    np.testing.assert_allclose(got, [1.0, 0.01], rtol=1e-5)
